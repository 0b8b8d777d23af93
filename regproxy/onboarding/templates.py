"""Fill in the files of regproxy/onboarding/templates.

`@NAME@` is a value; a line `#@ include FILE` is that file's text; what is between the lines `#@ each` and
`#@ end` is there once for each registry, which is @REGISTRY@; of `#@ each with port` and `#@ each without
port`, for each of those. A placeholder without a value is an error: nothing half filled in ever reaches a
shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Final

_VALUE: Final = re.compile(r"@([A-Z][A-Z0-9_]*)@")
_INCLUDE: Final = re.compile(r"^#@ include (\S+)\n", re.MULTILINE)
_EACH: Final = re.compile(r"^#@ each( with port| without port)?\n(.*?)^#@ end\n", re.MULTILINE | re.DOTALL)


@cache
def text_of(name: str) -> str:
    """Return a template with what it includes."""
    source = (resources.files("regproxy.onboarding") / "templates" / name).read_text("utf-8")
    return _INCLUDE.sub(lambda match: text_of(match[1]), source)


def fill(name: str, values: Mapping[str, str], registries: Iterable[str]) -> str:
    """Return a template with its values; those that it does not name are left out. Raises KeyError."""
    every = tuple(registries)
    ported = tuple(registry for registry in every if ":" in registry)
    bare = tuple(registry for registry in every if ":" not in registry)
    which = {None: every, " with port": ported, " without port": bare}
    text = _EACH.sub(
        lambda match: "".join(match[2].replace("@REGISTRY@", registry) for registry in which[match[1]]),
        text_of(name),
    )
    return _VALUE.sub(lambda match: values[match[1]], text)
