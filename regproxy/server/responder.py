"""Send heads, errors and answers to clients, and record each request in log and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from regproxy.core.errors import RegproxyError, log_level
from regproxy.dataplane.sources import FileSource
from regproxy.dataplane.tally import Use
from regproxy.fill.fill import UpstreamAnswer
from regproxy.http.forwarding import build_head, forwarded
from regproxy.http.hops import parse_hops
from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.registry.error_bodies import error_body
from regproxy.registry.targets import Kind, parse_target
from regproxy.server.clients import REALM, LoginWanted
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.routes import Route
from regproxy.telemetry.live_events import REFUSED

log = logging.getLogger(__name__)

REQUEST_ID: Final = b"x-request-id"
_ID_FIELD: Final = REQUEST_ID + b": "
_ORIGINS_ID: Final = b"x-upstream-request-id"  # an origin's own, which its operators may ask for
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

_UNLOGGED: Final = frozenset({"connect", "tunnel", "page"})
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
# The body came from the cache.
_PULLED: Final = frozenset({200, 206, 304})
# Accessing a member of an enum is slow.
_BLOB: Final = Kind.BLOB
_TAG: Final = Kind.TAG
_MANIFEST: Final = Kind.MANIFEST
SAVED: Final = frozenset({"HIT", "STALE", "REVALIDATED"})


class Responder:
    """Sends answers, and ends exchanges with them."""

    __slots__ = ("_config", "_next_id", "_services")

    def __init__(self, services: Services) -> None:
        self._services = services
        self._next_id = services.ids.next
        self._config = services.config

    # --- which request it is -----------------------------------------------------------------------------

    def id_of(self, exchange: Exchange) -> str:
        """Return the id of the request that is being answered: no other request of any worker has it."""
        exchange.request_id = exchange.request_id or self._next_id()
        return exchange.request_id.decode()

    def about(self, exchange: Exchange) -> dict[str, object]:
        """Return the fields of the log that tell a request."""
        route = exchange.route
        return {
            "request_id": self.id_of(exchange),
            "client": exchange.peer,
            "host": exchange.host,
            "repository": route.target.repository if route is not None else "",
            "digest": route.target.reference if route is not None and route.by_digest is not None else "",
        }

    # --- the end of a request ----------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The worker's."""
        return self._services.loop

    def finish(self, exchange: Exchange) -> None:
        """Log the answer that has been sent, and wait for the next request or close."""
        self.record(exchange)
        exchange.task = None
        if not exchange.keeps or exchange.body_left or self._services.drains:
            unread = exchange.unread
            exchange.request = None
            exchange.stream.close(unread)
            return
        exchange.request = None
        config = self._config
        exchange.stream.next_head(config.keepalive_timeout, config.client_header_timeout)

    def cut(self, exchange: Exchange) -> None:
        """Break the connection where an answer can't be completed."""
        exchange.stream.abort()
        exchange.cancel()
        self.record(exchange)

    def record(self, exchange: Exchange) -> None:
        """Count and log the request that has ended, however it ended."""
        services, request, route = self._services, exchange.request, exchange.route
        took = time.monotonic() - exchange.started
        sent = exchange.stream.plain_sent - exchange.base
        self._count(exchange, sent, took)
        if services.audit is not None and route is not None and exchange.origin is not None:
            services.audit.note(exchange, route, took, sent)
        if services.tracer is not None:
            services.tracer.end(exchange, self.id_of(exchange), took, sent)
        if exchange.asked or services.access.rp:
            self._log_asked(exchange, sent, took)
        else:
            # Most are hits: nobody was asked, and no other call is made for them.
            exchange.request_id = exchange.request_id or self._next_id()
            plain = route if not exchange.fill_id and exchange.span is None else None
            services.access.line(
                time.time(),
                exchange.peer,
                request.method if request is not None else _METHODS.get(exchange.kind, ""),
                route.path if route is not None and request is not None else "",
                exchange.host,
                exchange.status,
                sent,
                took,
                exchange.kind,
                exchange.cache,
                exchange.asked_seconds,
                "",
                "",
                exchange.request_id.decode(),
                plain.told if plain is not None else _more(exchange),
            )
        exchange.status = 0
        exchange.span = None
        if exchange.waiting:
            self.wait_for_fill(exchange, False)

    def _count(self, exchange: Exchange, sent: int, took: float) -> None:
        """Count a request for metrics, its client and its image; for a hit without more calls in Python."""
        origin, route, cache, status = exchange.origin, exchange.route, exchange.cache, exchange.status
        # A name that a client may make up is no label.
        host = exchange.host if origin is not None else ""
        tally = self._services.metrics.tally(host, exchange.kind, cache, status)
        tally.add(sent, took)
        saved = sent if cache in SAVED else 0
        if saved:
            tally.add_saved(sent)
        if origin is None or route is None:
            return
        client, image = exchange.client, route.image
        used = client[1] if client is not None and client[0] is exchange.principal else None
        (self._client_of(exchange) if used is None else used).add(1, sent, saved)
        if status in _PULLED:
            known = image if image is not None and image[0] is origin else None
            pulled = known[1] if known is not None else self._image_of(exchange, origin, route)
            if pulled is not None:
                pulled.add(1, sent, saved)

    def _client_of(self, exchange: Exchange) -> Use:
        """Return what counts a client's requests, and have it at hand for the next one."""
        principal = exchange.principal
        use = self._services.usage.clients.of((principal.kind, principal.name or exchange.peer))
        exchange.client = (principal, use)
        return use

    def _image_of(self, exchange: Exchange, origin: Origin, route: Route) -> Use | None:
        """Return what counts the pulls that a request is one of, and have it at hand for equal ones."""
        request, use = exchange.request, None
        if request is None:
            return None
        if request.method == "GET":
            # A rule may have led it elsewhere.
            target = route.target if request is route.request else parse_target(request.path)
            kind = target.kind
            if kind is _BLOB or kind is _TAG or kind is _MANIFEST:
                reference = "" if kind is _BLOB else target.reference
                use = self._services.usage.images.of((origin.host, origin.port, target.repository, reference))
        route.image = (origin, use)
        return use

    def note_refusal(self, exchange: Exchange, kind: str, rule: str, message: str) -> None:
        """Note a request that is refused: by a rule, access or a login (`kind`)."""
        origin, route, principal = exchange.origin, exchange.route, exchange.principal
        host, port = (origin.host, origin.port) if origin is not None else (exchange.host, 0)
        target = parse_target(exchange.request.path) if exchange.request is not None else None
        image = (
            (target.repository, target.reference) if route is not None and target is not None else ("", "")
        )
        who = (principal.kind, principal.name, exchange.peer)
        self._services.usage.refused(kind, who, (host, port, *image), rule, message)
        name = origin.name if origin is not None else host
        where = {"registry": name, "repository": image[0], "reference": image[1]}
        told = {"kind": kind, "rule": rule, "reason": message, "client": principal.name or exchange.peer}
        self._services.events.note(REFUSED, **where, **told)

    def _log_asked(self, exchange: Exchange, sent: int, took: float) -> None:
        """Log a request for which origins were asked, or any in docker-registry-proxy's format."""
        access, request, route, kind = self._services.access, exchange.request, exchange.route, exchange.kind
        host, status, cache, hops = exchange.host, exchange.status, exchange.cache, parse_hops(exchange.asked)
        method = request.method if request is not None else _METHODS.get(kind, "")
        path = route.path if route is not None and request is not None else ""
        if access.rp:
            host = exchange.bare_host
            if exchange.origin is not None and kind not in _UNLOGGED:
                access.rp_line(time.time(), method, path, host, status, sent, kind, cache, hops)
            return
        asked = (host, hops[-1].address) if hops else ("", "")
        who = (time.time(), exchange.peer, method, path, host, status)
        which = (self.id_of(exchange), _more(exchange))
        access.line(*who, sent, took, kind, cache, exchange.asked_seconds, *asked, *which)

    def wait_for_fill(self, exchange: Exchange, waiting: bool) -> None:
        """Count a client, or no longer, among those that wait for a fill or read from it."""
        if waiting != exchange.waiting:
            exchange.waiting = waiting
            self._services.fills.waiters += 1 if waiting else -1

    # --- heads -------------------------------------------------------------------------------------------

    def send(
        self,
        exchange: Exchange,
        status: int,
        head: bytes,
        body: bytes = b"",
        source: FileSource | None = None,
        chunked: bool = False,
    ) -> None:
        """Send an answer whose head lacks the request's id, its Date and the empty line."""
        stream = exchange.stream
        # As begin(), without the call: a hit has no time to lose.
        exchange.status = status
        exchange.request_id = request_id = exchange.request_id or self._next_id()
        head = b"".join((head, _ID_FIELD, request_id, b"\r\n", self._services.date()))
        exchange.base = stream.plain_sent + len(head)
        exchange.ending = True
        if exchange.good_until and source is None:
            self._keep(exchange, status, head, body)
        if stream.send(head, body, source, chunked):
            self.finish(exchange)

    def _keep(self, exchange: Exchange, status: int, head: bytes, body: bytes) -> None:
        repeats = self._services.repeats
        if repeats is not None:
            repeats.keep(exchange, status, head, body, self._services.second)

    def begin(self, exchange: Exchange, status: int, head: bytes) -> bytes:
        """Note that an answer goes out with this head, and return that with its last fields."""
        exchange.status = status
        exchange.request_id = request_id = exchange.request_id or self._next_id()
        head = b"".join((head, _ID_FIELD, request_id, b"\r\n", self._services.date()))
        exchange.base = exchange.stream.plain_sent + len(head)
        return head

    def closes(self, exchange: Exchange) -> bool:
        """Return whether this answer announces the connection's end; once announced, that stays so."""
        if self._services.closes or exchange.stream.spent:
            exchange.keeps = False
        return not exchange.keeps or exchange.body_left

    def head(self, exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return a head without the empty line; the caller's headers and ours."""
        request = exchange.request
        # As with nginx's add_header; the pages are nothing that is cached.
        shown = status < 400 and exchange.origin is not None
        if shown and exchange.kind and request is not None:
            headers.append((b"x-docker-registry-proxy-cache-type", exchange.kind.encode()))
        if exchange.cache:
            if shown:
                headers.append((b"x-docker-registry-proxy-cache-upstream-status", exchange.cache.encode()))
            headers.append((b"cache-status", _cache_status(exchange, status)))
        if exchange.warning:
            headers.append((b"warning", exchange.warning))
        if self.closes(exchange):
            headers.append((b"connection", b"close"))
        elif request is not None and request.minor == 0:
            headers.append((b"connection", b"keep-alive"))
        return build_head(status, headers)[:-2]

    # --- whole answers -----------------------------------------------------------------------------------

    def answer(
        self, exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Answer with a body in memory; a HEAD gets the head alone."""
        head = self.head(exchange, status, headers)
        without_body = exchange.request is not None and exchange.request.method == "HEAD"
        self.send(exchange, status, head, b"" if without_body else body)

    def pong(self, exchange: Exchange, cache: str) -> None:
        """Answer /v2/ like a registry that wants no credentials. `cache`: STALE in place of one, else ""."""
        exchange.cache = cache
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"2"),
            (b"docker-distribution-api-version", b"registry/2.0"),
        ]
        self.answer(exchange, 200, headers, b"{}")

    def relay_answer(self, exchange: Exchange, answer: UpstreamAnswer) -> None:
        """Pass an origin's refusal on to the client."""
        if answer.hops:
            exchange.asked, exchange.asked_seconds = answer.hops, answer.seconds
        status, headers = answer_of(exchange.route, answer.response)
        headers = [h for h in headers if h[0] not in FRAMING]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        self.answer(exchange, status, headers, answer.body)

    # --- errors ------------------------------------------------------------------------------------------

    def failed(self, exchange: Exchange, error: RegproxyError) -> None:
        """Answer with the error of a request's task, or cut the connection where the answer has begun."""
        if not exchange.stream.open:
            return
        about = self.about(exchange)
        log.log(log_level(error), "%s %s: %s", exchange.host, exchange.uri, error, extra=about)
        if exchange.status:
            self.cut(exchange)
        else:
            self.error(exchange, error.status, error.code, str(error), retry_after=error.retry_after)

    def error(
        self,
        exchange: Exchange,
        status: int,
        code: str,
        message: str,
        *,
        close: bool = False,
        retry_after: int = 0,
    ) -> None:
        """Answer with a proxy error: OCI JSON for registry paths, else text. `retry_after`: seconds or 0."""
        if close:
            exchange.request = None
        if exchange.origin is None or (not exchange.uri.startswith(("/v2", "/token")) and not close):
            self.plain_error(exchange, status, message, retry_after)
            return
        self.registry_error(exchange, status, code, message, retry_after)

    def registry_error(
        self, exchange: Exchange, status: int, code: str, message: str, retry_after: int = 0
    ) -> None:
        """Answer with an error as registries do (OCI distribution spec, "Error Codes")."""
        body = self._error_body(exchange, code, message)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        self.answer(exchange, status, headers, body)

    def _error_body(self, exchange: Exchange, code: str, message: str) -> bytes:
        """Return an error's body; clients show the message alone, so that names the request, too."""
        request_id = self.id_of(exchange)
        return error_body(code, f"{message} (request {request_id})", {"request_id": request_id})

    def plain_error(self, exchange: Exchange, status: int, message: str, retry_after: int = 0) -> None:
        """Answer with an error of the proxy in plain text, for people."""
        body = f"regproxy: {message} (request {self.id_of(exchange)})\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        self.answer(exchange, status, headers, body)

    def not_let_in(self, exchange: Exchange, error: RegproxyError) -> None:
        """Answer a client that is not let in, or not yet: LoginWanted, with a question for its login.

        To whom speaks to the proxy as to a registry that question is a registry's: 401.
        """
        route, status, headers = exchange.route, error.status, [(b"content-type", b"application/json")]
        body = self._error_body(exchange, error.code, str(error))
        if status == LoginWanted.status:
            if route is not None and _speaks_to_proxy(route):
                status = 401
            name = b"www-authenticate" if status == 401 else b"proxy-authenticate"
            headers.append((name, REALM))
        if route is None:  # a CONNECT: people see its answer
            headers[0], body = (
                (b"content-type", b"text/plain; charset=utf-8"),
                f"regproxy: {error} (request {self.id_of(exchange)})\n".encode(),
            )
        if error.retry_after:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        headers.append((b"content-length", b"%d" % len(body)))
        self.answer(exchange, status, headers, body)

    def unsatisfiable(self, exchange: Exchange, total: int) -> None:
        """Answer 416 to a range outside of the content (RFC 9110 15.5.17). `total`: its size in bytes."""
        body = self._error_body(exchange, "RANGE_INVALID", f"the content has {total} bytes")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"content-range", b"bytes */%d" % total),
        ]
        self.send(exchange, 416, self.head(exchange, 416, headers), body)


def answer_of(route: Route | None, response: Response) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Return an origin's status and fields as the client of this route gets them."""
    headers = [(_ORIGINS_ID if name == REQUEST_ID else name, value) for name, value in forwarded(response)]
    if route is None or route.mirrored is None:
        return response.status, headers
    return route.mirrored.answered(response.status, headers, route.path)


def _more(exchange: Exchange) -> str:
    """Return what the access log has of a request besides what all lines have, as its text."""
    route = exchange.route
    told = route.told if route is not None else ""
    fill_id, span = exchange.fill_id, exchange.span
    if span is not None and (route is None or route.trace is None):
        told += f',"trace_id":"{span.trace_id}"'
    if fill_id and fill_id.encode() != exchange.request_id:
        return f'{told},"fill_request_id":"{fill_id}"'
    return told


def _speaks_to_proxy(route: Route) -> bool:
    """Return whether a request without CONNECT takes this proxy for a registry."""
    mirrored = route.mirrored
    return route.request.target.startswith("/") if mirrored is None else mirrored.for_proxy


def _cache_status(exchange: Exchange, status: int) -> bytes:
    value, request, route = _CACHE_STATUS[exchange.cache], exchange.request, exchange.route
    if exchange.detail:
        return value + b"; detail=" + exchange.detail.encode()
    if exchange.cache == "BYPASS" and route is not None and route.shared.own:
        return value + b"; detail=unkeyed-input"
    if status >= 400 or (request is not None and request.method == "HEAD"):
        return value.removesuffix(b"; stored")
    return value


def content_headers(digest: str, media_type: str, length: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of content, stored or being fetched, of which `length` bytes are sent.

    -1: the length is unknown, and the body is sent in chunks.
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
