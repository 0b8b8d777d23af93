"""How credentials fare with the servers that they were shown to: one that is refused rests for a while.

A registry locks an account after some wrong passwords. So whoever refuses a credential is shown it again only
after 1 s, 2 s, 4 s and so on up to 5 minutes. A credential that changes has a standing of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from regproxy.bounded import Bounded

FIRST_REST: Final = 1.0  # seconds
LONGEST_REST: Final = 300.0
FORGOTTEN_AFTER: Final = 600.0  # seconds after a rest's end
ENTRIES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Standing:
    failures: int
    until: float
    reason: str


class Standings:
    """Rests of credentials. A key says which credential and which server; times are a monotonic clock's."""

    __slots__ = ("_entries", "_proven")

    def __init__(self) -> None:
        self._entries: Bounded[Hashable, _Standing] = Bounded(ENTRIES)
        self._proven: Bounded[Hashable, bool] = Bounded(ENTRIES)

    def rests(self, key: Hashable, now: float) -> float:
        """Return for how many seconds more it must not be shown; 0.0: it may be."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else max(0.0, entry.until - now)

    def reason(self, key: Hashable) -> str:
        """Return why it rests, "" where it doesn't."""
        entry = self._entries.get(key)
        return "" if entry is None else entry.reason

    def refused(self, key: Hashable, reason: str, now: float) -> float:
        """Enter a refusal and return the seconds of rest. One that comes during a rest is of the same try."""
        entry = self._entries.get(key)
        self._proven.drop(key)
        if entry is not None and now < entry.until:
            return entry.until - now
        fresh = entry is None or now > entry.until + FORGOTTEN_AFTER
        failures = 1 if entry is None or fresh else entry.failures + 1
        rest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(failures - 1, 16))
        self._entries.put(key, _Standing(failures, now + rest, reason))
        return rest

    def accepted(self, key: Hashable) -> None:
        """It was taken: past refusals don't count any more."""
        self._entries.drop(key)
        self._proven.put(key, True)

    def proven(self, key: Hashable) -> bool:
        """Tell whether it was taken, and not refused since."""
        return self._proven.get(key) is not None
