"""Several ranges of a stored content in one answer: multipart/byteranges (RFC 9110 14.6)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from regproxy.cache.blobs import Blob
from regproxy.dataplane.sources import FileSource
from regproxy.http.ranges import ByteRange, Span, resolve_ranges
from regproxy.server.exchange import Exchange
from regproxy.server.responder import Responder, content_headers


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is sent: the head of each part and its bytes, and what ends the last one."""

    boundary: bytes
    heads: tuple[bytes, ...]
    spans: tuple[Span, ...]

    @property
    def end(self) -> bytes:
        return b"\r\n--" + self.boundary + b"--\r\n"

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return sum(map(len, self.heads)) + sum(span.length for span in self.spans) + len(self.end)


def spans_of(ranges: tuple[ByteRange, ...], total: int) -> list[Span]:
    """Return the spans to send of `total` bytes; empty: all of it is to be sent instead.

    So it is where they name more bytes than there are: a server has no need to send any byte twice (RFC 9110
    14.2). Raises Unsatisfiable.
    """
    spans = resolve_ranges(ranges, total)
    return spans if sum(span.length for span in spans) <= total else []


def send(exchange: Exchange, responder: Responder, blob: Blob, media_type: str, spans: list[Span]) -> None:
    """Begin to answer with several spans; a task sends the parts one after another."""
    parts = _parts(blob, media_type, spans)
    kind = "multipart/byteranges; boundary=" + parts.boundary.decode()
    head = responder.head(exchange, 206, content_headers(blob.digest, kind, parts.length))
    exchange.task = responder.loop.create_task(_send(exchange, responder, blob, parts, head))


async def _send(exchange: Exchange, responder: Responder, blob: Blob, parts: _Parts, head: bytes) -> None:
    stream = exchange.stream
    head = responder.begin(exchange, 206, head)
    for part, span in zip(parts.heads, parts.spans, strict=True):
        waiter = exchange.sent_waiter = responder.loop.create_future()
        if not stream.send(head + part, b"", FileSource(blob.file, span.start, span.stop)):
            if not stream.open:
                return  # the session has been told
            await waiter
        exchange.sent_waiter, head = None, b""
    exchange.ending = True
    if stream.send(parts.end):
        responder.finish(exchange)


def _parts(blob: Blob, media_type: str, spans: list[Span]) -> _Parts:
    boundary = secrets.token_hex(16).encode()
    about = b"\r\n--" + boundary + b"\r\ncontent-type: " + media_type.encode("latin-1")
    heads = (about + b"\r\ncontent-range: " + span.content_range(blob.size) + b"\r\n\r\n" for span in spans)
    return _Parts(boundary, tuple(heads), tuple(spans))
