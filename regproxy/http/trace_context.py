"""Read and write the fields by which a request is followed through several programs (W3C Trace Context)."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from regproxy.http.messages import Request

REQUEST_ID_MAX: Final = 128  # characters of a client's own id that are kept
_TRACEPARENT: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_SAMPLED: Final = 1
_ODD: Final = re.compile(r"[^!-~]")


class TraceContext(Struct, frozen=True):
    """The trace that a request is part of, and the span that it comes from; both in hex.

    `sampled`: whoever has sent it records the trace.
    """

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> bytes:
        """The field's value, of version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}".encode()


def parse_traceparent(values: list[bytes]) -> TraceContext | None:
    """Return what the traceparent fields of a request say, None where that is not well-formed.

    One field, lower case hex, no id that is zero, nothing behind version 00 (W3C Trace Context 3.2.2); of a
    higher version the parts of 00 are taken.
    """
    match = _TRACEPARENT.fullmatch(values[0].strip(b" \t")) if len(values) == 1 else None
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5]):
        return None
    if not int(match[2], 16) or not int(match[3], 16):
        return None
    return TraceContext(match[2].decode(), match[3].decode(), bool(int(match[4], 16) & _SAMPLED))


def trace_of(request: Request) -> TraceContext | None:
    """Return the trace that a client says its request is part of, None where it does not."""
    return parse_traceparent(request.all(b"traceparent"))


def own_id_of(request: Request) -> str:
    """Return the id that a client has given its request, as it may stand in a log; "" without one.

    It says what the client has made up: it need not be unique.
    """
    said = request.get(b"x-request-id") or b""
    return _ODD.sub("?", said[:REQUEST_ID_MAX].decode("latin-1"))
