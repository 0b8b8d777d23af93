"""Fill in the files of regproxy/onboarding/templates.

`@NAME@` is a value; a line `#@ include FILE` is that file's text. A placeholder without a value is an error:
nothing half filled in ever reaches a shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

_VALUE: Final = re.compile(r"@([A-Z][A-Z0-9_]*)@")
_INCLUDE: Final = re.compile(r"^#@ include (\S+)\n", re.MULTILINE)


@cache
def text_of(name: str) -> str:
    """Return a template with what it includes."""
    source = (resources.files("regproxy.onboarding") / "templates" / name).read_text("utf-8")
    return _INCLUDE.sub(lambda match: text_of(match[1]), source)


def fill(name: str, values: Mapping[str, str]) -> str:
    """Return a template with its values; those that it does not name are left out. Raises KeyError."""
    return _VALUE.sub(lambda match: values[match[1]], text_of(name))
