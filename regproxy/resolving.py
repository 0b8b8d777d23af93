"""Addresses of names, remembered for a moment, and in the order in which they are to be tried."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import Final

import aiohappyeyeballs

from regproxy.bounded import Bounded
from regproxy.flights import Flights

AddrInfo = aiohappyeyeballs.AddrInfoType

FOUND_SECONDS: Final = 5.0  # a burst of connections asks once; a record that moves is followed soon
MISSING_SECONDS: Final = 1.0
# While the name servers are away the last answer is better than none (RFC 8767).
STALE_SECONDS: Final = 3600.0
FAILED_SECONDS: Final = 10.0  # so long an address that failed is tried after the others
KNOWN_MAX: Final = 1024

_Error = OSError | UnicodeError


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a name stands for, or why it stands for nothing; until when that counts; when it was found."""

    infos: Sequence[AddrInfo]
    error: _Error | None
    until: float
    found_at: float


class Resolver:
    """Names to addresses. Of several who ask for the same name at a time, one asks the system."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ipv4_only: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._family = socket.AF_INET if ipv4_only else socket.AF_UNSPEC
        self._monotonic = monotonic
        self._answers: Bounded[str, _Answer] = Bounded(KNOWN_MAX)
        self._asking: Flights[str, _Answer] = Flights()
        self._failed: Bounded[str, float] = Bounded(KNOWN_MAX)

    async def lookup(self, name: str, port: int) -> list[AddrInfo]:
        """Return every address of a name, with this port. Raises OSError or UnicodeError (no such name)."""
        known = self._answers.get(name)
        if known is None or self._monotonic() >= known.until:
            known = await self._asking.join(name, partial(self._ask, name, known))
        if known.error is not None:
            raise _again(known.error)
        return [(*info[:4], (info[4][0], port, *info[4][2:])) for info in known.infos]

    async def _ask(self, name: str, before: _Answer | None) -> _Answer:
        answer = await self._answer(name, before)
        self._answers.put(name, answer)
        return answer

    async def _answer(self, name: str, before: _Answer | None) -> _Answer:
        try:
            infos = await self._loop.getaddrinfo(name, 0, family=self._family, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            now = self._monotonic()
            away = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            if away and before is not None and before.infos and now < before.found_at + STALE_SECONDS:
                return _Answer(before.infos, None, now + MISSING_SECONDS, before.found_at)
            return _Answer((), error.with_traceback(None), now + MISSING_SECONDS, now)
        now = self._monotonic()
        return _Answer(infos, None, now + FOUND_SECONDS, now)

    # --- in which order ----------------------------------------------------------------------------------

    def order(self, infos: Sequence[AddrInfo]) -> list[AddrInfo]:
        """Return addresses as they are to be tried: families by turns (RFC 8305 4), what has failed last."""
        now = self._monotonic()
        first = infos[0][0] if infos else socket.AF_UNSPEC
        families = [info for info in infos if info[0] == first], [info for info in infos if info[0] != first]
        turns = [info for info in chain.from_iterable(zip_longest(*families)) if info is not None]
        return sorted(turns, key=lambda info: (self._failed.get(address_of(info)) or 0.0) > now)

    def failed(self, infos: Iterable[AddrInfo]) -> None:
        """These could not be connected to just now, or others were faster although they came later."""
        until = self._monotonic() + FAILED_SECONDS
        for info in infos:
            self._failed.put(address_of(info), until)

    def worked(self, address: str) -> None:
        """This one was connected to."""
        self._failed.drop(address)


def address_of(info: AddrInfo) -> str:
    """Return the address as text."""
    return str(info[4][0])


def _again(error: _Error) -> _Error:
    """A new error of the same kind: one that is raised again and again collects tracebacks."""
    if isinstance(error, OSError):
        return type(error)(*error.args)
    return UnicodeError(str(error))
