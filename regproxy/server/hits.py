"""Serve cached content: all of it, a range, or 304 where the client has it already."""

from __future__ import annotations

from regproxy.cache.blobs import Blob
from regproxy.core.errors import Unsatisfiable
from regproxy.dataplane.sources import FileSource
from regproxy.fill.tag_request import Held
from regproxy.http.messages import Request
from regproxy.http.ranges import Span, if_range_allows, none_match, parse_range, parse_ranges
from regproxy.server import multipart
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.responder import SAVED, Responder, content_headers


class Hits:
    """Answers from the cache: 200, 206, 304 or 416."""

    __slots__ = ("_index", "_lookup", "_responder")

    def __init__(self, services: Services, responder: Responder) -> None:
        self._index = services.index
        self._lookup = services.lookup
        self._responder = responder

    def serve(self, exchange: Exchange, held: Held, cache: str) -> None:
        """Answer with the content that the lookup has found."""
        blob, media_type = held
        exchange.cache, exchange.digest = cache, blob.digest
        request, route, responder = exchange.request, exchange.route, self._responder
        assert request is not None
        if cache in SAVED and request.method == "GET":
            self._index.hit(blob.digest)
        else:
            self._index.touch(blob.digest)
        if route is None or route.conditional:
            self._serve_conditional(exchange, blob, request, media_type)
            return
        closes = responder.closes(exchange)
        key = (exchange.kind, cache, closes, request.minor, media_type, exchange.warning)
        head = blob.heads.get(key)
        if head is None:
            headers = content_headers(blob.digest, media_type, blob.size)
            head = blob.heads[key] = responder.head(exchange, 200, headers)
        if request.method == "HEAD":
            responder.send(exchange, 200, head)
        elif blob.small is not None:
            responder.send(exchange, 200, head, blob.small)
        else:
            responder.send(exchange, 200, head, b"", FileSource(blob.file, 0, blob.size))

    def serve_brought(self, exchange: Exchange, blob: Blob, told: str, cache: str) -> None:
        """Answer with content that was fetched. `told`: the media type that its registry has told."""
        origin, route = exchange.origin, exchange.route
        assert origin is not None
        assert route is not None
        self.serve(exchange, self._lookup.brought(origin, route.target, route, blob, told), cache)

    def _serve_conditional(self, exchange: Exchange, blob: Blob, request: Request, media_type: str) -> None:
        etag, responder = blob.etag, self._responder
        if none_match(request.get(b"if-none-match"), etag):
            responder.send(exchange, 304, responder.head(exchange, 304, [(b"etag", etag)]))
            return
        said = request.get(b"range") if request.method == "GET" else None
        if said is not None and if_range_allows(request.get(b"if-range"), etag):
            try:
                spans = _spans(said, blob.size)
            except Unsatisfiable:
                responder.unsatisfiable(exchange, blob.size)
                return
            if len(spans) > 1:
                multipart.send(exchange, responder, blob, media_type, spans)
                return
            if spans:
                self._serve_range(exchange, blob, media_type, spans[0])
                return
        headers = content_headers(blob.digest, media_type, blob.size)
        body = FileSource(blob.file, 0, blob.size) if request.method == "GET" else None
        responder.send(exchange, 200, responder.head(exchange, 200, headers), b"", body)

    def _serve_range(self, exchange: Exchange, blob: Blob, media_type: str, span: Span) -> None:
        headers = content_headers(blob.digest, media_type, span.length)
        headers.append((b"content-range", span.content_range(blob.size)))
        source = FileSource(blob.file, span.start, span.stop)
        head = self._responder.head(exchange, 206, headers)
        self._responder.send(exchange, 206, head, b"", source)


def _spans(said: bytes, total: int) -> list[Span]:
    """Return what a Range header asks for of `total` bytes; empty: all of it. Raises Unsatisfiable."""
    asked = parse_range(said)
    if asked is not None:
        return [asked.resolve(total)]
    several = parse_ranges(said)
    return multipart.spans_of(several, total) if several else []
