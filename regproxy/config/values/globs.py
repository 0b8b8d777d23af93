"""Patterns of two kinds, compiled once.

Of repositories, which have components: `*` stands for any characters within one, `**` for any at all. Of
texts without components, such as hosts, tags and names of clients: `*` stands for any characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

_PIECE = re.compile(r"\*\*|\*|\?|[^*?]+")
_MEANS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_ALLOWED = re.compile(r"[A-Za-z0-9._/*?-]+")


def parse_glob(text: str) -> str:
    """Return a pattern as it is, if it can match a repository. Raises ValueError."""
    if not _ALLOWED.fullmatch(text) or "***" in text or text.startswith("/") or text.endswith("/"):
        raise ValueError(f"{text!r}: a repository such as team/app, with * within a component or ** for any")
    return text


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a name matches a pattern of parse_glob()."""
    pieces = (_MEANS.get(piece) or re.escape(piece) for piece in _PIECE.findall(pattern))
    match = re.compile("".join(pieces)).fullmatch
    return lambda name: match(name) is not None


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Return whether a name matches one of these patterns."""
    return any(compile_glob(pattern)(name) for pattern in patterns)


def matches_any_text(patterns: Iterable[str], text: str) -> bool:
    """Return whether a text without components matches one of these; `*` and `?` are any characters."""
    return any(_compile_text_glob(pattern)(text) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compile_text_glob(pattern: str) -> Callable[[str], bool]:
    means = {"*": ".*", "?": "."}
    match = re.compile("".join(means.get(each) or re.escape(each) for each in pattern), re.DOTALL).fullmatch
    return lambda text: match(text) is not None
