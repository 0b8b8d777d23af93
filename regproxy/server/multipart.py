"""Answer a request for several ranges of stored content with multipart/byteranges (RFC 9110 14.6)."""

from __future__ import annotations

import secrets

from msgspec import Struct

from regproxy.cache.blobs import Blob
from regproxy.dataplane.sources import FileSource
from regproxy.http.ranges import ByteRange, Span, resolve_ranges
from regproxy.server.exchange import Exchange
from regproxy.server.responder import Responder, content_headers


class _Parts(Struct, frozen=True):
    """The body: each part's head and span of the content; `end` is the closing delimiter (RFC 2046 5.1.1)."""

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
    """Return the spans that the ranges name of `total` bytes; empty: answer with the whole content instead.

    That is where ranges overlap and add up to more than the whole: a server need not send bytes twice (RFC
    9110 14.2, 15.3.7.2). Raises Unsatisfiable.
    """
    spans = resolve_ranges(ranges, total)
    return spans if sum(span.length for span in spans) <= total else []


def send(exchange: Exchange, responder: Responder, blob: Blob, media_type: str, spans: list[Span]) -> None:
    """Begin to answer with several spans, which a task then sends part by part."""
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
                return  # the stream has told the session that it was lost
            await waiter
        exchange.sent_waiter, head = None, b""
    exchange.ending = True
    if stream.send(parts.end):
        responder.finish(exchange)


def _parts(blob: Blob, media_type: str, spans: list[Span]) -> _Parts:
    boundary = secrets.token_hex(16).encode()
    common = b"\r\n--" + boundary + b"\r\ncontent-type: " + media_type.encode("latin-1")
    heads = (common + b"\r\ncontent-range: " + span.content_range(blob.size) + b"\r\n\r\n" for span in spans)
    return _Parts(boundary, tuple(heads), tuple(spans))
