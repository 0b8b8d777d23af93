"""Count the uses of many names, such as images or clients, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from regproxy.dataplane.tally import Use

NAMES_MAX: Final = 1000  # names that are kept when there are more

# Times, bytes sent, and those of them that were not fetched for it.
Counts = tuple[int, int, int]
K = TypeVar("K")


def _references(uses: dict[int, Use]) -> int:
    """Return how many references to the last of some uses there are while they are gone through."""
    count = 0
    for _key, use in list(uses.items()):
        count = sys.getrefcount(use)
    return count


_ALONE: Final = _references({0: Use()})  # of one that nobody else has


class Uses(Generic[K]):
    """The use of each name since the last take(). Where there are more than twice `limit`, the least used go.

    A connection, or an answer that the data plane sends again, may hold a name's Use and count in it at any
    time: such a name stays, whatever the limit. There are no more of these than connections and answers.
    """

    def __init__(self, limit: int = NAMES_MAX) -> None:
        self._limit = limit
        self._most = 2 * limit
        self._uses: dict[K, Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def of(self, name: K) -> Use:
        """Return what counts the use of a name; valid until the next take(), or as long as it is held."""
        use = self._uses.get(name)
        if use is None:
            if len(self._uses) >= self._most:
                self._cut()
            use = self._uses[name] = Use()
        return use

    def take(self) -> dict[K, Counts]:
        """Return the counts since the last call, of names that have any; forget the names that have none."""
        taken: dict[K, Counts] = {}
        for name, use in list(self._uses.items()):
            counts = use.take()
            if counts is not None:
                taken[name] = counts
            elif sys.getrefcount(use) <= _ALONE:
                del self._uses[name]
        return most(taken, self._limit)

    def _cut(self) -> None:
        """Forget the less used half of the names, except for those whose Use is held."""
        free: list[tuple[int, int, K]] = []
        for position, (name, use) in enumerate(list(self._uses.items())):
            if sys.getrefcount(use) <= _ALONE:
                free.append((use.times, position, name))
        free.sort(key=lambda entry: entry[:2])
        for _times, _position, name in free[: max(len(free) - self._limit, 0)]:
            del self._uses[name]
        # Where nearly all are held, the next cut has to wait for more: it must not be made for each name.
        self._most = max(2 * self._limit, len(self._uses) + self._limit)


def most(counts: dict[K, Counts], limit: int) -> dict[K, Counts]:
    """Return the `limit` names that were used most; among equals the latest."""
    if len(counts) <= limit:
        return counts
    latest_first = [*counts.items()]
    latest_first.reverse()
    latest_first.sort(key=lambda item: item[1][0], reverse=True)
    return dict(latest_first[:limit])


def add(into: dict[K, Counts], more: Iterable[tuple[K, Counts]]) -> None:
    """Add counts to those of `into`."""
    for name, (times, sent, saved) in more:
        before = into.get(name, (0, 0, 0))
        into[name] = (before[0] + times, before[1] + sent, before[2] + saved)
