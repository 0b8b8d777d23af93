"""Know, within a task, for which request of a client it works: log lines and traces are told apart by that.

A task inherits it from the task that has begun it, so what a request has begun is known as its own.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`request_id`: as the client is told it."""

    request_id: str


CURRENT: Final[ContextVar[RequestContext | None]] = ContextVar("request", default=None)
