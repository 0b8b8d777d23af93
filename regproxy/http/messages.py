"""Parse HTTP/1.x message heads, and find out how the body is framed and which target is meant.

This is the border to clients and origins, so it is strict where leniency would let two parties disagree about
where a message ends (request smuggling, RFC 9112 11.2). llhttp (through httptools) checks characters and
syntax; the first line and the body's framing are checked here a second time, by stricter rules. Everything
that is sent on is rewritten from the parsed fields; no byte of a head is copied unread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Literal

import httptools
from msgspec import Struct

from regproxy.core.errors import BadResponse, HeadError

Headers = tuple[tuple[bytes, bytes], ...]

READS: Final = frozenset({"GET", "HEAD"})  # methods that ask for content, and change nothing
MEMO_HEAD_MAX: Final = 2048  # bytes of a head that is remembered
MEMO_ENTRIES: Final = 1024
LENGTH_MAX: Final = 2**63 - 1

# dataplane.http1 reads the same in a CONNECT.
_NAME = r"(\[[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,39}[0-9A-Fa-f:]\]|[A-Za-z0-9._-]{0,252}[A-Za-z0-9_-]\.?)"
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
# 101 is no valid answer: Upgrade is never sent on.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (?!101)([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\r\n")
# What Go's net/http and curl accept from servers too: more blanks, any reason phrase or none.
_ODD_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) +(?!101)([1-9][0-9][0-9])(?: .*)?", re.DOTALL)
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_CONTROL = re.compile(rb"[\1-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ABOUT_LENGTH = re.compile(rb"content.?length|transfer.?encoding", re.IGNORECASE)
# Content_Length and the like: CGI (RFC 3875 4.1.18), and what is built like it, reads it as the field itself.
_PUNCTUATION = b"!#$%&'*+-.^_`|~"
_ALIKE = frozenset({b"contentlength", b"transferencoding"})
HOST = re.compile(f"{_NAME}?(?::[0-9]{{0,5}})?".encode())
_AUTHORITY = re.compile(f"{_NAME}(?::([0-9]{{1,5}}))?")
_ABSOLUTE = re.compile(r"[hH][tT][tT][pP][sS]?://([^/?]+)(/[^?]*)?(\?.*)?")
TARGET = re.compile(r"/[!-\"$-~]*")

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_JUDGED = FRAMING | {b"connection", b"expect", b"host"}


class Framing(Struct, frozen=True):
    """How a body ends: no body, after `length` bytes, with the last chunk, or with the connection."""

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
    """Lookups in `headers`; names are given in lower case."""

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


class Request(_Fields, Struct, frozen=True):
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
        """The `host[:port]` that is meant: the target's own, which outranks Host (RFC 9112 3.2.2); or ""."""
        if self.method == "CONNECT":
            return self.target
        if not self.target.startswith("/") and (absolute := _ABSOLUTE.fullmatch(self.target)) is not None:
            return absolute[1]
        return (self.get(b"host") or b"").decode("ascii")


class Response(_Fields, Struct, frozen=True):
    """A response head, as `Request`. `body` is what follows, so none after HEAD and 304."""

    status: int
    reason: bytes
    minor: int
    headers: Headers
    body: Framing
    keep_alive: bool


_Parser = type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]


class _Collector:
    """Callbacks for httptools. `complete`: the head is; `fields`: names in lower case, values stripped."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def _collect(head: bytes, parser: _Parser) -> Headers:
    """Return the fields of exactly one head. Raises httptools.HttpParserError for anything else."""
    # llhttp would go on to a second message; the caller has decided where the head ends.
    if head.find(b"\r\n\r\n") != len(head) - 4:
        raise httptools.HttpParserError("not exactly one head that ends with an empty line")
    collector = _Collector()
    with suppress(httptools.HttpParserUpgrade):
        # suppressed: raised by CONNECT and Upgrade, once the fields are complete
        parser(collector).feed_data(head)
    if not collector.complete:
        raise httptools.HttpParserError("incomplete head")
    return tuple(collector.fields)


def _judged(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the values of the few fields that determine framing and connection."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _JUDGED:
            found.setdefault(name, []).append(value)
    return found


def tokens(values: Iterable[bytes]) -> list[bytes]:
    """Return the members of comma-separated lists, in lower case, without empty ones (RFC 9110 5.6.1)."""
    members = (member.strip(b" \t").lower() for value in values for member in value.split(b","))
    return [member for member in members if member]


def _content_length(values: list[bytes]) -> int | None:
    """Return the one Content-Length, None if it isn't one number of at most 18 digits (so below 2**63)."""
    return int(values[0]) if len(values) == 1 and values[0].isdigit() and len(values[0]) <= 18 else None


def _keep_alive(options: list[bytes], minor: int) -> bool:
    """Tell whether the connection stays open (RFC 9112 9.3): never with `close`; 1.0 only if asked to."""
    return b"close" not in options and (minor >= 1 or b"keep-alive" in options)


_memo: dict[bytes, Request] = {}


def parse_request(head: bytes) -> Request:
    """Return the request of `head`, which is exactly one head with its empty line.

    Raises HeadError: 400 malformed or ambiguous, 417 an unknown expectation, 501 an unknown method or
    transfer coding, 505 not HTTP/1.0 or 1.1. The last MEMO_ENTRIES heads of up to MEMO_HEAD_MAX bytes are
    cached, since a client on a persistent connection sends the same few again and again.
    """
    request = _memo.get(head)
    return _remember(head) if request is None else request


def _remember(head: bytes) -> Request:
    request = _parse_request(head)
    if len(head) <= MEMO_HEAD_MAX:
        if len(_memo) >= MEMO_ENTRIES:
            # First in, first out: a hit then writes nothing, and a frequent head is back after one parse.
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
    for name, _ in headers:
        if name.translate(None, _PUNCTUATION) in _ALIKE and name not in FRAMING:
            raise HeadError(400, "a field that may be read as Content-Length or Transfer-Encoding")
    _check_host(found.get(b"host", []), minor)
    body = _request_framing(found, minor)
    if method == "CONNECT" and not body.empty:
        # RFC 9110 9.3.6: CONNECT has no content. What follows is the tunnel, and must not be read as a body.
        raise HeadError(400, "CONNECT with a body")
    keep_alive = _keep_alive(tokens(found.get(b"connection", ())), minor)
    expects = _expects_continue(found.get(b"expect", ()), minor) and not body.empty
    return Request(method, target, minor, headers, body, keep_alive, expects)


def _request_line(head: bytes) -> tuple[str, str, int]:
    """Return (method, target, minor version) of exactly `METHOD SP target SP HTTP/1.x CRLF`."""
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
    """Check that the form of the request target belongs to `method` (RFC 9112 3.2)."""
    if "#" in target:
        raise HeadError(400, "request target with a fragment")
    if method == "CONNECT":
        parse_authority(target, None)
    elif (absolute := _ABSOLUTE.fullmatch(target)) is not None:
        parse_authority(absolute[1], 80)
    elif not target.startswith("/") and (method, target) != ("OPTIONS", "*"):
        raise HeadError(400, "request target is neither a path nor an http URL")


def _check_host(values: list[bytes], minor: int) -> None:
    """Check for one valid Host; only HTTP/1.0 may omit it (RFC 9112 3.2)."""
    if len(values) > 1 or (minor >= 1 and not values):
        raise HeadError(400, "no Host, or more than one")
    if values and HOST.fullmatch(values[0]) is None:
        raise HeadError(400, "malformed Host")


def _request_framing(found: dict[bytes, list[bytes]], minor: int) -> Framing:
    """Return a request's framing by RFC 9112 6.3; where that leaves a choice, the stricter one.

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
    names = tokens(codings)
    if names == [b"chunked"]:
        return CHUNKED
    # RFC 9112 6.1: unknown coding = 501; 6.3 item 4: chunked isn't the last, so the end is unknown = 400.
    unknown = names[-1:] == [b"chunked"] and names.count(b"chunked") == 1
    raise HeadError(501 if unknown else 400, "transfer coding other than chunked")


def _expects_continue(values: Iterable[bytes], minor: int) -> bool:
    """Tell whether 100-continue is expected (RFC 9110 10.1.1): HTTP/1.0 can't; unknown expectations fail with
    417.
    """
    expected = tokens(values) if minor >= 1 else []
    if any(token != b"100-continue" for token in expected):
        raise HeadError(417, "unknown expectation")
    return bool(expected)


def parse_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """Return (host, port) of `host[:port]`. Raises HeadError 400 for anything else.

    The host is in lower case, without brackets and trailing dot, so that one host has one spelling.
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

    Where llhttp or the status line's rules refuse it, it is read as leniently as clients do: see
    _collect_odd(). Raises BadResponse if it can't be read, is ambiguous about where its body ends, or is in a
    transfer coding other than chunked.
    """
    line = _STATUS_LINE.match(head)
    try:
        if line is None:
            raise httptools.HttpParserError("malformed status line")
        fields, odd = _collect(head, httptools.HttpResponseParser), False
    except httptools.HttpParserError:
        line, fields = _collect_odd(head)
        odd = True
    minor, status = int(line[1]), int(line[2])
    found = _judged(fields)
    body, persists = _response_framing(found, minor, status, method)
    # A server that sends an odd head is not trusted with a second request on the connection.
    keep_alive = not odd and persists and _keep_alive(tokens(found.get(b"connection", ())), minor)
    return Response(status, b"" if odd else line[3] or b"", minor, fields, body, keep_alive)


def _collect_odd(head: bytes) -> tuple[re.Match[bytes], Headers]:
    """Return the status line and the fields of a malformed head that real origins send and clients accept.

    Allowed are lines that end in LF alone (RFC 9112 2.2), folded values (5.2), blanks ahead of a colon
    (5.1), any reason phrase (4), Content-Length repeated with one value or beside Transfer-Encoding (6.3).
    A line that is no field, or has control characters in it, is left out, unless it may be about the body's
    length. Raises BadResponse.
    """
    end = _BLANK_LINE.search(head)
    if end is None or end.end() != len(head):
        raise BadResponse("not exactly one head that ends with an empty line")
    first, *lines = [line.removesuffix(b"\r") for line in head[: end.start()].split(b"\n")]
    status = _ODD_STATUS_LINE.fullmatch(first)
    if status is None:
        raise BadResponse("malformed status line, or one of another protocol")
    fields: list[tuple[bytes, bytes]] = []
    for line in _unfolded(lines):
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        if colon and _TOKEN.fullmatch(name) and not (_CONTROL.search(value) and name not in _JUDGED):
            fields.append((name, value.strip(b" \t")))
        elif _ABOUT_LENGTH.search(line):
            raise BadResponse("malformed response head: a field on the body's length that can't be read")
    rewritten = b"".join(b"%b: %b\r\n" % field for field in _one_length(fields))
    try:
        return status, _collect(b"HTTP/1.1 200 OK\r\n" + rewritten + b"\r\n", httptools.HttpResponseParser)
    except httptools.HttpParserError as error:
        raise BadResponse(f"malformed response head: {error}") from None


def _unfolded(lines: list[bytes]) -> list[bytes]:
    """Return the field lines with folded ones joined (RFC 9112 5.2). Raises BadResponse."""
    unfolded: list[bytes] = []
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            unfolded.append(line)
        elif unfolded:
            unfolded[-1] += b" " + line.strip(b" \t")
        else:
            raise BadResponse("malformed response head: a status line that goes on")
    return unfolded


def _one_length(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the fields without a Content-Length that says nothing new (RFC 9112 6.3 items 3 and 5): one that
    is repeated, or beside Transfer-Encoding. Values that differ are all kept, for the caller to refuse.
    """
    lengths = {length for name, value in fields if name == b"content-length" for length in tokens([value])}
    others = [field for field in fields if field[0] != b"content-length"]
    if not lengths or any(name == b"transfer-encoding" for name, _ in fields):
        return others
    return [*others, *((b"content-length", length) for length in sorted(lengths))]


def _response_framing(
    found: dict[bytes, list[bytes]], minor: int, status: int, method: str
) -> tuple[Framing, bool]:
    """Return a response's framing by RFC 9112 6.3, and whether the connection may be used again after it."""
    lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
    length = None
    if codings is not None:
        if lengths is not None or minor < 1 or tokens(codings) != [b"chunked"]:
            raise BadResponse("Transfer-Encoding other than chunked alone")
    elif lengths is not None:
        length = _content_length(lengths)
        if length is None:
            raise BadResponse("malformed or repeated Content-Length")
    if status < 200 or status == 204 or (method == "CONNECT" and status < 300):
        # These may not announce a body (RFC 9110 8.6). A server that does may also send it: don't reuse the
        # connection.
        return NONE, codings is None and not length
    if method == "HEAD" or status == 304:
        return NONE, True
    if codings is not None:
        return CHUNKED, True
    return (EOF, False) if length is None else (Framing("length", length), True)
