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


class LastGuard(Guard, Protocol):
    """The one that is asked behind all others, and each time."""

    def prepared(self, exchange: Exchange, origin: Origin, route: Route) -> Route:
        """Return the route that the guards ahead are asked for, if they may have to answer themselves."""


class Guards:
    """The guards of a worker, in the order in which they are asked.

    `lasts`: seconds for which it is remembered that a client's request has passed. `last`: one more, which is
    asked each time: whether a request passes it may depend on what a tag is by now.
    """

    __slots__ = ("_guards", "_last", "_lasts")

    def __init__(self, *guards: Guard, lasts: float = PASSED_SECONDS, last: LastGuard | None = None) -> None:
        self._guards = guards
        self._lasts = lasts
        self._last = last

    def passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether every guard lets the request pass at once."""
        last = self._last
        if last is None:
            if not self._pass(exchange, origin, route):
                return False
            route.passed = (exchange.principal, origin.host, origin.port, exchange.started + self._lasts)
            return True
        if self._guards:
            memo = route.let_in
            if memo is None or memo[:3] != (exchange.principal, origin.host, origin.port):
                memo = None
            if memo is None or exchange.started >= memo[3]:
                if not self._pass(exchange, origin, route):
                    return False
                route.let_in = (exchange.principal, origin.host, origin.port, exchange.started + self._lasts)
        return last.passes(exchange, origin, route)

    def _pass(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        for guard in self._guards:  # noqa: SIM110 (a generator would double what this costs a hit)
            if not guard.passes(exchange, origin, route):
                return False
        return True

    async def admit(self, exchange: Exchange, origin: Origin, route: Route) -> Route | None:
        """Ask the guards one after the other; return the route to answer, None: one of them has answered."""
        last, guards = self._last, self._guards
        admitted: Route | None = route
        if last is not None:
            if guards:
                admitted = last.prepared(exchange, origin, route)
            guards = (*guards, last)
        for guard in guards:
            if admitted is not None and not guard.passes(exchange, origin, admitted):
                admitted = await guard.admit(exchange, origin, admitted)
        return admitted
