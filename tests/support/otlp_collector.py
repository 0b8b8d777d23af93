"""A test double of an OpenTelemetry collector: takes traces by OTLP/HTTP, decoded by opentelemetry-proto."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.processes import wait_until

Value = str | int | bool | float


@dataclass(frozen=True)
class Seen:
    """One span that was exported; ids in hex, "" where there is none. `links`: trace and span id of each."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Value]
    events: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    failed: bool
    resource: dict[str, Value]


class Collector:
    """Collects spans on a port of its own. `status`: what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self._spans: list[Seen] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The value of OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, data: bytes) -> None:
        """Note the spans of a request."""
        told = ExportTraceServiceRequest.FromString(data)
        for resource in told.resource_spans:
            of = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self._spans += [_seen(span, of) for span in scope.spans]

    def wait(self, wanted: Callable[[Seen], bool], count: int = 1) -> list[Seen]:
        """Wait for so many spans, and return all that there are of them."""
        wait_until(lambda: len(self.find(wanted)) >= count, f"{count} spans come")
        return self.find(wanted)

    def find(self, wanted: Callable[[Seen], bool]) -> list[Seen]:
        """Return the spans that have come."""
        return [span for span in list(self._spans) if wanted(span)]


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                data = gzip.decompress(data)
            if collector.status == 200:
                assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
                collector.take(data)
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


def _values(attributes: Any) -> dict[str, Value]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _seen(span: Any, resource: dict[str, Value]) -> Seen:
    return Seen(
        span.name,
        {2: "server", 3: "client"}.get(span.kind, "internal"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        tuple(event.name for event in span.events),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        span.status.code == 2,
        resource,
    )
