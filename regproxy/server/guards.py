"""What stands between a request and its answer: access to private content, and rules for images.

Guards are asked once for each request to a registry, before anything is looked up in the cache. Without any
the session does not come here.
"""

from __future__ import annotations

from typing import Protocol

from regproxy.http.origin import Origin
from regproxy.server.exchange import Exchange
from regproxy.server.routes import Route


class Guard(Protocol):
    """One of them."""

    def passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether the request may be answered, as far as this is known without waiting."""

    async def admit(self, exchange: Exchange, origin: Origin, route: Route) -> Route | None:
        """Find out whether the request may be answered, where passes() did not know.

        Return the route to answer, which may be another one; None: the guard has answered itself. Raises
        RegproxyError, UpstreamAnswer among them.
        """


class Guards:
    """The guards of a worker, in the order in which they are asked."""

    __slots__ = ("_guards",)

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards

    def passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether every guard lets the request pass at once."""
        for guard in self._guards:  # noqa: SIM110 (a generator would double what this costs a hit)
            if not guard.passes(exchange, origin, route):
                return False
        return True

    async def admit(self, exchange: Exchange, origin: Origin, route: Route) -> Route | None:
        """Ask the guards one after the other; return the route to answer, None: one of them has answered."""
        admitted: Route | None = route
        for guard in self._guards:
            if admitted is not None and not guard.passes(exchange, origin, admitted):
                admitted = await guard.admit(exchange, origin, admitted)
        return admitted
