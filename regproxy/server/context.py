"""The services that all client sessions of a worker share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Protocol

from msgspec import Struct, field

from regproxy.cache.blobs import Store
from regproxy.cache.index.index import Index
from regproxy.config.settings import Config
from regproxy.core.lru import Seldom
from regproxy.core.request_context import TraceSpan
from regproxy.dataplane.board import Board
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.request_ids import RequestIds
from regproxy.fill.fills import Fills
from regproxy.policy.interception import Interception
from regproxy.policy.plans import Policy
from regproxy.server.audit import Audit
from regproxy.server.clients import Clients
from regproxy.server.exchange import Exchange
from regproxy.server.lookup import Lookup
from regproxy.server.repeats import Repeats
from regproxy.server.rights import Rights
from regproxy.server.routes import PlainRoutes, Routes
from regproxy.server.setup_pages import SetupPages
from regproxy.server.signature_checks import SignatureChecks
from regproxy.tags.resolver import Tags
from regproxy.telemetry.access_log import AccessLog
from regproxy.telemetry.live_events import LiveEvents
from regproxy.telemetry.metrics import Metrics
from regproxy.telemetry.usage.recorder import Recorder
from regproxy.tls.authority import Authority
from regproxy.tls.ca_files import CaPair
from regproxy.tls.ca_watch import CaWatch
from regproxy.tls.server_contexts import Contexts
from regproxy.upstream.client import Upstream

log = logging.getLogger(__name__)


class Tracer(Protocol):
    """Makes the spans of clients' requests. No method waits, or raises anything."""

    def connected(self, exchange: Exchange) -> None:
        """Note that a CONNECT is intercepted."""

    def secured(self, exchange: Exchange) -> None:
        """Note that TLS is up on such a connection."""

    def begin(self, exchange: Exchange, request_id: str) -> TraceSpan:
        """Begin to trace a request that is no plain hit."""

    def end(self, exchange: Exchange, request_id: str, took: float, sent: int) -> None:
        """Note that a request was answered, in so many seconds and with so many bytes."""

    def close(self) -> None:
        """Send what waits, for some seconds at most."""


class Services(Struct):
    """The services that all client sessions of a worker share."""

    config: Config
    policy: Policy
    interception: Interception
    reactor: Reactor
    store: Store
    index: Index
    lookup: Lookup
    routes: Routes
    plain_routes: PlainRoutes
    fills: Fills
    tags: Tags
    upstream: Upstream
    contexts: Contexts
    metrics: Metrics
    access: AccessLog
    rights: Rights
    usage: Recorder
    signatures: SignatureChecks
    pages: SetupPages
    authority: Authority
    ca_watch: CaWatch
    loop: asyncio.AbstractEventLoop
    board: Board
    events: LiveEvents
    clients: Clients | None = None  # None: every client is alike
    stretch: Callable[[str], float] = lambda host: 1.0  # how many times longer a registry's tags are fresh
    ids: RequestIds = field(default_factory=RequestIds)
    closes: bool = False  # every answer announces the connection's end: in shutdown, or without keep-alive
    audit: Audit | None = None
    repeats: Repeats | None = None  # None: the data plane sends no answer by itself
    tracer: Tracer | None = None  # None: nothing is traced
    drains: bool = False  # a connection ends with its answer, whatever the answer has announced
    _seldom: Seldom = field(default_factory=Seldom)
    second: int = 0  # that date() has named last, epoch
    _date: bytes = b""

    def use_cas(self, pairs: Sequence[CaPair]) -> None:
        """Sign with these CAs from now on, and hand them out."""
        self.authority.use(pairs)
        self.pages.use_ca(self.authority.certificate_pem)

    def say_refused(self, host: str, port: int, reason: str) -> None:
        """Log a CONNECT that is refused, once a minute for each target: clients show only the status."""
        if self._is_news((host, port)):
            log.warning("CONNECT %s:%d refused: %s", host, port, reason)

    def say_not_mirrored(self, peer: str, reason: str) -> None:
        """Log a request that takes the proxy for a mirror that it is not, once a minute for each reason."""
        if self._is_news(("mirror", reason)):
            log.warning("%s: a request without CONNECT is refused: %s", peer, reason)

    def say_tls(self, peer: str) -> None:
        """Log TLS on a port for plain HTTP, once a minute for each client: some try it before plain HTTP."""
        if self._is_news(("tls", peer)):
            log.info("%s: TLS on the plain HTTP port: answered 400", peer)

    def say_no_preface(self, peer: str, reason: str) -> None:
        """Count a balancer that does not say who connects; log it once a minute for each and reason."""
        self.metrics.login_refused("preface")
        if self._is_news(("preface", peer, reason)):
            log.warning(
                "%s is in REGPROXY_PROXY_PROTOCOL and has to begin with a header of the PROXY protocol: %s",
                *(peer, reason),
            )

    def say_no_trust(self, peer: str, reason: str) -> None:
        """Count that nobody's certificate can be verified; log it once a minute for each reason."""
        self.metrics.login_refused("unavailable")
        if self._is_news(("trust", reason)):
            log.warning("%s: no TLS: %s", peer, reason)

    def say_distrusted(self, peer: str, host: str) -> None:
        """Log that a client does not trust the proxy's CA, once a minute for each client's address."""
        if self._is_news(("distrust", peer)):
            log.warning(
                "%s: %s: the client does not trust this proxy's CA: install /ca.crt of the proxy port there",
                *(peer, host),
            )

    def say_own(self, host: str, reason: str) -> None:
        """Log that requests to a registry can't be answered from the cache, once a minute for each reason."""
        if self._is_news((host, reason)):
            log.info(
                "%s: a request with %s is passed on uncached: the answer may depend on it"
                " (REGPROXY_IGNORE_HEADERS names headers that say nothing of what is wanted)",
                *(host, reason),
            )

    def _is_news(self, what: tuple[object, ...]) -> bool:
        return self._seldom.lets(what, time.monotonic())

    def date(self) -> bytes:
        """Return the Date field and the empty line that ends a head; made once a second."""
        now = int(time.time())
        if now != self.second:
            self.second = now
            self._date = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
        return self._date
