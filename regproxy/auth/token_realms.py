"""Where registries have said that their tokens come from, for all workers and over a restart.

A client may be told by one worker and ask through another, so what is new is in the file before the 401 is
out.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from regproxy.core.lru import Bounded
from regproxy.core.single_flight import Flights
from regproxy.core.state_file import StateFile
from regproxy.http.origin import Origin
from regproxy.registry.token_protocol import Realm

REALMS_MAX: Final = 256  # the latest
OF_ONE_MAX: Final = 64  # that one registry may have: some name one for each repository
SURE_SECONDS: Final = 600.0  # until it is written again: the file may have been deleted
FAILED_SECONDS: Final = 30.0
WAIT_SECONDS: Final = 2.0  # that a 401 is held up by a disk
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Named:
    """A registry has named this realm."""

    registry: Origin
    realm: Realm


class Realms:
    """What a worker knows of realms. `path`: of the file; None: nothing is shared."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = _RealmFile(path) if path is not None else None
        self._clock = clock
        self._known: dict[Named, None] = {}  # the latest last
        self._sure: Bounded[Named, float] = Bounded(REALMS_MAX)
        self._flights: Flights[Named | None, None] = Flights()
        self._blind_until = 0.0  # the file could not be read in time

    def knows(self, named: Named) -> bool:
        """Tell whether there is nothing to be done about it."""
        return named in self._known and self._clock() < (self._sure.get(named) or 0.0)

    async def learn(self, named: Named) -> None:
        """Know it from now on, and have the others know it; not for ever where a disk hangs."""
        if self.knows(named):
            return
        self._known = bounded([*self._known, named])
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._flights.join(named, lambda: self._share(named))
        except TimeoutError:
            self._sure.put(named, self._clock() + FAILED_SECONDS)

    def at(self, server: Origin, path: str) -> list[Named]:
        """Return what is known of a path (without a query) of a server."""
        return [
            named
            for named in self._known
            if named.realm.origin == server and named.realm.target.partition("?")[0] == path
        ]

    def has_named(self, registry: Origin) -> bool:
        """Tell whether a registry is known to have named a realm."""
        return any(named.registry == registry for named in self._known)

    async def look(self) -> None:
        """Learn what other workers have learned."""
        if self._file is None or self._clock() < self._blind_until:
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._flights.join(None, self._read)
        except TimeoutError:
            self._blind_until = self._clock() + FAILED_SECONDS

    def close(self) -> None:
        """End what is under way."""
        self._flights.close()

    async def _share(self, named: Named) -> None:
        written = self._file is None or await asyncio.to_thread(self._file.add, named)
        self._sure.put(named, self._clock() + (SURE_SECONDS if written else FAILED_SECONDS))

    async def _read(self) -> None:
        if self._file is None:
            return
        found = await asyncio.to_thread(self._file.read)
        if found is not None:
            self._known = bounded([*found, *self._known])


def bounded(named: Iterable[Named]) -> dict[Named, None]:
    """Return the latest (last) ones that are kept, in their order: few of each registry."""
    counts: dict[Origin, int] = {}
    kept: list[Named] = []
    for each in dict.fromkeys(reversed(list(named))):
        count = counts[each.registry] = counts.get(each.registry, 0) + 1
        if count <= OF_ONE_MAX and len(kept) < REALMS_MAX:
            kept.append(each)
    return dict.fromkeys(reversed(kept))


class _RealmFile:
    """The file that workers share."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path)

    def read(self) -> list[Named] | None:
        """Return what it says, None if it is as it was."""
        text = self._file.read()
        return None if text is None else decode(text)

    def add(self, named: Named) -> bool:
        """Put another one in its place that has this too; False where that can't be done."""
        return self._file.change(lambda text: encode(bounded([*decode(text), named])))


def encode(named: Iterable[Named]) -> bytes:
    """Return the text of the file."""
    rows = [
        [_row(each.registry), _row(each.realm.origin), each.realm.target, each.realm.service]
        for each in named
    ]
    return json.dumps({"version": _VERSION, "realms": rows}).encode()


def decode(text: bytes) -> list[Named]:
    """Return what encode() was given; without what can't be understood, so that nothing stands in the way."""
    try:
        data: Any = json.loads(text)
        rows = list(data["realms"]) if data["version"] == _VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for row in rows[:REALMS_MAX]:
        with suppress(ValueError, TypeError):
            registry, server, target, service = row
            if isinstance(target, str) and isinstance(service, str):
                found.append(Named(_origin(registry), Realm(_origin(server), target, service)))
    return found


def _row(origin: Origin) -> list[str | int]:
    return [origin.scheme, origin.host, origin.port]


def _origin(row: Any) -> Origin:
    scheme, host, port = row
    if not (isinstance(scheme, str) and isinstance(host, str) and type(port) is int):
        raise TypeError("not an origin")
    return Origin(scheme, host, port)
