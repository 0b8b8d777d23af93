"""Idle connections to origins, kept for the next request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.upstream.connections.connection import Connection

IDLE_PER_ORIGIN: Final = 32


class Idle:
    """Connections that are kept for a later request, by origin; last in, first out."""

    def __init__(self) -> None:
        self._pools: dict[Origin, deque[Connection]] = {}

    def take(self, origin: Origin, may: Callable[[Connection], bool] | None = None) -> Connection | None:
        """Return a reusable connection that `may` allows, or None. One that has received data is closed."""
        pool = self._pools.get(origin)
        while pool:
            if may is not None and not may(pool[-1]):
                return None
            connection = pool.pop()
            if not pool:
                del self._pools[origin]
            connection.take()
            if connection.stream.reusable():
                return connection
            connection.close()
        return None

    def give(self, connection: Connection, response: Response) -> None:
        """Keep a connection whose answer was read to the end; close it unless the origin keeps it alive."""
        origin = connection.origin
        if response.keep_alive and response.body.kind != "eof" and not connection.private:
            pool = self._pools.setdefault(origin, deque())
            if len(pool) < IDLE_PER_ORIGIN and connection.keep(self._lost):
                pool.append(connection)
                return
            if not pool:
                del self._pools[origin]
        connection.close()

    def _lost(self, connection: Connection) -> None:
        pool = self._pools.get(connection.origin)
        if pool is not None:
            with suppress(ValueError):
                pool.remove(connection)
            if not pool:
                del self._pools[connection.origin]

    def close(self) -> None:
        """Close them all."""
        for pool in self._pools.values():
            for connection in tuple(pool):
                connection.abort()
        self._pools.clear()
