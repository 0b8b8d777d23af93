"""Resolve names: remember their addresses for a while, and order them for connecting.

An expired answer is returned at once while a new lookup runs in the background, as long as it is not too old
(RFC 8767); newer() then returns the result of that lookup.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, zip_longest
from typing import Final, Protocol

from msgspec import Struct

from regproxy.core.errors import Busy
from regproxy.core.lru import Bounded
from regproxy.core.single_flight import Flights
from regproxy.upstream.connections.name_lookups import AddrInfo

FOUND_SECONDS: Final = 5.0  # a burst of connections asks once; a record that moves is followed soon
MISSING_SECONDS: Final = 1.0
AWAY_SECONDS: Final = 5.0  # at most; else as long as it took to find out that no name server answers
# Up to this age an answer is returned at once during a new lookup; an older one after a moment (RFC 8767 5).
AT_ONCE_SECONDS: Final = 300.0
PATIENCE: Final = 1.8
# While the name servers are away the last answer is better than none (RFC 8767).
STALE_SECONDS: Final = 3600.0
FAILED_SECONDS: Final = 10.0  # for which an address that failed is tried after the others
KNOWN_MAX: Final = 1024

_Error = OSError | UnicodeError


class System(Protocol):
    """The system's resolver: see Lookups."""

    async def admit(self, name: str, asker: str) -> None:
        """Wait for this asker's turn. Raises Busy where the turn does not come."""

    def begin(self, name: str, asker: str) -> asyncio.Future[list[AddrInfo]]:
        """Look up all addresses of a name; OSError or UnicodeError."""


class _Answer(Struct, frozen=True):
    """The addresses of a name, or the error; until when that is valid; when it was found."""

    infos: Sequence[AddrInfo]
    error: _Error | None
    until: float
    found_at: float


class Resolver:
    """Resolves names to addresses. Concurrent requests for one name share one lookup."""

    def __init__(self, system: System, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._system = system
        self._monotonic = monotonic
        self._answers: Bounded[str, _Answer] = Bounded(KNOWN_MAX)
        # Apart: made-up names must not push out those that exist.
        self._missing: Bounded[str, _Answer] = Bounded(KNOWN_MAX)
        self._asking: Flights[str, _Answer] = Flights()
        self._patience: Bounded[str, float] = Bounded(KNOWN_MAX)  # until when callers wait for a flight

    async def lookup(self, name: str, port: int, asker: str = "") -> list[AddrInfo]:
        """Return every address of a name, with this port.

        Raises OSError or UnicodeError (no such name), or Busy. `asker`: whose limit the lookup counts for.
        """
        known, now = self._answers.get(name) or self._missing.get(name), self._monotonic()
        if known is not None and now < known.until:
            return _given(known, port)
        usable = known is not None and bool(known.infos) and now < known.found_at + STALE_SECONDS
        try:
            flight = await self._begin(name, known, asker)
        except Busy:
            if known is not None and usable:
                return _given(known, port)
            raise
        if known is not None and usable:
            patience = (self._patience.get(name) or 0.0) - now
            if now >= known.found_at + AT_ONCE_SECONDS and patience > 0:
                await asyncio.wait([flight], timeout=patience)
            if not flight.done():
                return _given(known, port)
        return _given(await asyncio.shield(flight), port)

    async def newer(self, name: str, port: int) -> list[AddrInfo]:
        """Return the result of a lookup that lookup() has not waited for; [] where there is none."""
        flight = self._asking.under_way(name)
        return [] if flight is None else _given(await asyncio.shield(flight), port)

    def renews(self, name: str) -> bool:
        """Return whether there is a lookup that newer() would wait for."""
        return name in self._asking

    async def _begin(self, name: str, known: _Answer | None, asker: str) -> asyncio.Task[_Answer]:
        if name not in self._asking:
            await self._system.admit(name, asker)
        flight = self._asking.under_way(name)
        if flight is not None:
            return flight
        began = self._monotonic()
        self._patience.put(name, began + PATIENCE)
        # Begun without a pause after admit(): that decides about the next one by the lookups under way.
        lookup = self._system.begin(name, asker)
        return self._asking.start(name, partial(self._ask, name, known, began, lookup))

    async def _ask(
        self, name: str, before: _Answer | None, began: float, lookup: asyncio.Future[list[AddrInfo]]
    ) -> _Answer:
        answer = await self._answer(before, began, lookup)
        if answer.error is None:
            self._answers.put(name, answer)
        else:
            self._answers.drop(name)
            self._missing.put(name, answer)
        return answer

    async def _answer(
        self, before: _Answer | None, began: float, lookup: asyncio.Future[list[AddrInfo]]
    ) -> _Answer:
        try:
            infos = await lookup
        except (OSError, UnicodeError) as error:
            now = self._monotonic()
            until = now + MISSING_SECONDS
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                # A name that is looked up again and again must not occupy a thread all the time.
                until = now + min(max(MISSING_SECONDS, now - began), AWAY_SECONDS)
                if before is not None and before.infos and now < before.found_at + STALE_SECONDS:
                    return _Answer(before.infos, None, until, before.found_at)
            return _Answer((), error.with_traceback(None), until, now)
        now = self._monotonic()
        return _Answer(infos, None, now + FOUND_SECONDS, now)


class Order:
    """The order in which addresses are tried: those that have just failed come last."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failed: Bounded[str, float] = Bounded(KNOWN_MAX)

    def order(self, infos: Sequence[AddrInfo]) -> list[AddrInfo]:
        """Return addresses as they are to be tried: families by turns (RFC 8305 4), what has failed last."""
        now = self._monotonic()
        first = infos[0][0] if infos else socket.AF_UNSPEC
        families = [info for info in infos if info[0] == first], [info for info in infos if info[0] != first]
        turns = [info for info in chain.from_iterable(zip_longest(*families)) if info is not None]
        return sorted(turns, key=lambda info: (self._failed.get(address_of(info)) or 0.0) > now)

    def failed(self, infos: Iterable[AddrInfo]) -> None:
        """Note addresses that could not be connected to, or were slower than others tried after them."""
        until = self._monotonic() + FAILED_SECONDS
        for info in infos:
            self._failed.put(address_of(info), until)

    def worked(self, address: str) -> None:
        """Note an address that was connected to."""
        self._failed.drop(address)


def address_of(info: AddrInfo) -> str:
    """Return the address as text."""
    return str(info[4][0])


def at_port(infos: Iterable[AddrInfo], port: int) -> list[AddrInfo]:
    """Return the same addresses with a port."""
    return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in infos]


def _given(answer: _Answer, port: int) -> list[AddrInfo]:
    if answer.error is not None:
        raise _again(answer.error)
    return at_port(answer.infos, port)


def _again(error: _Error) -> _Error:
    """Return a new error of the same kind: one that is raised again and again collects tracebacks."""
    if isinstance(error, OSError):
        return type(error)(*error.args)
    return UnicodeError(str(error))
