"""Remember the token realms that registries have named, for all workers and across restarts.

A client may get the 401 from one worker and ask for a token through another, so a new realm is in the file
before the 401 is sent.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from regproxy.core.lru import Bounded
from regproxy.core.single_flight import Flights
from regproxy.core.state_file import StateFile
from regproxy.http.origin import Origin
from regproxy.registry.token_protocol import Realm

REALMS_MAX: Final = 256  # the latest
OF_ONE_MAX: Final = 64  # for one registry: some name one for each repository
SURE_SECONDS: Final = 600.0  # until it is written again: the file may have been deleted
FAILED_SECONDS: Final = 30.0
WAIT_SECONDS: Final = 2.0  # for which a slow disk may delay a 401
_VERSION: Final = 1


class NamedRealm(Struct, frozen=True):
    """A realm, and the registry that has named it."""

    registry: Origin
    realm: Realm


class Realms:
    """The realms that a worker knows. `path`: the shared file; None: nothing is shared."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = _RealmFile(path) if path is not None else None
        self._clock = clock
        self._known: dict[NamedRealm, None] = {}  # the latest last
        self._sure: Bounded[NamedRealm, float] = Bounded(REALMS_MAX)
        self._flights: Flights[NamedRealm | None, None] = Flights()
        self._blind_until = 0.0  # after the file could not be read in time

    def knows(self, named: NamedRealm) -> bool:
        """Tell whether a realm is known and need not be written to the file for now."""
        return named in self._known and self._clock() < (self._sure.get(named) or 0.0)

    async def learn(self, named: NamedRealm) -> None:
        """Remember a realm and share it with the other workers; the wait for a hanging disk is limited."""
        if self.knows(named):
            return
        self._known = bounded([*self._known, named])
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._flights.join(named, lambda: self._share(named))
        except TimeoutError:
            self._sure.put(named, self._clock() + FAILED_SECONDS)

    def at(self, server: Origin, path: str) -> list[NamedRealm]:
        """Return the known realms at a path (without a query) of a server."""
        return [
            named
            for named in self._known
            if named.realm.origin == server and named.realm.target.partition("?")[0] == path
        ]

    def of(self, host: str, port: int) -> list[Origin]:
        """Return the registries that have named an https server at this host and port."""
        server = Origin("https", host, port)
        return [named.registry for named in self._known if named.realm.origin == server]

    async def look(self) -> None:
        """Read the realms that other workers have learned."""
        if self._file is None or self._clock() < self._blind_until:
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._flights.join(None, self._read)
        except TimeoutError:
            self._blind_until = self._clock() + FAILED_SECONDS

    def close(self) -> None:
        """Cancel running reads and writes."""
        self._flights.close()

    async def _share(self, named: NamedRealm) -> None:
        written = self._file is None or await asyncio.to_thread(self._file.add, named)
        self._sure.put(named, self._clock() + (SURE_SECONDS if written else FAILED_SECONDS))

    async def _read(self) -> None:
        if self._file is None:
            return
        found = await asyncio.to_thread(self._file.read)
        if found is not None:
            self._known = bounded([*found, *self._known])


def bounded(named: Iterable[NamedRealm]) -> dict[NamedRealm, None]:
    """Return the latest (last) ones to keep, in their order, with a limit for each registry."""
    counts: dict[Origin, int] = {}
    kept: list[NamedRealm] = []
    for each in dict.fromkeys(reversed(list(named))):
        count = counts[each.registry] = counts.get(each.registry, 0) + 1
        if count <= OF_ONE_MAX and len(kept) < REALMS_MAX:
            kept.append(each)
    return dict.fromkeys(reversed(kept))


class _RealmFile:
    """The file that workers share."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path)

    def read(self) -> list[NamedRealm] | None:
        """Return the realms in the file, None if it has not changed or can't be read."""
        text = self._file.read()
        return None if text is None else decode(text)

    def add(self, named: NamedRealm) -> bool:
        """Replace the file by one that has this realm too; False if that fails."""
        return self._file.change(lambda text: encode(bounded([*decode(text), named])))


def encode(named: Iterable[NamedRealm]) -> bytes:
    """Return the text of the file."""
    rows = [
        [_row(each.registry), _row(each.realm.origin), each.realm.target, each.realm.service]
        for each in named
    ]
    return json.dumps({"version": _VERSION, "realms": rows}).encode()


def decode(text: bytes) -> list[NamedRealm]:
    """Return what encode() was given; entries that can't be parsed are left out, so that they do no harm."""
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
                found.append(NamedRealm(_origin(registry), Realm(_origin(server), target, service)))
    return found


def _row(origin: Origin) -> list[str | int]:
    return [origin.scheme, origin.host, origin.port]


def _origin(row: Any) -> Origin:
    scheme, host, port = row
    if not (isinstance(scheme, str) and isinstance(host, str) and type(port) is int):
        raise TypeError("not an origin")
    return Origin(scheme, host, port)
