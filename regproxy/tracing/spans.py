"""Spans as OpenTelemetry has them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from regproxy.core.request_context import Attributes
from regproxy.core.request_context import TraceSpan as AnySpan
from regproxy.http.trace_context import TraceContext


class OtelSpan:
    """A span of OpenTelemetry's SDK: see request_context.Span."""

    __slots__ = ("_tracer", "span")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self.span = span

    def child(self, name: str, attributes: Attributes) -> OtelSpan:
        """Begin a request to another server within this work."""
        return self._begin(name, self.span, SpanKind.CLIENT, attributes)

    def apart(self, name: str, attributes: Attributes) -> OtelSpan:
        """Begin work that others may share: in a trace of its own, to which this span has a link."""
        other = self._begin(name, trace.INVALID_SPAN, SpanKind.INTERNAL, attributes)
        self.link(other)
        return other

    def _begin(self, name: str, parent: trace.Span, kind: SpanKind, attributes: Attributes) -> OtelSpan:
        above = trace.set_span_in_context(parent)
        return OtelSpan(self._tracer, self._tracer.start_span(name, above, kind, dict(attributes)))

    def link(self, other: AnySpan) -> None:
        """Note that this work has waited for another trace's."""
        if isinstance(other, OtelSpan):
            self.span.add_link(other.span.get_span_context())

    def event(self, name: str, attributes: Attributes) -> None:
        """Note that something has happened now."""
        self.span.add_event(name, dict(attributes))

    def put(self, attributes: Attributes) -> None:
        """Add to what the span tells."""
        self.span.set_attributes(dict(attributes))

    def end(self, error: BaseException | None = None) -> None:
        """End the work, for good. Of an error its sort is told, and its text, which has no secrets."""
        if error is not None:
            self.span.set_attribute("error.type", type(error).__name__)
            self.span.set_status(Status(StatusCode.ERROR, str(error)))
        self.span.end()

    @property
    def traceparent(self) -> bytes:
        """What another server is told of it (W3C Trace Context)."""
        context = self.span.get_span_context()
        return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", True).traceparent

    @property
    def trace_id(self) -> str:
        """The trace's id, in hex."""
        return f"{self.span.get_span_context().trace_id:032x}"


def remote(context: TraceContext) -> trace.Span:
    """Return the span of a client that its request has named."""
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    ids = int(context.trace_id, 16), int(context.span_id, 16)
    return trace.NonRecordingSpan(SpanContext(*ids, is_remote=True, trace_flags=flags))


def begin(
    tracer: trace.Tracer,
    name: str,
    attributes: Mapping[str, str | int | float | bool],
    parent: trace.Span | None,
    since: int,
    links: list[trace.Span] | None = None,
) -> OtelSpan:
    """Begin a span for what a client asks. `since`: nanoseconds of the epoch."""
    above = trace.set_span_in_context(parent if parent is not None else trace.INVALID_SPAN)
    linked = [Link(other.get_span_context()) for other in links or ()]
    span = tracer.start_span(name, above, SpanKind.SERVER, dict(attributes), linked, start_time=since)
    return OtelSpan(tracer, span)


def epoch_of(monotonic: float) -> int:
    """Return a moment of time.monotonic() in nanoseconds of the epoch."""
    return time.time_ns() - int((time.monotonic() - monotonic) * 1e9)
