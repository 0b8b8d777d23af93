"""HTTP/1.x message heads: what came in, what goes out, how long the body is, and which part of it is meant.

This is the border to clients and origins, so it is strict where leniency would let two parties disagree
about where a message ends (request smuggling, RFC 9112 11.2). llhttp (through httptools) checks characters
and syntax; the first line and the body's framing are judged here a second time, by rules of our own.
Everything that is sent on is written anew from the parsed fields; no byte of a head is copied unread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

import httptools

from regproxy.core.errors import BadResponse, HeadError, Unsatisfiable

Headers = tuple[tuple[bytes, bytes], ...]

MEMO_HEAD_MAX: Final = 2048
MEMO_ENTRIES: Final = 1024
_LENGTH_MAX: Final = 2**63 - 1

_NAME = r"(\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]{0,252}[A-Za-z0-9_-]\.?)"
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
# 101 answers nothing that we ask: Upgrade is never sent on.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (?!101)([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\r\n")
_HOST = re.compile(f"{_NAME}?(?::[0-9]{{0,5}})?".encode())
_AUTHORITY = re.compile(f"{_NAME}(?::([0-9]{{1,5}}))?")
_ABSOLUTE = re.compile(r"[hH][tT][tT][pP][sS]?://([^/?]+)(/[^?]*)?(\?.*)?")
_TARGET = re.compile(r"/[!-\"$-~]*")

# Connection's options name more of them (RFC 9110 7.6.1). Trailers go with the chunked framing that carried
# them, so Trailer goes too.
_HOP_BY_HOP = frozenset(b"connection keep-alive te trailer transfer-encoding upgrade http2-settings".split())
# A Connection option may not take these away (RFC 9110 7.6.1: never list a field meant for all recipients).
# Without this, `Connection: authorization` would make us judge one request and send another.
_NEVER_HOP_BY_HOP = frozenset(
    b"accept authorization content-encoding content-length content-range content-type docker-content-digest"
    b" host if-match if-none-match if-range location range www-authenticate".split()
)
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_COOKIES = frozenset({b"set-cookie", b"set-cookie2"})
_JUDGED = _FRAMING | {b"connection", b"expect", b"host"}


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body ends: none, after `length` bytes, with the last chunk, or with the connection."""

    kind: Literal["none", "length", "chunked", "eof"]
    length: int = 0

    @property
    def empty(self) -> bool:
        """True when not one body byte follows: no body, or `Content-Length: 0`."""
        return self.length == 0 and (self.kind == "none" or self.kind == "length")


NONE: Final = Framing("none")
CHUNKED: Final = Framing("chunked")
EOF: Final = Framing("eof")


class _Fields:
    """Look-up in `headers`; names are given in lower case."""

    __slots__ = ()
    headers: Headers

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of `name`, None when the field is absent."""
        for field, value in self.headers:
            if field == name:
                return value
        return None

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of `name` in the order sent; empty when the field is absent."""
        return [value for field, value in self.headers if field == name]


@dataclass(frozen=True, slots=True)
class Request(_Fields):
    """A request head. Names in lower case, values without outer blanks, both in the order sent."""

    method: str
    target: str
    minor: int
    headers: Headers
    body: Framing
    keep_alive: bool
    expect_continue: bool

    @property
    def path(self) -> str:
        """The target's path and query; `*` and CONNECT's authority stay as they are (RFC 9112 3.2)."""
        if self.target.startswith("/") or (absolute := _ABSOLUTE.fullmatch(self.target)) is None:
            return self.target
        if self.method == "OPTIONS" and absolute[2] is None and absolute[3] is None:
            return "*"
        return (absolute[2] or "/") + (absolute[3] or "")

    @property
    def authority(self) -> str:
        """`host[:port]` that is meant: the target's own, which outranks Host (RFC 9112 3.2.2); or ""."""
        if self.method == "CONNECT":
            return self.target
        if not self.target.startswith("/") and (absolute := _ABSOLUTE.fullmatch(self.target)) is not None:
            return absolute[1]
        return (self.get(b"host") or b"").decode("ascii")


@dataclass(frozen=True, slots=True)
class Response(_Fields):
    """A response head, as `Request`. `body` is what follows, so none after HEAD and 304."""

    status: int
    reason: bytes
    minor: int
    headers: Headers
    body: Framing
    keep_alive: bool


_Parser = type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]


class _Collector:
    """httptools' callbacks."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def _collect(head: bytes, parser: _Parser) -> Headers:
    """Return the fields of exactly one head; httptools.HttpParserError when it is anything else."""
    # llhttp would go on with a second message; where the head ends was decided by whoever cut it out.
    if head.find(b"\r\n\r\n") != len(head) - 4:
        raise httptools.HttpParserError("not exactly one head that ends with an empty line")
    collector = _Collector()
    with suppress(httptools.HttpParserUpgrade):
        parser(collector).feed_data(head)  # raised by CONNECT and Upgrade, once the fields are complete
    if not collector.complete:
        raise httptools.HttpParserError("incomplete head")
    return tuple(collector.fields)


def _judged(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the values of the few fields that decide about the message itself."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _JUDGED:
            found.setdefault(name, []).append(value)
    return found


def _tokens(values: Iterable[bytes]) -> list[bytes]:
    """Return the members of comma-separated lists, in lower case, empty ones left out (RFC 9110 5.6.1)."""
    members = (member.strip(b" \t").lower() for value in values for member in value.split(b","))
    return [member for member in members if member]


def _content_length(values: list[bytes]) -> int | None:
    """Return the one Content-Length, None when it isn't one number of at most 18 digits (so below 2**63)."""
    return int(values[0]) if len(values) == 1 and values[0].isdigit() and len(values[0]) <= 18 else None


def _keep_alive(options: list[bytes], minor: int) -> bool:
    """RFC 9112 9.3: `close` always ends it, 1.1 persists by itself, 1.0 only when asked to."""
    return b"close" not in options and (minor >= 1 or b"keep-alive" in options)


_memo: dict[bytes, Request] = {}


def parse_request(head: bytes) -> Request:
    """Return the request of `head`, which is exactly one head with its empty line.

    Raises HeadError: 400 malformed or ambiguous, 417 an unknown expectation, 501 an unknown method or
    transfer coding, 505 not HTTP/1.0 or 1.1. Heads of up to MEMO_HEAD_MAX bytes are remembered, the last
    MEMO_ENTRIES of them, since a client that stays sends the same few again and again.
    """
    request = _memo.get(head)
    return _remember(head) if request is None else request


def _remember(head: bytes) -> Request:
    request = _parse_request(head)
    if len(head) <= MEMO_HEAD_MAX:
        if len(_memo) >= MEMO_ENTRIES:
            # First in, first out: a hit then writes nothing, and what is hot comes back after one parse.
            del _memo[next(iter(_memo))]
        _memo[head] = request
    return request


def _parse_request(head: bytes) -> Request:
    # RFC 9112 2.2: one empty line ahead of the request is ignored; old clients end a POST with it.
    if head.startswith(b"\r\n"):
        head = head[2:]
    method, target, minor = _request_line(head)
    try:
        headers = _collect(head, httptools.HttpRequestParser)
    except httptools.HttpParserInvalidMethodError:
        raise HeadError(501, "unknown method") from None
    except httptools.HttpParserError as error:
        raise HeadError(400, f"malformed request: {error}") from None
    _check_target(method, target)
    found = _judged(headers)
    _check_host(found.get(b"host", []), minor)
    body = _request_framing(found, minor)
    if method == "CONNECT" and not body.empty:
        # RFC 9110 9.3.6: it has no content. What follows is the tunnel, and must not be read as a body.
        raise HeadError(400, "CONNECT with a body")
    keep_alive = _keep_alive(_tokens(found.get(b"connection", ())), minor)
    expects = _expects_continue(found.get(b"expect", ()), minor) and not body.empty
    return Request(method, target, minor, headers, body, keep_alive, expects)


def _request_line(head: bytes) -> tuple[str, str, int]:
    """Return (method, target, minor version) of `METHOD SP target SP HTTP/1.x CRLF` and nothing looser."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise HeadError(400, "malformed request line")
    method, target, major, minor = line.groups()
    if method == b"PRI" and major == b"2":
        raise HeadError(505, "HTTP/2 connection preface: this proxy speaks HTTP/1.1 only")
    if major != b"1" or minor > b"1":
        raise HeadError(505, "this proxy speaks HTTP/1.1 and HTTP/1.0 only")
    return method.decode("ascii"), target.decode("ascii"), int(minor)


def _check_target(method: str, target: str) -> None:
    """Accept the form of request target that belongs to `method` (RFC 9112 3.2)."""
    if "#" in target:
        raise HeadError(400, "request target with a fragment")
    if method == "CONNECT":
        parse_authority(target, None)
    elif (absolute := _ABSOLUTE.fullmatch(target)) is not None:
        parse_authority(absolute[1], 80)
    elif not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise HeadError(400, "request target is neither a path nor an http URL")


def _check_host(values: list[bytes], minor: int) -> None:
    """RFC 9112 3.2: one valid Host; only HTTP/1.0 may do without."""
    if len(values) > 1 or (minor >= 1 and not values):
        raise HeadError(400, "no Host, or more than one")
    if values and _HOST.fullmatch(values[0]) is None:
        raise HeadError(400, "malformed Host")


def _request_framing(found: dict[bytes, list[bytes]], minor: int) -> Framing:
    """RFC 9112 6.3, where it leaves a choice the stricter one.

    Transfer-Encoding | Content-Length | body
    -                 | -              | none
    -                 | one number     | that many bytes
    chunked           | -              | chunked
    anything else                      | HeadError
    """
    lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
    if codings is None:
        if lengths is None:
            return NONE
        length = _content_length(lengths)
        if length is None:
            raise HeadError(400, "malformed or repeated Content-Length")
        return Framing("length", length)
    if lengths is not None:
        raise HeadError(400, "both Content-Length and Transfer-Encoding")
    if minor < 1:
        raise HeadError(400, "Transfer-Encoding in HTTP/1.0")
    names = _tokens(codings)
    if names == [b"chunked"]:
        return CHUNKED
    # RFC 9112 6.1: not understood = 501; 6.3 item 4: chunked isn't the last, so nobody knows the end = 400.
    unknown = names[-1:] == [b"chunked"] and names.count(b"chunked") == 1
    raise HeadError(501 if unknown else 400, "transfer coding other than chunked")


def _expects_continue(values: Iterable[bytes], minor: int) -> bool:
    """RFC 9110 10.1.1: HTTP/1.0 can't expect it; an expectation that isn't known fails with 417."""
    expected = _tokens(values) if minor >= 1 else []
    if any(token != b"100-continue" for token in expected):
        raise HeadError(417, "unknown expectation")
    return bool(expected)


def parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """Return (host, port) of `host[:port]`; HeadError 400 for anything else.

    The host in lower case, without brackets and the root's dot, so that one host has one spelling.
    `default_port` None: the port must be named, as in CONNECT (RFC 9110 9.3.6).
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise HeadError(400, "malformed authority")
    port = default_port if match[2] is None else int(match[2])
    if port is None or not 0 < port < 65536:
        raise HeadError(400, "authority without a port, or with one out of range")
    return match[1].strip("[]").removesuffix(".").lower(), port


def parse_response(head: bytes, method: str) -> Response:
    """Return the response of `head` (exactly one head with its empty line) to a request of `method`.

    Raises BadResponse for what is malformed, ambiguous about where its body ends, or in a coding not known.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadResponse("malformed status line, or one of another protocol")
    minor, status = int(line[1]), int(line[2])
    try:
        headers = _collect(head, httptools.HttpResponseParser)
    except httptools.HttpParserError as error:
        raise BadResponse(f"malformed response head: {error}") from None
    found = _judged(headers)
    body, persists = _response_framing(found, minor, status, method)
    keep_alive = persists and _keep_alive(_tokens(found.get(b"connection", ())), minor)
    return Response(status, line[3] or b"", minor, headers, body, keep_alive)


def _response_framing(
    found: dict[bytes, list[bytes]], minor: int, status: int, method: str
) -> tuple[Framing, bool]:
    """RFC 9112 6.3: return (framing, whether the connection may be used again after it)."""
    lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
    length = None
    if codings is not None:
        if lengths is not None or minor < 1 or _tokens(codings) != [b"chunked"]:
            raise BadResponse("Transfer-Encoding other than chunked alone")
    elif lengths is not None:
        length = _content_length(lengths)
        if length is None:
            raise BadResponse("malformed or repeated Content-Length")
    if status < 200 or status == 204 or (method == "CONNECT" and status < 300):
        # These may not announce a body (RFC 9110 8.6). Who does may also send it: don't use that line again.
        return NONE, codings is None and not length
    if method == "HEAD" or status == 304:
        return NONE, True
    if codings is not None:
        return CHUNKED, True
    return (EOF, False) if length is None else (Framing("length", length), True)


def _hop_by_hop(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the names that belong to this connection alone."""
    named = [value for name, value in headers if name == b"connection"]
    return _HOP_BY_HOP | (frozenset(_tokens(named)) - _NEVER_HOP_BY_HOP) if named else _HOP_BY_HOP


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

    Left out: hop-by-hop fields, those that Connection names, Proxy-*, Host, and the names in `drop`. A field
    in `put` replaces those of its name. The body's framing is written from `request.body`, so that no header
    can talk it away; only `drop` and `put` can. `target` defaults to the request's path. Names in lower case.
    Raises BadResponse for a host, target or value that can't stand in a head: such come from an origin's
    redirect or token, never from `request`.
    """
    put = tuple(put)
    method, path = method or request.method, request.path if target is None else target
    bad_target = target is not None and _TARGET.fullmatch(target) is None
    if bad_target or not host or _HOST.fullmatch(host) is None:
        raise BadResponse("a host or target that can't be asked for")
    replaced = {name.lower() for name, _ in put}
    skip = _hop_by_hop(request.headers) | _FRAMING | {b"host"} | drop | replaced
    lines = [f"{method} {path} HTTP/1.1".encode("ascii"), b"host: " + host]
    lines += [
        name + b": " + value
        for name, value in request.headers
        if name not in skip and not name.startswith(b"proxy-")
    ]
    # One field of the two at most, whatever is put: both would be a smuggled request of our own making.
    if not replaced & _FRAMING:
        if request.body.kind == "length" and b"content-length" not in drop:
            lines.append(b"content-length: %d" % request.body.length)
        elif request.body.kind == "chunked" and b"transfer-encoding" not in drop:
            lines.append(b"transfer-encoding: chunked")
    lines += [name + b": " + value for name, value in put]
    return _sealed(lines)


def _sealed(lines: list[bytes]) -> bytes:
    """Join lines to a head; BadResponse when one of them holds a line break or NUL (RFC 9110 5.5)."""
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
    """Return what of a response's fields goes to a client, to which the proxy says its own Date.

    A 204, or anything else that can't have a body, must not announce one (RFC 9110 8.6).
    """
    headers = [field for field in end_to_end(response.headers) if field[0] != b"date"]
    if response.status == 204:
        return [field for field in headers if field[0] not in _FRAMING]
    return headers


_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b" % (s.value, s.phrase.encode("ascii")) for s in HTTPStatus}


def build_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return `HTTP/1.1 200 OK` and the fields as bytes to send; BadResponse for a line break in a field."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
    return _sealed([line, *[name + b": " + value for name, value in headers]])


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` up to, not including, `stop` of a body."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.stop - self.start

    def content_range(self, total: int) -> bytes:
        """Return the Content-Range value of a 206 (RFC 9110 14.4)."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, total)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`first` to `last` inclusive, `last` None = to the end, `first` None = the last `last` bytes."""

    first: int | None
    last: int | None

    def resolve(self, total: int) -> Span:
        """Return the span within `total` bytes, never an empty one; raises Unsatisfiable."""
        if self.first is None:
            start, stop = max(0, total - (self.last or 0)), total
        else:
            start, stop = self.first, total if self.last is None else min(self.last + 1, total)
        if start >= stop:
            raise Unsatisfiable(total)
        return Span(start, stop)


_RANGE = re.compile(rb"[bB][yY][tT][eE][sS]=[ \t]*([0-9]{0,64})-([0-9]{0,64})[ \t]*")
_ETAG = re.compile(rb'(?:W/)?("[!#-~\x80-\xff]*")')


_CONTENT_RANGE = re.compile(rb"[bB][yY][tT][eE][sS] ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def parse_content_range(value: bytes | None) -> tuple[Span, int | None] | None:
    """Return what a 206 has, and the length of the whole, None if the origin does not know it.

    None where the header is absent or malformed (RFC 9110 14.4).
    """
    match = _CONTENT_RANGE.fullmatch(value or b"")
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == b"*" else int(match[3])
    if first > last or (total is not None and last >= total):
        return None
    return Span(first, last + 1), total


def parse_range(value: bytes | None) -> ByteRange | None:
    """Return the one byte range asked for.

    None when the header is absent, malformed, in another unit or asks for several ranges: then it is ignored
    and the whole is sent (RFC 9110 14.2). Numbers from 2**63 up count as 2**63 - 1.
    """
    match = None if value is None else _RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = (min(int(digits), _LENGTH_MAX) if digits else None for digits in match.groups())
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        return None
    return ByteRange(first, last)


def none_match(value: bytes | None, etag: bytes) -> bool:
    """Tell whether If-None-Match names `etag` (quoted), so that 304 is the answer. Absent: False.

    Weak comparison (RFC 9110 13.1.2). A bare digest without quotes is taken too, as distribution does.
    """
    if value is None:
        return False
    opaque = etag.removeprefix(b"W/")
    return value == b"*" or value == opaque.strip(b'"') or opaque in _ETAG.findall(value)


def if_range_allows(value: bytes | None, etag: bytes) -> bool:
    """Tell whether If-Range lets Range count (RFC 9110 13.1.5, strong). Absent: True; a date: False."""
    return value is None or (value == etag and not etag.startswith(b"W/"))
