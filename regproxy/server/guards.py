"""What stands between a request and its answer: access to private content, and rules for images.

Guards are asked once for each request to a registry, before anything is looked up in the cache. Without any
the session does not come here.
"""

from __future__ import annotations

from typing import Final, Protocol

from regproxy.http.origin import Origin
from regproxy.server.exchange import Exchange
from regproxy.server.routes import Route

PASSED_SECONDS: Final = 10.0  # for which equal requests of one client pass at once


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
    """The guards of a worker, in the order in which they are asked.

    `lasts`: seconds for which it is remembered that a client's request has passed.
    """

    __slots__ = ("_guards", "_lasts")

    def __init__(self, *guards: Guard, lasts: float = PASSED_SECONDS) -> None:
        self._guards = guards
        self._lasts = lasts

    def passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether every guard lets the request pass at once."""
        for guard in self._guards:
            if not guard.passes(exchange, origin, route):
                return False
        route.passed = (exchange.principal, origin.host, origin.port, exchange.started + self._lasts)
        return True

    async def admit(self, exchange: Exchange, origin: Origin, route: Route) -> Route | None:
        """Ask the guards one after the other; return the route to answer, None: one of them has answered."""
        admitted: Route | None = route
        for guard in self._guards:
            if admitted is not None and not guard.passes(exchange, origin, admitted):
                admitted = await guard.admit(exchange, origin, admitted)
        return admitted
