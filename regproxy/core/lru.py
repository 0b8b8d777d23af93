"""Bounded dictionaries that drop the least recently used entry, and a limiter to once a minute for each
key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

SELDOM: Final = 60.0  # seconds

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Bounded(Generic[_Key, _Value]):
    """At most `limit` entries. Reading or writing an entry counts as use."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        # Keys and values may hold secrets.
        return f"Bounded({len(self._entries)} of {self._limit})"

    def get(self, key: _Key) -> _Value | None:
        """Return the value, None if there is none."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Add or replace a value."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def drop(self, key: _Key) -> None:
        """Remove an entry, if present."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()


class Seldom:
    """Allows an action once a minute for each key; times are a monotonic clock's."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: Bounded[Hashable, float] = Bounded(1024)

    def lets(self, key: Hashable, now: float) -> bool:
        """Tell whether the action is due, and if so start a new minute."""
        if now < (self._next.get(key) or now):
            return False
        self._next.put(key, now + SELDOM)
        return True

    def forget(self, key: Hashable) -> None:
        """Allow the action the next time."""
        self._next.drop(key)
