"""Patterns for repositories: `*` stands for any characters within a component, `**` for any at all."""

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
