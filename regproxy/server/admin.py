"""The admin port: /metrics for Prometheus, /healthz and /readyz for probes, /api for operators."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from regproxy.core.errors import HeadError
from regproxy.dataplane.stream import Stream
from regproxy.http.forwarding import build_head
from regproxy.http.messages import parse_request
from regproxy.server import explanations
from regproxy.server.explanations import Explanations
from regproxy.server.setup_pages import Page, text
from regproxy.telemetry.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

METRICS = "/metrics"
_IDLE = 75.0  # seconds; above the scrape interval that is usual


class Admin:
    """Answers for one worker; the metrics are those of all workers."""

    def __init__(
        self,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        ready: Callable[[], str | None],
        ends: Callable[[], bool],
        live: Callable[[], dict[str, int]] | None = None,
        explanations: Explanations | None = None,
    ) -> None:
        """`ready()` returns None, or why the worker is not ready; `ends()`: connections are not kept alive.

        `live` counts the open objects of the data plane; only a debug run shows it.
        """
        self._metrics = metrics
        self._loop = loop
        self._ready = ready
        self.ends = ends
        self._live = live
        self._explanations = explanations
        self._scrape: asyncio.Future[bytes] | None = None

    def accept(self, stream: Stream) -> None:
        """Take a new connection."""
        AdminSession(self, stream)

    def page(self, path: str, query: str, peer: str) -> Page:
        """Return the answer for a path other than METRICS. `peer`: the client's address."""
        if path == explanations.PATH and self._explanations is not None:
            return self._explanations.page(query, peer)
        if path == "/healthz":
            return text(200, "ok\n")
        if path == "/readyz":
            reason = self._ready()
            return text(200, "ready\n") if reason is None else text(503, f"not ready: {reason}\n")
        if path == "/debug/live" and self._live is not None:
            return Page(200, b"application/json", json.dumps(self._live()).encode())
        return text(404, f"there are /metrics, /healthz, /readyz and {explanations.PATH}\n")

    def scrape(self) -> asyncio.Future[bytes]:
        """Collect the metrics in a thread, so that no client waits. Concurrent scrapes share one result."""
        if self._scrape is None:
            self._metrics.publish()
            self._scrape = self._loop.run_in_executor(None, self._metrics.collect)
            self._scrape.add_done_callback(self._scraped)
        return self._scrape

    def _scraped(self, scrape: asyncio.Future[bytes]) -> None:
        self._scrape = None


class AdminSession:
    """The handler of one connection to the admin port."""

    __slots__ = ("_admin", "_keep_alive", "_stream")

    def __init__(self, admin: Admin, stream: Stream) -> None:
        self._admin = admin
        self._stream = stream
        self._keep_alive = True
        stream.handler = self
        stream.set_send_timeout(_IDLE)
        stream.next_head(_IDLE, _IDLE)

    def on_head(self, head: bytes) -> None:
        """Answer a request."""
        try:
            request = parse_request(head)
        except HeadError as error:
            # It is unknown where the next head would begin.
            self._keep_alive = False
            self._answer(text(error.status, f"{error}\n"), "GET")
            return
        self._keep_alive = request.keep_alive and request.body.empty
        if request.method not in ("GET", "HEAD"):
            self._answer(text(405, f"{request.method} is not allowed here\n"), "GET")
            return
        path, _, query = request.path.partition("?")
        if path == METRICS:
            self._admin.scrape().add_done_callback(lambda scrape: self._scraped(scrape, request.method))
        else:
            self._answer(self._admin.page(path, query, self._stream.peer), request.method)

    def _scraped(self, scrape: asyncio.Future[bytes], method: str) -> None:
        if not self._stream.open or scrape.cancelled():
            return
        error = scrape.exception()
        if error is not None:
            log.error("the metrics can't be collected", exc_info=error)
            self._answer(text(500, "the metrics can't be collected; the log has more\n"), method)
        else:
            self._answer(Page(200, CONTENT_TYPE.encode(), scrape.result()), method)

    def _answer(self, page: Page, method: str) -> None:
        headers = [(b"content-type", page.content_type), (b"content-length", b"%d" % len(page.body))]
        self._keep_alive = self._keep_alive and not self._admin.ends()
        if not self._keep_alive:
            headers.append((b"connection", b"close"))
        if self._stream.send(build_head(page.status, headers), page.body if method == "GET" else b""):
            self.on_sent()

    def on_sent(self) -> None:
        """Wait for the next request, or close: the answer has been sent."""
        if self._keep_alive:
            self._stream.next_head(_IDLE, _IDLE)
        else:
            self._stream.close(True)

    def on_foreign(self, kind: str) -> None:
        """Refuse TLS."""
        self._keep_alive = False
        self._answer(text(400, "this port speaks plain HTTP, not TLS\n"), "GET")

    def on_connect(self, host: str | None, port: int, login: bytes | None) -> None:
        """Refuse CONNECT: this is no proxy port."""
        self._keep_alive = False
        self._answer(text(405, "this is the admin port; the proxy listens on another\n"), "GET")

    def on_head_too_large(self) -> None:
        """Answer 431 (RFC 6585 section 5)."""
        self._keep_alive = False
        self._answer(text(431, "the request head is too large\n"), "GET")

    def on_eof(self, partial: bool) -> None:
        """Close: the client has gone."""
        self._stream.close()

    def on_timeout(self, what: str) -> None:
        """Abort a connection that was idle for too long."""
        self._stream.abort()

    def on_closed(self, reason: str) -> None:
        """Do nothing: the connection is closed."""
