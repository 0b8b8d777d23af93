"""Answering one request: heads, errors, hits from the cache, and the record of it in log and metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Final

from regproxy.cache.blobs import Blob
from regproxy.cache.index.index import TagRow
from regproxy.core.errors import BadResponse, Unsatisfiable
from regproxy.dataplane.sources import FileSource
from regproxy.dataplane.stream import Stream
from regproxy.fill.fills import NO_TYPE
from regproxy.http.messages import Request, build_head, if_range_allows, none_match, parse_range
from regproxy.http.origin import Origin
from regproxy.registry import targets
from regproxy.registry.targets import Kind, ManifestType
from regproxy.server.context import Route, Services

log = logging.getLogger(__name__)

_METHODS: Final = {"connect": "CONNECT", "tunnel": "CONNECT"}
# nginx's word -> the Cache-Status of RFC 9211
_CACHE_STATUS: Final = {
    "HIT": b"regproxy; hit",
    "MISS": b"regproxy; fwd=miss; stored",
    "UPDATING": b"regproxy; fwd=miss; collapsed",
    "EXPIRED": b"regproxy; fwd=stale; stored",
    "REVALIDATED": b"regproxy; fwd=stale; detail=revalidated",
    "STALE": b"regproxy; hit; detail=stale",
    "BYPASS": b"regproxy; fwd=bypass",
}
# What the body did not have to be fetched for.
_SAVED: Final = frozenset({"HIT", "STALE", "REVALIDATED"})


class Answerer:
    """A client stream with the state of the request that is being answered."""

    __slots__ = (
        "_addressed",
        "_asked",
        "_asked_seconds",
        "_base",
        "_body_left",
        "_body_over",
        "_cache",
        "_ending",
        "_keeps",
        "_kind",
        "_peer",
        "_request",
        "_route",
        "_s",
        "_sent_waiter",
        "_started",
        "_status",
        "_task",
        "_waiting",
        "host",
        "origin",
        "stream",
    )

    def __init__(self, services: Services, stream: Stream) -> None:
        self._s = services
        self.stream = stream
        self.origin: Origin | None = None
        self.host = ""
        self._task: asyncio.Task[None] | None = None
        self._sent_waiter: asyncio.Future[None] | None = None
        self._request: Request | None = None
        self._route: Route | None = None
        # The last `Route.named` that was found to be this connection's origin.
        self._addressed: tuple[str, int] | None = None
        self._started = 0.0
        self._waiting = False
        self._keeps = self._body_left = False
        self._peer = stream.peer
        self._body_over: asyncio.Future[None] | None = None
        self._reset()
        stream.handler = self
        config = services.config
        stream.set_send_timeout(config.send_timeout)
        stream.next_head(config.client_header_timeout, config.client_header_timeout)

    def _reset(self) -> None:
        self._status = 0
        self._ending = False
        self._kind = ""
        self._cache = ""
        self._asked = ""
        self._asked_seconds: float | None = None
        self._base = self.stream.plain_sent

    # --- the end of a request ----------------------------------------------------------------------------

    def _begin(self, request: Request | None) -> None:
        self._started = time.monotonic()
        self._request = request
        self._keeps = self._body_left = False
        self._reset()

    def _wait_for_fill(self, waiting: bool) -> None:
        """Count this client among those that read from something while it is fetched."""
        if waiting != self._waiting:
            self._waiting = waiting
            self._s.fills.waiters += 1 if waiting else -1

    def _cancel(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _cut(self) -> None:
        """Break the connection where an answer can't be completed."""
        self.stream.abort()
        self._cancel()
        self._record()

    @property
    def uri(self) -> str:
        """The path that was asked for; the query may carry secrets and belongs in no log."""
        return self._request.path.partition("?")[0] if self._request is not None else ""

    def _record(self) -> None:
        """Count and log the request that has ended, however it ended."""
        services, request = self._s, self._request
        now = time.monotonic()
        took = now - self._started
        sent = self.stream.plain_sent - self._base
        # A name that anybody may make up is no label.
        registry = self.host if self.origin is not None else ""
        tally = services.metrics.tally(registry, self._kind, self._cache, self._status)
        tally.add(sent, took)
        if self._cache in _SAVED:
            tally.add_saved(sent)
        services.access.line(
            time.time(),
            self._peer,
            request.method if request is not None else _METHODS.get(self._kind, ""),
            request.path if request is not None else "",
            self.host,
            self._status,
            sent,
            took,
            self._kind,
            self._cache,
            self._asked_seconds,
            self.host if self._asked else "",
            self._asked,
        )
        self._status = 0
        if self._waiting:
            self._wait_for_fill(False)

    def _finish(self) -> None:
        """The answer is out: log it, and wait for the next request or close."""
        self._record()
        self._task = None
        closes = not self._keeps or self._body_left or self._s.drains
        unread = self._unread()
        self._request = None
        if closes:
            self.stream.close(unread)
            return
        config = self._s.config
        self.stream.next_head(config.keepalive_timeout, config.client_header_timeout)

    def _send(
        self,
        status: int,
        head: bytes,
        body: bytes = b"",
        source: FileSource | None = None,
        chunked: bool = False,
    ) -> None:
        """Send an answer whose head lacks its Date and empty line."""
        self._status = status
        head += self._s.date()
        self._base = self.stream.plain_sent + len(head)
        self._ending = True
        if self.stream.send(head, body, source, chunked):
            self._finish()

    def _closes(self) -> bool:
        """Whether this answer says that the connection ends with it; what was said once stays so."""
        if self._s.closes or self.stream.spent:
            self._keeps = False
        return not self._keeps or self._body_left

    def _unread(self) -> bool:
        """Whether the client may still be sending something that nobody will read."""
        return self._request is None or self._body_left

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """A head without the empty line; the caller's headers and ours."""
        if self._kind and self._request is not None:
            headers.append((b"x-docker-registry-proxy-cache-type", self._kind.encode()))
        if self._cache:
            headers.append((b"x-docker-registry-proxy-cache-upstream-status", self._cache.encode()))
            headers.append((b"cache-status", self._cache_status(status)))
        if self._closes():
            headers.append((b"connection", b"close"))
        elif self._request is not None and self._request.minor == 0:
            headers.append((b"connection", b"keep-alive"))
        return build_head(status, headers)[:-2]

    def _cache_status(self, status: int) -> bytes:
        value = _CACHE_STATUS[self._cache]
        if self._cache == "BYPASS" and self._route is not None and self._route.shared.own:
            return value + b"; detail=unkeyed-input"
        if status >= 400 or (self._request is not None and self._request.method == "HEAD"):
            return value.removesuffix(b"; stored")
        return value

    def _error(
        self, status: int, code: str, message: str, *, close: bool = False, retry_after: int = 0
    ) -> None:
        """An error of ours: OCI JSON for registry paths, else plain text. `retry_after`: seconds or 0."""
        if close:
            self._request = None
        if self.origin is None or (not self.uri.startswith(("/v2", "/token")) and not close):
            self._plain_error(status, message, retry_after)
            return
        body = targets.error_body(code, message)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        self._answer(status, headers, body)

    def _plain_error(self, status: int, message: str, retry_after: int = 0) -> None:
        body = f"regproxy: {message}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        self._answer(status, headers, body)

    def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        head = self._head(status, headers)
        without_body = self._request is not None and self._request.method == "HEAD"
        self._send(status, head, b"" if without_body else body)

    def _front(self, request: Request) -> None:
        """Plain HTTP on the proxy port, or our own name: the pages."""
        page = self._s.pages.front(request)
        self._kind = "page"
        headers = [(b"content-type", page.content_type), (b"content-length", b"%d" % len(page.body))]
        self._answer(page.status, headers, page.body)

    # --- hits --------------------------------------------------------------------------------------------

    def _lookup(self, digest: str) -> Blob | None:
        blob = self._s.store.lookup(digest)
        if blob is not None and not blob.known:
            return self._first_sight(blob)
        return blob

    def _first_sight(self, blob: Blob) -> Blob | None:
        """Content that was not in memory: what the index knows of it, and whether the file is still that."""
        row = self._s.index.object(blob.digest)
        if row is not None and row.size != blob.size:
            log.warning("%s has %d bytes on disk instead of %d: removed", blob.digest, blob.size, row.size)
            self._drop(blob.digest)
            return None
        blob.known = True
        if row is None:
            # The index was lost.
            self._s.index.put_object(blob.digest, blob.size, None, blob.disk)
        elif row.media_type is not None:
            blob.manifest = ManifestType(row.media_type, True)
        return blob

    def _manifest_type(self, blob: Blob, told: str = "") -> str:
        """Return the media type to send with a manifest, "" where this content is none.

        Its bytes decide; where they don't say, `told`, which is what the registry has said of it there.
        """
        manifest = blob.manifest
        if manifest is None:
            manifest = blob.manifest = self._read_type(blob)
        return manifest.media_type if manifest.stated else manifest.told(told)

    def _read_type(self, blob: Blob) -> ManifestType:
        if blob.size > targets.MANIFEST_MAX:
            return targets.NO_MANIFEST
        body = blob.small if blob.small is not None else os.pread(blob.file.fd, blob.size, 0)
        try:
            manifest = targets.manifest_type(body)
        except BadResponse:
            return targets.NO_MANIFEST
        if manifest.stated:
            self._s.index.put_object(blob.digest, blob.size, manifest.media_type, blob.disk)
        return manifest

    def _digest_type(self, origin: Origin, route: Route, blob: Blob, told: str = "") -> str:
        """Return the media type to send with content by digest; "": a manifest is wanted, and it is none."""
        if route.target.kind is Kind.BLOB:
            return NO_TYPE
        if blob.manifest is None or not blob.manifest.stated:
            index, repository = self._s.index, route.shared.repository
            told = told or index.told(origin.host, origin.port, repository, blob.digest)
        return self._manifest_type(blob, told)

    def _drop(self, digest: str) -> None:
        self._s.store.remove(digest)
        self._s.index.drop_object(digest)

    def _tag_rows(self, origin: Origin, route: Route) -> tuple[TagRow, ...]:
        repository, tag = route.shared.repository, route.target.reference
        return self._s.index.tag(origin.host, origin.port, repository, tag)

    def _held(self, origin: Origin, route: Route) -> tuple[TagRow | None, Blob | None, str]:
        """The stored variant of a tag that suits the request, its content and type; all or none of them."""
        row = route.choose(self._tag_rows(origin, route))
        return self._content(row, route) if row is not None else (None, None, "")

    def _content(self, row: TagRow, route: Route) -> tuple[TagRow | None, Blob | None, str]:
        """What a tag's row names, where it is held and of a type that the request takes."""
        blob = self._lookup(row.digest)
        if blob is None:
            return None, None, ""
        media_type = self._manifest_type(blob, row.media_type) or row.media_type
        if media_type != row.media_type and not route.accept.accepts(media_type):
            return None, None, ""
        return row, blob, media_type

    def _serve(self, blob: Blob, cache: str, media_type: str) -> None:
        """Answer from the cache: 200, 206, 304 or 416."""
        self._cache = cache
        self._s.index.touch(blob.digest)
        request = self._request
        assert request is not None
        if self._route is None or self._route.conditional:
            self._serve_conditional(blob, request, media_type)
            return
        key = (self._kind, cache, self._closes(), request.minor, media_type)
        head = blob.heads.get(key)
        if head is None:
            head = blob.heads[key] = self._head(200, content_headers(blob.digest, media_type, blob.size))
        if request.method == "HEAD":
            self._send(200, head)
        elif blob.small is not None:
            self._send(200, head, blob.small)
        else:
            self._send(200, head, b"", FileSource(blob.file, 0, blob.size))

    def _serve_conditional(self, blob: Blob, request: Request, media_type: str) -> None:
        etag = blob.etag
        if none_match(request.get(b"if-none-match"), etag):
            self._send(304, self._head(304, [(b"etag", etag)]))
            return
        asked = parse_range(request.get(b"range")) if request.method == "GET" else None
        if asked is not None and if_range_allows(request.get(b"if-range"), etag):
            try:
                span = asked.resolve(blob.size)
            except Unsatisfiable:
                self._unsatisfiable(blob.size)
                return
            headers = content_headers(blob.digest, media_type, span.length)
            headers.append((b"content-range", span.content_range(blob.size)))
            self._send(206, self._head(206, headers), b"", FileSource(blob.file, span.start, span.stop))
            return
        head = self._head(200, content_headers(blob.digest, media_type, blob.size))
        body = FileSource(blob.file, 0, blob.size) if request.method == "GET" else None
        self._send(200, head, b"", body)

    def _unsatisfiable(self, total: int) -> None:
        body = targets.error_body("RANGE_INVALID", f"the content has {total} bytes")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"content-range", b"bytes */%d" % total),
        ]
        self._send(416, self._head(416, headers), body)


def content_headers(digest: str, media_type: str, length: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of verified content, stored or on its way, `length` bytes of which are sent.

    -1: nobody knows how many; they go out in chunks.
    """
    name = digest.encode()
    framing = (b"content-length", b"%d" % length) if length >= 0 else (b"transfer-encoding", b"chunked")
    return [
        (b"content-type", media_type.encode("latin-1")),
        framing,
        (b"docker-content-digest", name),
        (b"etag", b'"' + name + b'"'),
        (b"accept-ranges", b"bytes"),
        (b"docker-distribution-api-version", b"registry/2.0"),
    ]
