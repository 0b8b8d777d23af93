"""Build the heads that the proxy sends on, without hop-by-hop fields (RFC 9110 7.6), and heads of its own."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from regproxy.core.errors import BadResponse
from regproxy.http.messages import FRAMING, HOST, TARGET, Request, Response, tokens

# Connection's options name more of them (RFC 9110 7.6.1). Trailers end with the chunked framing that carried
# them, so Trailer is dropped too.
_HOP_BY_HOP = frozenset(b"connection keep-alive te trailer transfer-encoding upgrade http2-settings".split())
# A Connection option may not remove these (RFC 9110 7.6.1: never list a field meant for all recipients).
# Otherwise `Connection: authorization` would make the proxy judge one request and send another.
_NEVER_HOP_BY_HOP = frozenset(
    b"accept accept-encoding authorization content-encoding content-length content-range content-type cookie"
    b" docker-content-digest expect host if-match if-modified-since if-none-match if-range"
    b" if-unmodified-since location range user-agent www-authenticate".split()
)
_COOKIES = frozenset({b"set-cookie", b"set-cookie2"})


def _hop_by_hop(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the names that belong to this connection only."""
    named = [value for name, value in headers if name == b"connection"]
    return _HOP_BY_HOP | (frozenset(tokens(named)) - _NEVER_HOP_BY_HOP) if named else _HOP_BY_HOP


def upstream_head(
    request: Request,
    host: bytes,
    *,
    target: str | None = None,
    method: str | None = None,
    drop: frozenset[bytes] = frozenset(),
    put: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the HTTP/1.1 head that carries `request` to the origin `host` (`name[:port]`).

    Left out: hop-by-hop fields, those that Connection names, Proxy-*, Host, the names in `drop`, and Expect
    where no body follows (RFC 9110 10.1.1). A field in `put` replaces those of its name. The body's framing
    is written from `request.body`, so that no header can change it; only `drop` and `put` can. `target`
    defaults to the request's path. Names in lower case. Raises BadResponse for a host, target or value that
    can't stand in a head: such come from an origin's redirect or token, never from `request`.
    """
    put = tuple(put)
    method, path = method or request.method, request.path if target is None else target
    bad_target = target is not None and TARGET.fullmatch(target) is None
    if bad_target or not host or HOST.fullmatch(host) is None:
        raise BadResponse("a host or target that can't be asked for")
    replaced = {name.lower() for name, _ in put}
    skip = _hop_by_hop(request.headers) | FRAMING | {b"host"} | drop | replaced
    if not request.expect_continue:
        # An origin that waits for a body which does not come would take the next request for it.
        skip |= {b"expect"}
    lines = [f"{method} {path} HTTP/1.1".encode("ascii"), b"host: " + host]
    lines += [
        name + b": " + value
        for name, value in request.headers
        if name not in skip and not name.startswith(b"proxy-")
    ]
    # At most one of the two fields, whatever is put: both would be request smuggling by the proxy itself.
    if not replaced & FRAMING:
        if request.body.kind == "length" and b"content-length" not in drop:
            lines.append(b"content-length: %d" % request.body.length)
        elif request.body.kind == "chunked" and b"transfer-encoding" not in drop:
            lines.append(b"transfer-encoding: chunked")
    lines += [name + b": " + value for name, value in put]
    return _sealed(lines)


def _sealed(lines: list[bytes]) -> bytes:
    """Join lines to a head. Raises BadResponse if one of them holds a line break or NUL (RFC 9110 5.5)."""
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    ends = len(lines) + 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise BadResponse("a field with a line break in it")
    return head


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a response's fields without hop-by-hop ones, Proxy-* and cookies; Content-Length stays."""
    headers = tuple(headers)
    skip = _hop_by_hop(headers) | _COOKIES
    return [(name, value) for name, value in headers if name not in skip and not name.startswith(b"proxy-")]


def forwarded(response: Response) -> list[tuple[bytes, bytes]]:
    """Return a response's fields for a client, without Date, which the proxy sends itself.

    A 204, or anything else that can't have a body, must not announce one (RFC 9110 8.6).
    """
    headers = [field for field in end_to_end(response.headers) if field[0] != b"date"]
    if response.status == 204:
        return [field for field in headers if field[0] not in FRAMING]
    return headers


_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b" % (s.value, s.phrase.encode("ascii")) for s in HTTPStatus}


def build_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return `HTTP/1.1 200 OK` and the fields as bytes to send. Raises BadResponse for a line break in a
    field.
    """
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
    return _sealed([line, *[name + b": " + value for name, value in headers]])
