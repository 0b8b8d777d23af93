"""What registries send that can't be verified or stored: it is passed on as it came, streamed, uncached.

A pull that works without the proxy must work with it. That it was so is logged, counted, and said in
Cache-Status (RFC 9211).
"""

from __future__ import annotations

import logging
import time
from typing import Final

from regproxy.core.errors import NotUnderstood
from regproxy.core.lru import Bounded
from regproxy.fill.fill import CacheRequest
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.passthrough import Passthrough
from regproxy.server.routes import Route

log = logging.getLogger(__name__)

_KNOWN_MAX: Final = 1024
_KNOWN_SECONDS: Final = 300.0  # for which it is not tried again to store such an answer

_Key = tuple[object, ...]


class Uncacheable:
    """Passes such answers on, and remembers for a while which requests they are the answers to."""

    __slots__ = ("_known", "_passthrough", "_services")

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough
        self._known: Bounded[_Key, tuple[str, float]] = Bounded(_KNOWN_MAX)

    def detail(self, wanted: CacheRequest) -> str:
        """Return why the answer to a request can't be stored, "" where that is not known."""
        detail, until = self._known.get(_key(wanted)) or ("", 0.0)
        return detail if time.monotonic() < until else ""

    def note(self, wanted: CacheRequest, error: NotUnderstood) -> None:
        """Remember a request whose answer can't be stored."""
        log.warning("%s%s is passed on uncached: %s", wanted.origin.host, wanted.request.path, error)
        self._known.put(_key(wanted), (error.detail, time.monotonic() + _KNOWN_SECONDS))

    async def answer(self, exchange: Exchange, route: Route, wanted: CacheRequest, detail: str) -> None:
        """Ask the registry, with the credentials that a fill has, and answer as it does."""
        upstream, request = self._services.upstream, route.request
        exchange.cache, exchange.detail = "BYPASS", detail
        self._services.metrics.passed_on(wanted.origin.host, detail)
        fetched = await upstream.fetch(wanted.origin, wanted.request, request.method)
        exchange.asked, exchange.asked_seconds = fetched.hops, fetched.seconds
        await self._passthrough.answer(exchange, fetched.connection, fetched.response, request)


def _key(wanted: CacheRequest) -> _Key:
    return wanted.origin, wanted.request.path, tuple(wanted.request.all(b"accept"))
