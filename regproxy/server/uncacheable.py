"""Pass on, streamed and uncached, what a registry sends and the cache can't verify or store.

A pull that works without the proxy must work with it. Each such answer is logged, counted, and has its reason
in Cache-Status (RFC 9211 2.8).
"""

from __future__ import annotations

import logging
import time
from typing import Final

from regproxy.core.errors import NotUnderstood, UpstreamError
from regproxy.core.lru import Bounded
from regproxy.fill.fill import CacheRequest
from regproxy.policy.verdicts import STALE_ON
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.passthrough import Passthrough
from regproxy.server.patience import in_time
from regproxy.server.routes import Route
from regproxy.upstream.fetch import Ask

log = logging.getLogger(__name__)

_KNOWN_MAX: Final = 1024
_KNOWN_SECONDS: Final = 300.0  # for which equal requests are passed on without trying the cache first

_Key = tuple[object, ...]


class Uncacheable:
    """Passes such answers on, and remembers for a while which requests get them. One for each worker."""

    __slots__ = ("_known", "_passthrough", "_services")

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough
        self._known: Bounded[_Key, tuple[str, float]] = Bounded(_KNOWN_MAX)

    def detail(self, wanted: CacheRequest) -> str:
        """Return why the answer to a request can't be stored (NotUnderstood.DETAILS); "": nothing known."""
        detail, until = self._known.get(_key(wanted)) or ("", 0.0)
        return detail if time.monotonic() < until else ""

    def note(self, wanted: CacheRequest, error: NotUnderstood) -> None:
        """Remember, and log, that the answer to a request can't be stored."""
        about = {"registry": wanted.origin.name, "repository": wanted.target.repository}
        log.warning(
            "%s%s is passed on uncached: %s", wanted.origin.name, wanted.request.path, error, extra=about
        )
        self._known.put(_key(wanted), (error.detail, time.monotonic() + _KNOWN_SECONDS))

    async def answer(
        self,
        exchange: Exchange,
        route: Route,
        wanted: CacheRequest,
        detail: str,
        *,
        spare: bool = False,
        itself: bool = False,
    ) -> None:
        """Ask the registry, with the credentials that a fill would use, and relay its answer.

        `spare`: there is an older copy to serve, so trouble is raised instead of relayed. `itself`: no mirror
        is asked. Raises UpstreamError.
        """
        upstream, request = self._services.upstream, route.request
        exchange.cache, exchange.detail = "BYPASS", detail
        self._services.metrics.passed_on(wanted.origin.name, detail)
        ask = Ask(own_account=wanted.own_account, lends=wanted.lends, spare=spare, itself=itself)
        answer = upstream.fetch(wanted.origin, wanted.request, request.method, ask)
        fetched = await in_time(answer, self._services.config.stale_after if spare else 0.0)
        if spare and fetched.response.status in STALE_ON:
            fetched.connection.abort()
            raise UpstreamError(f"{fetched.origin.host} answered {fetched.response.status}")
        exchange.asked, exchange.asked_seconds = fetched.hops, fetched.seconds
        await self._passthrough.answer(exchange, fetched.connection, fetched.response, request)


def _key(wanted: CacheRequest) -> _Key:
    return wanted.origin, wanted.request.path, tuple(wanted.request.all(b"accept"))
