"""Suspend refused credentials: how each credential fares with each server that it was sent to.

A registry locks an account after some wrong passwords. So a refused credential is sent to that server again
only after 1 s, 2 s, 4 s and so on up to 5 minutes. A changed credential has a standing of its own.

Servers also refuse valid credentials, for one repository. Hence each credential has a standing with a server,
and one for each scope there (a repository, or what a token is for):

- Until a server has accepted it, any refusal suspends the whole credential: it is likely to be wrong.
- Once accepted, a refusal suspends the whole credential only in a scope that had accepted it before: a
  password was changed. In any other scope only that scope is suspended, and all others go on.
- A scope that suspended a credential which other scopes still accept (access to one repository was lost) can
  do so only once.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from msgspec import Struct

from regproxy.core.lru import Bounded

FIRST_REST: Final = 1.0  # seconds
LONGEST_REST: Final = 300.0
FORGOTTEN_AFTER: Final = 600.0  # seconds after the end of a rest
DOUBTS_MAX: Final = 2
# in which many requests may send an accepted login at once: its password may change
PROOF_SECONDS: Final = 10.0
ENTRIES: Final = 1024
SCOPES: Final = 4096


class _Standing(Struct):
    failures: int
    rest: float
    until: float
    reason: str
    scope: Hashable = None
    others: bool = False  # a request was turned away meanwhile, in another scope


class Rest(Struct, frozen=True):
    """The result of a refusal: seconds, for the `whole` credential or for one scope alone."""

    seconds: float
    whole: bool


class Standings:
    """Standings of credentials. A key is a credential and a server; times are a monotonic clock's."""

    __slots__ = ("_alone", "_doubts", "_entries", "_held", "_mistaken", "_proven", "_taken")

    def __init__(self) -> None:
        self._entries: Bounded[Hashable, _Standing] = Bounded(ENTRIES)
        self._proven: Bounded[Hashable, float] = Bounded(ENTRIES)  # when it was last accepted
        self._doubts: Bounded[Hashable, int] = Bounded(ENTRIES)  # scopes refused since it was last accepted
        self._held: Bounded[Hashable, _Standing] = Bounded(ENTRIES)
        # By key and scope.
        self._alone: Bounded[tuple[Hashable, Hashable], _Standing] = Bounded(SCOPES)
        self._taken: Bounded[tuple[Hashable, Hashable], bool] = Bounded(SCOPES)
        self._mistaken: Bounded[tuple[Hashable, Hashable], bool] = Bounded(SCOPES)

    def rests(self, key: Hashable, now: float, scope: Hashable = None) -> float:
        """Return for how many more seconds it must not be sent for a scope (None: any); 0.0: it may be."""
        rest = 0.0 if scope is None else _left(self._alone.get((key, scope)), now)
        entry = self._entries.get(key)
        if entry is None:
            return rest
        if now < entry.until:
            entry.others = entry.others or scope not in (None, entry.scope)
            return max(rest, entry.until - now)
        if entry.others and scope is not None and scope == entry.scope:
            # The scope that was refused, and retries again and again, waits for the others to go first.
            return max(rest, entry.until + entry.rest - now)
        return rest

    def reason(self, key: Hashable, scope: Hashable = None) -> str:
        """Return why it is suspended, "" if it isn't."""
        entries = [
            each for each in (self._entries.get(key), self._alone.get((key, scope))) if each is not None
        ]
        return max(entries, key=lambda entry: entry.until).reason if entries else ""

    def refused(
        self,
        key: Hashable,
        reason: str,
        now: float,
        scope: Hashable = None,
        *,
        alone: bool = False,
        whole: bool = False,
    ) -> Rest:
        """Record a refusal. One that arrives during a rest belongs to the same attempt.

        `alone`: it says nothing about a credential accepted elsewhere, whatever the scope. `whole`: it is
        about the credential, whatever was accepted before.
        """
        whole = whole or not self.proven(key) or (not alone and self._judges(key, scope))
        self._taken.drop((key, scope))
        if whole:
            self._proven.drop(key)
            self._entries.put(key, entry := _again(self._entries.get(key), reason, now, scope))
        else:
            place = (key, scope)
            if self._alone.get(place) is None:
                self._doubts.put(key, (self._doubts.get(key) or 0) + 1)
            self._alone.put(place, entry := _again(self._alone.get(place), reason, now, scope))
        return Rest(entry.until - now, whole)

    def accepted(self, key: Hashable, now: float, scope: Hashable = None) -> None:
        """Record that it was accepted: past refusals no longer count."""
        entry = self._entries.get(key)
        if entry is not None:
            if entry.scope != scope:
                self._mistaken.put((key, entry.scope), True)
            self._entries.drop(key)
        self._alone.drop((key, scope))
        self._doubts.drop(key)
        self._held.drop(key)
        self._proven.put(key, now)
        self._taken.put((key, scope), True)

    def proven(self, key: Hashable) -> bool:
        """Tell whether it was accepted, and not refused as a whole since."""
        return self._proven.get(key) is not None

    def failed(self, key: Hashable) -> bool:
        """Tell whether it was refused as a whole, and not accepted since."""
        return self._entries.get(key) is not None

    def fresh(self, key: Hashable, now: float) -> bool:
        """Tell whether it was accepted a moment ago, and not refused as a whole since."""
        taken = self._proven.get(key)
        return taken is not None and now < taken + PROOF_SECONDS

    def doubtful(self, key: Hashable, scope: Hashable) -> bool:
        """Tell whether scopes were refused since it was last accepted, and it was never accepted for this
        one.

        Its password may have changed, or a client asks for what does not exist: the next scope must not be
        another attempt before that is settled.
        """
        doubts = self._doubts.get(key) or 0
        return doubts >= DOUBTS_MAX and self._taken.get((key, scope)) is None

    def took(self, key: Hashable, scope: Hashable) -> bool:
        """Tell whether it was accepted for a scope, and not refused there since."""
        return self._taken.get((key, scope)) is not None

    def hold(self, key: Hashable, now: float) -> float:
        """Return for how many seconds a doubtful credential may not be tried in a new scope; 0.0: this one
        may try.

        One scope may try after 1 s, 2 s, 4 s and so on, until the credential is accepted for any.
        """
        entry = self._held.get(key)
        if entry is None or now >= entry.until:
            self._held.put(key, _again(entry, "", now, None))
            return 0.0
        return entry.until - now

    def _judges(self, key: Hashable, scope: Hashable) -> bool:
        place = (key, scope)
        return self._taken.get(place) is not None and self._mistaken.get(place) is None


def _left(entry: _Standing | None, now: float) -> float:
    return 0.0 if entry is None else max(0.0, entry.until - now)


def _again(entry: _Standing | None, reason: str, now: float, scope: Hashable) -> _Standing:
    """Return an entry after one more refusal."""
    if entry is not None and now < entry.until:
        return entry
    fresh = entry is None or now > entry.until + FORGOTTEN_AFTER
    failures = 1 if entry is None or fresh else entry.failures + 1
    rest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(failures - 1, 16))
    return _Standing(failures, rest, now + rest, reason, scope)
