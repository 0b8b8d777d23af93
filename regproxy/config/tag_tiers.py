"""Assign tags to tiers, which set how long they are fresh, by regular expressions written for PCRE.

A tier's expression is matched from the start of the tag and is not anchored at its end, case matters, and
only match or no match counts. RE2 does the matching, since tags come from clients and RE2 takes time linear
in the tag; Python's `re` runs expressions that RE2 does not support (look-around, back references, possessive
and atomic groups). PCRE spellings that both lack are rewritten first (values.pcre).
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

from regproxy.config.values.pcre import translate
from regproxy.core.errors import ConfigError

TierName = Literal["manifest-primary", "manifest-secondary", "manifest-default"]

TAG_MAX = 128  # OCI distribution spec, "Pulling manifests": [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
_KNOWN_TAGS = 4_096
# Lists that grow while their names stay: referrers (OCI distribution spec, "Referrers Tag Schema"), and
# cosign's signatures and attestations.
_LISTS = re.compile(r"sha(?:256|384|512)-[0-9a-f]{64,}(?:[._-].*)?", re.IGNORECASE)


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
