"""Know, within a task, for which request of a client it works: log lines and traces are told apart by that.

A task inherits it from the task that has begun it, so what a request has begun is known as its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

Attributes = Mapping[str, str | int | float | bool]


class TraceSpan(Protocol):
    """One piece of work in a trace. No method waits, or raises anything."""

    def child(self, name: str, attributes: Attributes) -> TraceSpan:
        """Begin a request to another server within this work."""

    def apart(self, name: str, attributes: Attributes) -> TraceSpan:
        """Begin work that others may share: in a trace of its own, to which this span has a link."""

    def link(self, other: TraceSpan) -> None:
        """Note that this work has waited for another trace's."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Note that something has happened now."""

    def put(self, attributes: Attributes) -> None:
        """Add to what the span tells."""

    def end(self, error: BaseException | None = None) -> None:
        """End the work, for good."""

    @property
    def trace_id(self) -> str:
        """The trace's id, in hex."""

    @property
    def traceparent(self) -> bytes:
        """What another server is told of it (W3C Trace Context)."""


class RequestContext(Struct, frozen=True):
    """`request_id`: as the client is told it. `span`: what is being worked on, None if it is not traced."""

    request_id: str
    span: TraceSpan | None = None


CURRENT: Final[ContextVar[RequestContext | None]] = ContextVar("request", default=None)


def current_span() -> TraceSpan | None:
    """Return the span of the work that this task does, None where it is not traced."""
    current = CURRENT.get()
    return current.span if current is not None else None


@contextmanager
def within(span: TraceSpan) -> Iterator[TraceSpan]:
    """Do the work of a span, which ends with it."""
    current = CURRENT.get()
    token = CURRENT.set(replace(current, span=span) if current is not None else None)
    try:
        yield span
    except BaseException as error:
        span.end(error)
        raise
    else:
        span.end()
    finally:
        CURRENT.reset(token)
