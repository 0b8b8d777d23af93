"""Trace requests of clients: the connection that they came by, and what they were answered.

Whether a hit is recorded is decided when it has been answered: one that is not costs next to nothing.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

from msgspec import Struct
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, Status, StatusCode

from regproxy.core.request_context import Attributes
from regproxy.registry.targets import Kind
from regproxy.server.exchange import Exchange
from regproxy.tracing.environment import Tracing, secrets
from regproxy.tracing.export import Export
from regproxy.tracing.spans import OtelSpan, begin, epoch_of, remote

SLOW: Final = 5.0  # seconds; a hit that takes longer is always recorded
TEXT_MAX: Final = 1024  # characters of an attribute, where OpenTelemetry's variable says nothing else
CONNECTION_MAX: Final = 64  # requests that are in the trace of their connection
_HITS: Final = frozenset({"HIT", "STALE"})
_ROUTES: Final = {
    Kind.BLOB: "/v2/{name}/blobs/{digest}",
    Kind.MANIFEST: "/v2/{name}/manifests/{digest}",
    Kind.TAG: "/v2/{name}/manifests/{tag}",
    Kind.PING: "/v2/",
}


class _Connection(Struct):
    """An intercepted CONNECT: when it came, when its TLS was up (monotonic, 0: not yet), and its span."""

    host: str
    peer: str
    since: float
    done: float = 0.0
    span: OtelSpan | None = None
    requests: int = 0


class Requests:
    """Spans of one worker's requests: see server.context.Tracer."""

    def __init__(self, how: Tracing, export: Export, provider: TracerProvider) -> None:
        self._how, self._export = how, export
        self._tracer = provider.get_tracer("regproxy", version("regproxy"))

    @classmethod
    def open(cls, how: Tracing, slot: int, env: Mapping[str, str] = os.environ) -> Requests:
        """Begin to send traces as the environment says."""
        export = Export(
            OTLPSpanExporter(),
            _number(env, "OTEL_BSP_MAX_QUEUE_SIZE", 2048),
            _number(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
            _number(env, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
            secrets(env),
        )
        named = "OTEL_SERVICE_NAME" in env or "service.name=" in env.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own: dict[str, str | int] = {
            "service.version": version("regproxy"),
            "process.pid": os.getpid(),
            "regproxy.worker": slot,
        }
        resource = Resource.create(own if named else {**own, "service.name": "regproxy"})
        # Some spans wait for the collector, and a path is as long as a client has made it.
        longest = _number(env, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", TEXT_MAX)
        limits = SpanLimits(max_attribute_length=longest)
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, span_limits=limits)
        provider.add_span_processor(export)
        return cls(how, export, provider)

    @property
    def spans_dropped(self) -> int:
        """How many spans the collector has not got."""
        return self._export.spans_dropped

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        self._export.close(3.0)

    # --- connections -------------------------------------------------------------------------------------

    def connected(self, exchange: Exchange) -> None:
        """Note that a CONNECT is intercepted."""
        exchange.connection = _Connection(exchange.host, exchange.peer, exchange.started)

    def secured(self, exchange: Exchange) -> None:
        """Note that TLS is up on such a connection."""
        if isinstance(exchange.connection, _Connection):
            exchange.connection.done = time.monotonic()

    # --- requests ----------------------------------------------------------------------------------------

    def begin(self, exchange: Exchange, request_id: str) -> OtelSpan:
        """Begin to trace a request that is no plain hit."""
        exchange.span = span = self._begin(exchange, request_id)
        return span

    def end(self, exchange: Exchange, request_id: str, took: float, sent: int) -> None:
        """End the span of a request that was answered; or make one now, if it is to be recorded.

        `took`: seconds; `sent`: bytes of its body.
        """
        span = exchange.span
        if span is None:
            if not self._is_recorded(exchange, took):
                return
            exchange.span = span = self._begin(exchange, request_id)
        assert isinstance(span, OtelSpan)
        span.put(_answered(exchange, sent))
        if exchange.status >= 500 or exchange.status == 0:
            span.put({"error.type": str(exchange.status or "aborted")})
            span.span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _is_recorded(self, exchange: Exchange, took: float) -> bool:
        # Of tunnels there may be as many as of hits, and nothing is known of what is in them.
        usual = exchange.cache in _HITS or exchange.kind in ("tunnel", "page", "connect")
        if not usual or took >= SLOW or exchange.status >= 400 or exchange.status == 0:
            return True
        parent = exchange.route.trace if exchange.route is not None else None
        if parent is not None and self._how.parent_based:
            return parent.sampled
        return random.random() < self._how.hits

    def _begin(self, exchange: Exchange, request_id: str) -> OtelSpan:
        route, request = exchange.route, exchange.request
        asked = route.trace if route is not None else None
        client = remote(asked) if asked is not None else None
        # A connection has ended with its requests, or goes on: its span is of how it began.
        connection = exchange.connection if isinstance(exchange.connection, _Connection) else None
        opened = self._connection_span(connection, client) if connection is not None else None
        parent, links = client or opened, [opened] if client is not None and opened is not None else []
        if connection is not None:
            connection.requests += 1
            if client is None and connection.requests > CONNECTION_MAX and opened is not None:
                parent, links = None, [opened]
        method = request.method if request is not None else "CONNECT"
        path = _ROUTES.get(route.target.kind, "") if route is not None else ""
        told = _asked(exchange, request_id, method, path)
        return begin(
            self._tracer, f"{method} {path}".rstrip(), told, parent, epoch_of(exchange.started), links
        )

    def _connection_span(self, connection: _Connection, client: Span | None) -> Span:
        """Return the span of a CONNECT, made with the first request on it that is recorded."""
        if connection.span is None:
            told: dict[str, str | int] = {
                "http.request.method": "CONNECT",
                "client.address": connection.peer,
                "server.address": connection.host,
            }
            span = begin(self._tracer, "CONNECT", told, client, epoch_of(connection.since))
            done = connection.done or connection.since
            span.span.add_event("TLS", {}, epoch_of(done))
            span.span.end(epoch_of(done))
            connection.span = span
        return connection.span.span


def _asked(exchange: Exchange, request_id: str, method: str, path: str) -> Attributes:
    """Return what a request tells; of its URL the path alone, as a query may carry secrets."""
    origin, route = exchange.origin, exchange.route
    told: dict[str, str | int] = {
        "http.request.method": method,
        "client.address": exchange.peer,
        "regproxy.request_id": request_id,
    }
    if exchange.host:
        told |= {"server.address": origin.host if origin is not None else exchange.host}
    if origin is not None:
        told |= {"server.port": origin.port, "url.scheme": origin.scheme, "regproxy.registry": origin.name}
    if exchange.uri:
        told["url.path"] = exchange.uri
    if path:
        told["http.route"] = path
    if route is not None and route.target.repository:
        told |= {"regproxy.repository": route.target.repository}
        told |= {"regproxy.reference": route.target.reference} if route.target.reference else {}
    return told


def _answered(exchange: Exchange, sent: int) -> Attributes:
    told: dict[str, str | int] = {
        "http.response.status_code": exchange.status,
        "http.response.body.size": sent,
        "regproxy.type": exchange.kind,
        "regproxy.cache.status": exchange.cache,
        "regproxy.digest": exchange.digest,
        "regproxy.rule": exchange.rule,
    }
    return {name: value for name, value in told.items() if value not in ("", 0) or name.endswith("size")}


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    """Return a positive number of OpenTelemetry's environment; what is none is ignored, as the SDK does."""
    text = env.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 10_000_000 else default
