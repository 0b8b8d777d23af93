"""Decide which of the digests that were seen under a tag has been there for long enough.

A tag that is moved to something malicious is usually moved back within days. So a rule may want a digest to
have been seen under its tag for some time; until then, the one before it is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

SEEN_MAX: Final = 32  # digests that are remembered for each tag
NOTED_EVERY: Final = 86_400.0  # seconds after which it is noted again that a digest is still the tag's


class Seen(Struct, frozen=True):
    """A digest that was seen under a tag. Times: epoch.

    `first_at`: when for the first time; `last_at`: when it was last found to be the tag's, to within a day.
    `first`: nothing else was known of the tag then.
    """

    digest: str
    first_at: float
    last_at: float
    first: bool


def settled(
    history: Sequence[Seen],
    current: str,
    *,
    age: float,
    now: float,
    first_sight: Literal["allow", "deny"] = "allow",
    at_once: Iterable[str] = (),
) -> str:
    """Return the digest to serve for a tag that is `current` now, "" if none is old enough.

    That is the current one, if it has been known under the tag for `age` seconds; else the one that was the
    tag's last, of those that have. A time in the future (the clock was set back) is no age.
    """
    listed = frozenset(at_once)
    if first_sight == "allow":
        listed |= _firsts(history)

    def is_old(seen: Seen) -> bool:
        return seen.digest in listed or 0 <= age <= now - seen.first_at

    if current in listed:
        return current
    old = [seen for seen in history if is_old(seen)]
    if any(seen.digest == current for seen in old):
        return current
    return max(old, key=lambda seen: (seen.last_at, seen.first_at)).digest if old else ""


def _firsts(history: Sequence[Seen]) -> frozenset[str]:
    """Return the digests that were there before all others of a history.

    One that clients of another kind have seen first is no such digest for those who have seen another before:
    else whoever asks in an unusual way just after a move would let all others have what is new.
    """
    start = min((seen.first_at for seen in history), default=0.0)
    return frozenset(seen.digest for seen in history if seen.first and seen.first_at <= start)


def old_enough_at(history: Sequence[Seen], current: str, age: float) -> float:
    """Return when the current digest will have been known for `age` seconds, epoch; 0: it is not known."""
    return next((seen.first_at + age for seen in history if seen.digest == current), 0.0)


def noted(
    history: Sequence[Seen],
    others: Sequence[Seen],
    digest: str,
    *,
    age: float,
    now: float,
    replaced: bool = False,
) -> Seen | None:
    """Return what to remember of a digest that is a tag's now, None if nothing new.

    `history`: what was seen under the tag by requests that may get the same answers; `others`: by those that
    may not. `age`: the highest that a rule wants. `replaced`: among the others is another digest of the very
    same kind of manifest, so the tag has been moved since, nobody knows when.
    """
    known = next((seen for seen in history if seen.digest == digest), None)
    if known is None:
        # Whoever asks for another kind of manifest sees the tag for the first time, too, unless it has just
        # been moved.
        moved = replaced or any(not seen.first and now - seen.first_at < age for seen in others)
        return Seen(digest, now, now, not history and not moved)
    latest = max(history, key=lambda seen: seen.last_at)
    if latest.digest == digest and 0 <= now - known.last_at < NOTED_EVERY:
        return None
    return Seen(digest, known.first_at, now, known.first)


def kept(history: Sequence[Seen], *, age: float, now: float) -> list[Seen]:
    """Return what of a long history still matters, SEEN_MAX at most.

    Of those that are old enough for every rule, only the one that was the tag's last is ever served. Of the
    others the youngest are left out: they are to wait again when the tag comes back to them.
    """
    firsts = _firsts(history)
    old = [seen for seen in history if seen.digest in firsts or now - seen.first_at >= age]
    latest = max(old, key=lambda seen: (seen.last_at, seen.first_at), default=None)
    young = sorted((seen for seen in history if seen not in old), key=lambda seen: seen.first_at)
    return [*([latest] if latest is not None else []), *young][:SEEN_MAX]
