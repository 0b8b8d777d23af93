"""Assign tags to tiers, which set how long they are fresh, by regular expressions written for PCRE.

A tier's expression is matched from the start of the tag and is not anchored at its end, case matters, and
only match or no match counts. RE2 does the matching, since tags come from clients and RE2 takes time linear
in the tag; Python's `re` runs expressions that RE2 does not support (look-around, back references, possessive
and atomic groups). PCRE spellings that both lack are rewritten first.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import re2  # type: ignore[import-untyped]
from msgspec import Struct

from regproxy.core.errors import ConfigError

TierName = Literal["manifest-primary", "manifest-secondary", "manifest-default"]

TAG_MAX = 128  # OCI distribution spec, "Pulling manifests": [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
_KNOWN_TAGS = 4_096
# Lists that grow while their names stay: referrers (OCI distribution spec, "Referrers Tag Schema"), and
# cosign's signatures and attestations.
_LISTS = re.compile(r"sha(?:256|384|512)-[0-9a-f]{64,}(?:[._-].*)?", re.IGNORECASE)

# PCRE without UCP: ASCII only. The content of each class, for use between brackets.
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t-\r ",
    "upper": "A-Z",
    "word": "0-9A-Z_a-z",
    "xdigit": "0-9A-Fa-f",
}
_POSIX_CLASS = re.compile(r"\[:(\^?)(\w*):\]")

# Escapes that RE2 or re lacks: their replacements outside brackets, and within (None: none).
_ESCAPES: dict[str, tuple[str, str | None]] = {
    "h": (r"[\t ]", r"\t "),
    "H": (r"[^\t ]", None),
    "v": (r"[\n-\r]", r"\n-\r"),
    "N": (r"[^\n]", None),
    "e": (r"\x1b", r"\x1b"),
    # \K moves the reported start of the match, and nothing is reported here.
    "K": ("", None),
}
_SPECIAL = frozenset(r"\.+*?()|[]{}^$-&~")

_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_NAMED_REFERENCE = re.compile(r"\\[kg](?:<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)'|\{([A-Za-z_]\w*)\})", re.ASCII)
_NUMBERED_REFERENCE = re.compile(r"\\g(?:([1-9][0-9]?)|\{([1-9][0-9]?)\})")
_NAMED_GROUP = re.compile(r"\(\?(?:<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)')", re.ASCII)
_COMMENT = re.compile(r"\(\?#[^)]*\)")
_QUANTIFIER = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")
_PROPERTY = re.compile(r"\\[pP](?:[A-Z]|\{\^?\w+\})", re.ASCII)
_QUOTED = re.compile(r"""\\([\\"'])""")


@dataclass(frozen=True, slots=True)
class Matcher:
    """A compiled expression; `engine` is the one that runs it. Equal if expression and engine are."""

    regex: str
    engine: Literal["re2", "re"]
    _match: Callable[[str], bool] = field(repr=False, compare=False)

    def __call__(self, tag: str) -> bool:
        """Return whether the expression matches at the start of `tag`, of any length and any characters."""
        return self._match(tag)


class Tier(Struct, frozen=True):
    """A tier: its name in answers, seconds to live, and the pattern of its tags (None: every tag).

    `swr`: for how many seconds after that a copy is served at once while it is revalidated (RFC 5861 3).
    """

    name: TierName
    ttl: float
    pattern: Matcher | None = None
    swr: float = 0.0


class Tiers:
    """The tiers in their order, the last of which takes every tag.

    A tag that is named after a digest is a list of what belongs to that, and of the tier with the shortest
    time.
    """

    __slots__ = ("_known", "_tiers")

    def __init__(self, tiers: Iterable[Tier]) -> None:
        self._tiers = tuple(tiers)
        if not self._tiers or self._tiers[-1].pattern is not None:
            raise ValueError("the last tier must take every tag")
        self._known = lru_cache(maxsize=_KNOWN_TAGS)(self._first)

    def match(self, tag: str) -> Tier:
        """Return the first tier that matches `tag`; cached for tags of a length that the spec allows."""
        return self._known(tag) if len(tag) <= TAG_MAX else self._first(tag)

    def _first(self, tag: str) -> Tier:
        if _LISTS.fullmatch(tag):
            return min(self._tiers, key=lambda tier: tier.ttl)
        for tier in self._tiers:
            if tier.pattern is None or tier.pattern(tag):
                return tier
        raise AssertionError("the last tier takes every tag")


def compile_tier(regex: str, variable: str = "manifest cache regex") -> tuple[Matcher, str | None]:
    """Return the matcher of a PCRE expression, and a warning if RE2 can't run it.

    Raises ConfigError, which names `variable`, if neither RE2 nor `re` accepts the expression.
    """
    try:
        return Matcher(regex, "re2", _compile_re2(regex)), None
    except (re2.error, ValueError) as error:
        reason = _reason(error)
    try:
        matcher = Matcher(regex, "re", _compile_re(regex))
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        expected = f"a regular expression that RE2 or Python's re takes (RE2: {reason}; re: {_reason(error)})"
        raise ConfigError(variable, regex, expected) from None
    notice = "Python's re runs it instead, and a hostile tag can make that slow"
    return matcher, f"{variable}={regex!r}: RE2 can't take it ({reason}); {notice}"


def _compile_re2(regex: str) -> Callable[[str], bool]:
    options = re2.Options()
    options.log_errors = False  # else RE2 writes to standard error by itself
    options.never_capture = True
    match = re2.compile(translate(regex, end=r"\z"), options).match
    # Bytes save RE2's wrapper the conversion to character offsets; a lone surrogate has no strict encoding.
    return lambda tag: match(tag.encode("utf-8", "surrogatepass")) is not None


def _compile_re(regex: str) -> Callable[[str], bool]:
    with warnings.catch_warnings():
        # "Possible nested set" and its kin announce a syntax that PCRE does not have.
        warnings.simplefilter("ignore", FutureWarning)
        match = re.compile(translate(regex, end=r"\Z"), re.ASCII).match
    return lambda tag: match(tag) is not None


def _reason(error: Exception) -> str:
    """Return an engine's error message as text; RE2's are bytes."""
    first = error.args[0] if error.args else type(error).__name__
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(error)


def nginx_unescaped(regex: str) -> str:
    r"""Return an expression as nginx's regex engine gets it from its configuration, where `\\d` is `\d`.

    No name of a tag or host has a backslash or a quote in it.
    """
    return _QUOTED.sub(r"\1", regex)


def translate(regex: str, end: str) -> str:
    """Return the expression with PCRE's own spellings replaced by those that RE2 and `re` share.

    `end` is the engine's escape for the very end of the text. Anything unknown here is left unchanged, for
    the engine to judge. Raises ValueError for a POSIX class that does not exist.
    """
    out: list[str] = []
    pos = 0
    while pos < len(regex):
        char = regex[pos]
        if char == "\\":
            text, pos = _escape(regex, pos, end)
        elif char == "[":
            text, pos = _brackets(regex, pos)
        elif char == "(":
            text, pos = _group(regex, pos)
        elif char == "{" and not _QUANTIFIER.match(regex, pos):
            # PCRE takes {,3} literally; re would read it as {0,3}.
            text, pos = r"\{", pos + 1
        else:
            text, pos = char, pos + 1
        out.append(text)
    return "".join(out)


def _escape(regex: str, pos: int, end: str) -> tuple[str, int]:
    """Return the replacement of the escape at `pos`, outside brackets, and where the escape ends."""
    if found := _NAMED_REFERENCE.match(regex, pos):
        return f"(?P={found[1] or found[2] or found[3]})", found.end()
    if found := _NUMBERED_REFERENCE.match(regex, pos):
        return rf"(?:\{found[1] or found[2]})", found.end()
    letter = regex[pos + 1 : pos + 2]
    if letter in ("z", "Z"):
        return end, pos + 2
    if letter in _ESCAPES:
        return _ESCAPES[letter][0], pos + 2
    return _literal_escape(regex, pos)


def _literal_escape(regex: str, pos: int) -> tuple[str, int]:
    r"""Return what stands for `\Q...\E`, `\x{...}` or any other escape, in brackets or out."""
    letter = regex[pos + 1 : pos + 2]
    if letter == "Q":
        stop = regex.find("\\E", pos)
        stop = len(regex) if stop < 0 else stop
        return _quote(regex[pos + 2 : stop]), stop + 2
    if letter == "E":
        return "", pos + 2
    if found := _PROPERTY.match(regex, pos):
        return found[0], found.end()
    if (found := _HEX.match(regex, pos)) and int(found[1], 16) <= 0x10FFFF:
        return _quote(chr(int(found[1], 16))), found.end()
    return regex[pos : pos + 2], pos + 2


def _quote(text: str) -> str:
    """Return an expression for exactly this text, in brackets or out."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


def _brackets(regex: str, pos: int) -> tuple[str, int]:
    """Return the replacement of the bracket expression that opens at `pos`, and where the expression ends."""
    out = ["["]
    pos += 1
    if regex.startswith("^", pos):
        out.append("^")
        pos += 1
    first = pos
    while pos < len(regex):
        char = regex[pos]
        if char == "]" and pos > first:
            return "".join([*out, "]"]), pos + 1
        if found := _POSIX_CLASS.match(regex, pos):
            text, pos = _posix(found[2], negated=bool(found[1])), found.end()
        elif char == "\\":
            inside = _ESCAPES.get(regex[pos + 1 : pos + 2], ("", None))[1]
            text, pos = _literal_escape(regex, pos) if inside is None else (inside, pos + 2)
        else:
            text, pos = f"\\{char}" if char in "[]" else char, pos + 1
        out.append(text)
    return "".join(out), pos


def _posix(name: str, *, negated: bool) -> str:
    """Return the ranges of a POSIX class, or of all other characters if negated."""
    if name not in _POSIX:
        raise ValueError(f"no POSIX class is named {name!r}")
    if not negated:
        return _POSIX[name]
    inside = re.compile(f"[{_POSIX[name]}]")
    rest = "".join(rf"\x{code:02x}" for code in range(128) if not inside.match(chr(code)))
    return rest + "\x80-\U0010ffff"


def _group(regex: str, pos: int) -> tuple[str, int]:
    """Return the replacement of the opening of a group, or of a comment, and where it ends."""
    if found := _COMMENT.match(regex, pos):
        return "", found.end()
    if found := _NAMED_GROUP.match(regex, pos):
        return f"(?P<{found[1] or found[2]}>", found.end()
    return "(", pos + 1
