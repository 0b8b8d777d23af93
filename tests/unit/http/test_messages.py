"""Message heads: what real clients send, what nobody may send, and what must stay true whatever is sent."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regproxy.core.errors import BadResponse, HeadError, Unsatisfiable
from regproxy.http import messages
from regproxy.http.forwarding import build_head, end_to_end, upstream_head
from regproxy.http.messages import (
    CHUNKED,
    EOF,
    FRAMING,
    NONE,
    Framing,
    Headers,
    Request,
    parse_authority,
    parse_request,
    parse_response,
)
from regproxy.http.ranges import (
    ByteRange,
    Span,
    if_range_allows,
    none_match,
    parse_content_range,
    parse_range,
)

DIGEST = "sha256:" + "ab" * 32


def lines(*items: str | bytes) -> bytes:
    """Return a head of these lines."""
    encoded = (item.encode("latin-1") if isinstance(item, str) else item for item in items)
    return b"\r\n".join(encoded) + b"\r\n\r\n"


def get(
    *fields: str | bytes, line: str = "GET /v2/ HTTP/1.1", host: str | None = "Host: reg.example"
) -> bytes:
    """Return a GET's head with a Host and these fields."""
    return lines(line, *([] if host is None else [host]), *fields)


def ok(*fields: str | bytes, line: str | bytes = "HTTP/1.1 200 OK") -> bytes:
    """Return a 200's head with these fields."""
    return lines(line, *fields)


# What clients send: (head, method, target, body, keep_alive, expect_continue).
CLIENTS = {
    "connect from Go": (
        lines(
            "CONNECT reg.example:5002 HTTP/1.1", "Host: reg.example:5002", "User-Agent: Go-http-client/1.1"
        ),
        ("CONNECT", "reg.example:5002", NONE, True, False),
    ),
    "connect with credentials": (
        lines(
            "CONNECT registry-1.docker.io:443 HTTP/1.1",
            "Host: registry-1.docker.io:443",
            "Proxy-Authorization: Basic YTpi",
        ),
        ("CONNECT", "registry-1.docker.io:443", NONE, True, False),
    ),
    "connect to IPv6": (
        lines("CONNECT [2001:db8::1]:443 HTTP/1.1", "Host: [2001:db8::1]:443"),
        ("CONNECT", "[2001:db8::1]:443", NONE, True, False),
    ),
    "skopeo 1.9 ping": (
        lines(
            "GET /v2/ HTTP/1.1",
            "Host: reg.example",
            "User-Agent: skopeo/1.9.3",
            "Docker-Distribution-Api-Version: registry/2.0",
            "Accept-Encoding: gzip",
            "Connection: close",
        ),
        ("GET", "/v2/", NONE, False, False),
    ),
    "containerd head": (
        lines(
            "HEAD /v2/library/nginx/manifests/1.25?ns=docker.io HTTP/1.1",
            "Host: 127.0.0.8:3128",
            "User-Agent: containerd/1.6.20~ds1",
            "Accept: application/vnd.oci.image.index.v1+json, */*",
        ),
        ("HEAD", "/v2/library/nginx/manifests/1.25?ns=docker.io", NONE, True, False),
    ),
    "containerd 2.1 open range": (
        lines(
            f"GET /v2/library/nginx/blobs/{DIGEST}?ns=reg.example%3A5002 HTTP/1.1",
            "Host: reg.example:5002",
            "Range: bytes=8388608-",
            "Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5",
        ),
        ("GET", f"/v2/library/nginx/blobs/{DIGEST}?ns=reg.example%3A5002", NONE, True, False),
    ),
    "docker push, chunked patch": (
        lines(
            "PATCH /v2/a/blobs/uploads/1?_state=x HTTP/1.1",
            "Host: reg.example",
            "Transfer-Encoding: chunked",
            "Accept-Encoding: gzip",
        ),
        ("PATCH", "/v2/a/blobs/uploads/1?_state=x", CHUNKED, True, False),
    ),
    "docker push, final put": (
        lines(
            f"PUT /v2/a/blobs/uploads/1?digest={DIGEST} HTTP/1.1", "Host: reg.example", "Content-Length: 0"
        ),
        ("PUT", f"/v2/a/blobs/uploads/1?digest={DIGEST}", Framing("length", 0), True, False),
    ),
    "curl upload": (
        lines(
            "PUT /v2/a/manifests/1 HTTP/1.1",
            "Host: reg.example",
            "Content-Length: 2700",
            "Expect: 100-Continue",
        ),
        ("PUT", "/v2/a/manifests/1", Framing("length", 2700), True, True),
    ),
    "plain proxy request": (
        lines("GET http://reg.example/ca.crt HTTP/1.1", "Host: reg.example", "Proxy-Connection: Keep-Alive"),
        ("GET", "http://reg.example/ca.crt", NONE, True, False),
    ),
    "HTTP/1.0": (lines("GET / HTTP/1.0"), ("GET", "/", NONE, False, False)),
    "HTTP/1.0 keep-alive": (
        lines("GET / HTTP/1.0", "Connection: Keep-Alive"),
        ("GET", "/", NONE, True, False),
    ),
    "options": (lines("OPTIONS * HTTP/1.1", "Host: a"), ("OPTIONS", "*", NONE, True, False)),
    "upgrade is not taken": (
        get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("GET", "/v2/", NONE, True, False),
    ),
    "an empty line ahead": (b"\r\n" + get(), ("GET", "/v2/", NONE, True, False)),
    "an expectation without a body": (get("Expect: 100-continue"), ("GET", "/v2/", NONE, True, False)),
    "an empty Host": (get(host="Host:"), ("GET", "/v2/", NONE, True, False)),
}


@pytest.mark.parametrize("head, want", CLIENTS.values(), ids=CLIENTS)
def test_client_heads(head: bytes, want: tuple[str, str, Framing, bool, bool]) -> None:
    request = parse_request(head)
    assert (request.method, request.target, request.body, request.keep_alive, request.expect_continue) == want


BAD_REQUESTS = {
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "HTTP/2 preface, whole": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/2.0": (get(line="GET / HTTP/2.0"), 505),
    "HTTP/1.2": (get(line="GET / HTTP/1.2"), 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "empty": (b"", 400),
    "blank": (b"\r\n\r\n", 400),
    "two empty lines ahead": (b"\r\n\r\n" + get(), 400),
    "unknown method": (get(line="BREW / HTTP/1.1"), 501),
    "method in lower case": (get(line="get / HTTP/1.1"), 501),
    "malformed method": (get(line="G(T / HTTP/1.1"), 400),
    "two spaces": (get(line="GET  / HTTP/1.1"), 400),
    "tab for a space": (get(line="GET\t/ HTTP/1.1"), 400),
    "space in the target": (get(line="GET /a b HTTP/1.1"), 400),
    "space after the version": (get(line="GET / HTTP/1.1 "), 400),
    "another protocol": (get(line="GET / ICE/1.0"), 400),
    "control character in the target": (get(line="GET /\x01 HTTP/1.1"), 400),
    "NUL in the target": (get(line="GET /\x00 HTTP/1.1"), 400),
    "raw UTF-8 in the target": (get(line="GET /\xc3\xa4 HTTP/1.1"), 400),
    "fragment": (get(line="GET /a#b HTTP/1.1"), 400),
    "target without a slash": (get(line="GET v2/ HTTP/1.1"), 400),
    "asterisk": (get(line="GET * HTTP/1.1"), 400),
    "other scheme": (get(line="GET ftp://a/ HTTP/1.1"), 400),
    "userinfo in the target": (get(line="GET http://a@b/ HTTP/1.1"), 400),
    "no host in the target": (get(line="GET http:///v2/ HTTP/1.1"), 400),
    "connect without a port": (get(line="CONNECT a HTTP/1.1"), 400),
    "connect to a path": (get(line="CONNECT /a HTTP/1.1"), 400),
    "connect to port 0": (get(line="CONNECT a:0 HTTP/1.1"), 400),
    "connect to port 65536": (get(line="CONNECT a:65536 HTTP/1.1"), 400),
    "connect with a body": (get("Content-Length: 5", line="CONNECT a:443 HTTP/1.1"), 400),
    "connect with chunks": (get("Transfer-Encoding: chunked", line="CONNECT a:443 HTTP/1.1"), 400),
    "no Host": (get(host=None), 400),
    "two Hosts": (get("Host: other.example"), 400),
    "two equal Hosts": (get("Host: reg.example"), 400),
    "two Hosts in 1.0": (get("Host: a", line="GET / HTTP/1.0"), 400),
    "Host with a path": (get(host="Host: a/b"), 400),
    "Host with userinfo": (get(host="Host: a@b"), 400),
    "Host list": (get(host="Host: a, b"), 400),
    "Host with a space": (get(host="Host: a b"), 400),
    "both lengths": (get("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "both lengths, other order": (get("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "differing lengths": (get("Content-Length: 5", "Content-Length: 6"), 400),
    "equal lengths": (get("Content-Length: 5", "Content-Length: 5"), 400),
    "length list": (get("Content-Length: 5, 5"), 400),
    "length with a sign": (get("Content-Length: +5"), 400),
    "negative length": (get("Content-Length: -5"), 400),
    "length in hex": (get("Content-Length: 0x5"), 400),
    "length with a space": (get("Content-Length: 5 6"), 400),
    "length, other digits": (get("Content-Length: \xb2"), 400),
    "empty length": (get("Content-Length:"), 400),
    "length of 2**64": (get("Content-Length: 18446744073709551616"), 400),
    "length of 19 digits": (get("Content-Length: 9223372036854775808"), 400),
    "gzip, chunked": (get("Transfer-Encoding: gzip, chunked"), 501),
    "gzip, then chunked": (get("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), 501),
    "chunked, gzip": (get("Transfer-Encoding: chunked, gzip"), 400),
    "gzip alone": (get("Transfer-Encoding: gzip"), 400),
    "identity": (get("Transfer-Encoding: identity"), 400),
    "xchunked": (get("Transfer-Encoding: xchunked"), 400),
    "quoted chunked": (get('Transfer-Encoding: "chunked"'), 400),
    "chunked with a parameter": (get("Transfer-Encoding: chunked;q=1"), 400),
    "vertical tab ahead of chunked": (get("Transfer-Encoding: \x0bchunked"), 400),
    "chunked twice": (get("Transfer-Encoding: chunked, chunked"), 400),
    "chunked on two lines": (get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "empty coding": (get("Transfer-Encoding:"), 400),
    "chunked in 1.0": (get("Transfer-Encoding: chunked", line="POST / HTTP/1.0"), 400),
    "space ahead of the colon": (get("Content-Length : 5"), 400),
    "tab ahead of the colon": (get("Transfer-Encoding\t: chunked"), 400),
    "continuation line": (get("X: a\r\n b"), 400),
    "continuation of an empty value": (get("X:\r\n b"), 400),
    "continuation of the request line": (b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n", 400),
    "bare LF": (get("X: a\nContent-Length: 5"), 400),
    "bare LFs": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR": (get("X: a\rContent-Length: 5"), 400),
    "CR CR LF": (get("X: a\r"), 400),
    "NUL in a value": (get("X: a\0b"), 400),
    "control character in a value": (get("X: a\x01b"), 400),
    "DEL in a value": (get("X: a\x7fb"), 400),
    "NUL in a name": (get("X\0: a"), 400),
    "obs-text in a name": (get("X\xff: a"), 400),
    "no name": (get(": a"), 400),
    "no colon": (get("X"), 400),
    "unknown expectation": (get("Expect: 200-ok"), 417),
    "unknown expectation beside the known": (get("Expect: 100-continue, x"), 417),
    "two heads": (get() + get(), 400),
    "bytes after the head": (get() + b"x", 400),
}


@pytest.mark.parametrize("head, status", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests(head: bytes, status: int) -> None:
    with pytest.raises(HeadError) as caught:
        parse_request(head)
    assert caught.value.status == status


LENGTH, CODING = b"content-length", b"transfer-encoding"
AMBIGUOUS: list[tuple[dict[bytes, list[bytes]], int]] = [
    ({LENGTH: [b"5"], CODING: [b"chunked"]}, 400),
    ({LENGTH: [b"5", b"6"]}, 400),
    ({LENGTH: [b"5", b"5"]}, 400),
    ({LENGTH: [b"5, 5"]}, 400),
    ({LENGTH: [b"+5"]}, 400),
    ({LENGTH: [b""]}, 400),
    ({LENGTH: [b"9" * 19]}, 400),
    ({CODING: [b"chunked, chunked"]}, 400),
    ({CODING: [b"chunked", b"chunked"]}, 400),
    ({CODING: [b"chunked, gzip"]}, 400),
    ({CODING: [b"chunkedx"]}, 400),
    ({CODING: [b""]}, 400),
    ({CODING: [b"gzip", b"chunked"]}, 501),
]


@pytest.mark.parametrize("found, status", AMBIGUOUS, ids=str)
def test_framing_does_not_lean_on_the_parser(found: dict[bytes, list[bytes]], status: int) -> None:
    """llhttp refuses most of these first; the second judgement has to stand alone."""
    with pytest.raises(HeadError) as caught:
        messages._request_framing(found, 1)
    assert caught.value.status == status
    for method in ("GET", "HEAD"):
        with pytest.raises(BadResponse):
            messages._response_framing(found, 1, 200, method)


def test_a_head_that_never_begins() -> None:
    with pytest.raises(httptools.HttpParserError, match="incomplete"):
        messages._collect(b"\r\n\r\n", httptools.HttpRequestParser)


def test_preface_says_what_to_do() -> None:
    with pytest.raises(HeadError, match=r"HTTP/2.*HTTP/1\.1"):
        parse_request(b"PRI * HTTP/2.0\r\n\r\n")


def test_errors_repeat_no_secret() -> None:
    with pytest.raises(HeadError) as caught:
        parse_request(get("Authorization: Bearer hunter2\x01"))
    assert "hunter2" not in str(caught.value)


def test_fields_in_order_in_lower_case_and_stripped() -> None:
    request = parse_request(get("Accept: a/b", "X-Empty:", "ACCEPT:\t c/d \t", "X-Text: \xe4 b"))
    assert request.headers == (
        (b"host", b"reg.example"),
        (b"accept", b"a/b"),
        (b"x-empty", b""),
        (b"accept", b"c/d"),
        (b"x-text", b"\xe4 b"),
    )
    assert request.get(b"accept") == b"a/b"
    assert request.all(b"accept") == [b"a/b", b"c/d"]
    assert request.get(b"x-empty") == b""
    assert request.get(b"absent") is None
    assert request.all(b"absent") == []


TARGETS = [
    # line, authority, path
    ("GET /v2/?a=b HTTP/1.1", "reg.example", "/v2/?a=b"),
    ("GET http://other.example:80/v2/?a=b HTTP/1.1", "other.example:80", "/v2/?a=b"),
    ("GET HTTPS://other.example HTTP/1.1", "other.example", "/"),
    ("GET http://other.example?a=/b HTTP/1.1", "other.example", "/?a=/b"),
    ("OPTIONS http://other.example HTTP/1.1", "other.example", "*"),
    ("OPTIONS http://other.example?a HTTP/1.1", "other.example", "/?a"),
    ("OPTIONS * HTTP/1.1", "reg.example", "*"),
    ("CONNECT other.example:443 HTTP/1.1", "other.example:443", "other.example:443"),
    ("GET //other.example/v2/ HTTP/1.1", "reg.example", "//other.example/v2/"),
    ("GET /http://other.example/ HTTP/1.1", "reg.example", "/http://other.example/"),
]


@pytest.mark.parametrize("line, authority, path", TARGETS)
def test_target_outranks_host(line: str, authority: str, path: str) -> None:
    request = parse_request(get(line=line))
    assert (request.authority, request.path) == (authority, path)


def test_authority_without_host() -> None:
    assert parse_request(lines("GET / HTTP/1.0")).authority == ""


AUTHORITIES = [
    ("reg.example:5000", None, ("reg.example", 5000)),
    ("Reg.Example", 443, ("reg.example", 443)),
    ("127.0.0.1:1", None, ("127.0.0.1", 1)),
    ("[2001:DB8::1]:443", None, ("2001:db8::1", 443)),
    ("[::1]", 80, ("::1", 80)),
    ("my_reg.local:65535", None, ("my_reg.local", 65535)),
    ("Registry-1.Docker.IO.:443", None, ("registry-1.docker.io", 443)),
    ("a" * 253 + ":443", None, ("a" * 253, 443)),
]


@pytest.mark.parametrize("text, default, want", AUTHORITIES)
def test_parse_authority(text: str, default: int | None, want: tuple[str, int]) -> None:
    assert parse_authority(text, default) == want


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "a",
        "a:",
        "a:b",
        "a:0",
        "a:65536",
        "a:443:443",
        "::1:443",
        "[::1",
        "[a]:1",
        "a/b:1",
        ".:443",
        "a..:443",
        "a" * 254 + ":443",
        "a:٣",
    ],
)
def test_bad_authority(text: str) -> None:
    with pytest.raises(HeadError):
        parse_authority(text, None)


class TestMemo:
    """The memory of heads."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(messages, "_memo", {})

    def test_same_bytes_same_request(self) -> None:
        assert parse_request(get("X: 1")) is parse_request(get("X: 1"))
        assert parse_request(get("X: 1")) is not parse_request(get("X: 2"))

    def test_bounded(self) -> None:
        first, second = get("X: 0"), get("X: 1")
        kept = [parse_request(first), parse_request(second)]
        for number in range(2, messages.MEMO_ENTRIES + 1):
            parse_request(get(f"X: {number}"))
        assert len(messages._memo) == messages.MEMO_ENTRIES
        assert parse_request(second) is kept[1]
        again = parse_request(first)
        assert again == kept[0]
        assert again is not kept[0]

    def test_long_heads_are_not_kept(self) -> None:
        shell = len(get("X: "))
        parse_request(get("X: " + "a" * (messages.MEMO_HEAD_MAX - shell)))
        assert len(messages._memo) == 1
        parse_request(get("X: " + "a" * (messages.MEMO_HEAD_MAX - shell + 1)))
        assert len(messages._memo) == 1

    def test_bad_heads_are_not_kept(self) -> None:
        for _ in range(2):
            with pytest.raises(HeadError):
                parse_request(get(host=None))
        assert messages._memo == {}


RESPONSES = {
    # head, method, framing, keep_alive
    "length": (ok("Content-Length: 5"), "GET", Framing("length", 5), True),
    "length 0": (ok("Content-Length: 0"), "GET", Framing("length", 0), True),
    "chunked": (ok("Transfer-Encoding: Chunked"), "GET", CHUNKED, True),
    "until the end": (ok("Content-Type: a/b"), "GET", EOF, False),
    "until the end, keep-alive": (ok("Connection: keep-alive"), "GET", EOF, False),
    "close": (ok("Content-Length: 5", "Connection: x, Close"), "GET", Framing("length", 5), False),
    "1.0": (ok("Content-Length: 5", line="HTTP/1.0 200 OK"), "GET", Framing("length", 5), False),
    "1.0 keep-alive": (
        ok("Content-Length: 5", "Connection: keep-alive", line="HTTP/1.0 200 OK"),
        "GET",
        Framing("length", 5),
        True,
    ),
    "HEAD": (ok("Content-Length: 5"), "HEAD", NONE, True),
    "HEAD without a length": (ok(), "HEAD", NONE, True),
    "HEAD chunked": (ok("Transfer-Encoding: chunked"), "HEAD", NONE, True),
    "304": (ok("Content-Length: 5", line="HTTP/1.1 304 Not Modified"), "GET", NONE, True),
    "204": (ok(line="HTTP/1.1 204 No Content"), "DELETE", NONE, True),
    "204, length 0": (ok("Content-Length: 0", line="HTTP/1.1 204 No Content"), "GET", NONE, True),
    "204 that announces a body": (ok("Content-Length: 5", line="HTTP/1.1 204 No"), "GET", NONE, False),
    "204 that announces chunks": (
        ok("Transfer-Encoding: chunked", line="HTTP/1.1 204 No"),
        "GET",
        NONE,
        False,
    ),
    "100": (ok(line="HTTP/1.1 100 Continue"), "PUT", NONE, True),
    "CONNECT 200": (ok(), "CONNECT", NONE, True),
    "CONNECT 407": (
        ok("Content-Length: 5", line="HTTP/1.1 407 No"),
        "CONNECT",
        Framing("length", 5),
        True,
    ),
    "status 600": (ok("Content-Length: 5", line="HTTP/1.1 600 x"), "GET", Framing("length", 5), False),
    "equal lengths": (ok("Content-Length: 5", "Content-Length: 5"), "GET", Framing("length", 5), False),
    "equal lengths in a list": (ok("Content-Length: 5, 5"), "GET", Framing("length", 5), False),
    "both": (ok("Transfer-Encoding: chunked", "Content-Length: 5"), "GET", CHUNKED, False),
    "both, other order": (ok("Content-Length: 5", "Transfer-Encoding: chunked"), "GET", CHUNKED, False),
    "both, HEAD": (ok("Content-Length: 5", "Transfer-Encoding: chunked"), "HEAD", NONE, False),
    "no reason": (ok("Content-Length: 1", line="HTTP/1.1 200 "), "GET", Framing("length", 1), True),
    "no reason, no space": (ok("Content-Length: 1", line="HTTP/1.1 200"), "GET", Framing("length", 1), True),
}


@pytest.mark.parametrize("head, method, body, keep_alive", RESPONSES.values(), ids=RESPONSES)
def test_responses(head: bytes, method: str, body: Framing, keep_alive: bool) -> None:
    response = parse_response(head, method)
    assert (response.body, response.keep_alive) == (body, keep_alive)


# What real origins send, and Go's net/http and curl take: (head, fields, body).
SIZED = Framing("length", 5)
ODD_RESPONSES = {
    "two spaces": (ok("Content-Length: 5", line="HTTP/1.1  200 OK"), {}, SIZED),
    "a control character in the reason": (ok("Content-Length: 5", line="HTTP/1.1 200 O\x01K"), {}, SIZED),
    "NUL in the reason": (ok("Content-Length: 5", line="HTTP/1.1 200 O\0K"), {}, SIZED),
    "bare LF": (ok("X: a\nContent-Length: 5"), {"x": "a"}, SIZED),
    "bare LFs": (b"HTTP/1.1 200 OK\nX: a\nContent-Length: 5\n\n", {"x": "a"}, SIZED),
    "a folded value": (ok("X: a\r\n\t b", "Content-Length: 5"), {"x": "a b"}, SIZED),
    "a folded value twice": (ok("X: a\r\n b\r\n c", "Content-Length: 5"), {"x": "a b c"}, SIZED),
    "a value on the next line": (ok("X:\r\n a", "Content-Length: 5"), {"x": "a"}, SIZED),
    "a space ahead of the colon": (ok("X : a", "Content-Length : 5"), {"x": "a"}, SIZED),
    "a tab ahead of the colon": (ok("Transfer-Encoding\t: chunked"), {}, CHUNKED),
    "a line that is no field": (ok("garbage", "Content-Length: 5"), {}, SIZED),
    "a name with a space": (ok("My Header: a", "X: b", "Content-Length: 5"), {"x": "b"}, SIZED),
    "a field without a name": (ok(": a", "X: b", "Content-Length: 5"), {"x": "b"}, SIZED),
}


@pytest.mark.parametrize("head, fields, body", ODD_RESPONSES.values(), ids=ODD_RESPONSES)
def test_odd_responses(head: bytes, fields: dict[str, str], body: Framing) -> None:
    """They are read as they were meant; the connection is not used again."""
    response = parse_response(head, "GET")
    others = {name.decode(): value.decode() for name, value in response.headers if name not in FRAMING}
    assert (response.status, others, response.body, response.keep_alive) == (200, fields, body, False)
    assert parse_response(head, "HEAD").body == NONE


def test_response_fields() -> None:
    response = parse_response(
        ok("Docker-Content-Digest:  x ", line=b"HTTP/1.0 404 Nicht gefunden \xe4"), "HEAD"
    )
    assert (response.status, response.reason, response.minor) == (404, b"Nicht gefunden \xe4", 0)
    assert response.get(b"docker-content-digest") == b"x"


BAD_RESPONSES = {
    "empty": b"",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/1.2": ok(line="HTTP/1.2 200 OK"),
    "shoutcast": ok(line="ICY 200 OK"),
    "101": ok("Upgrade: x", "Connection: upgrade", line="HTTP/1.1 101 Switching Protocols"),
    "101 without Upgrade": ok(line="HTTP/1.1 101 Switching Protocols"),
    "status of two digits": ok(line="HTTP/1.1 99 x"),
    "status of four digits": ok(line="HTTP/1.1 2000 x"),
    "gzip, chunked": ok("Transfer-Encoding: gzip, chunked"),
    "identity": ok("Transfer-Encoding: identity"),
    "chunked twice": ok("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "empty coding": ok("Transfer-Encoding:"),
    "chunked in 1.0": ok("Transfer-Encoding: chunked", line="HTTP/1.0 200 OK"),
    "differing lengths": ok("Content-Length: 5", "Content-Length: 6"),
    "length list": ok("Content-Length: 5, 6"),
    "negative length": ok("Content-Length: -1"),
    "continuation of the status line": b"HTTP/1.1 200 OK\r\n X: a\r\n\r\n",
    "a length that is folded": ok("Content-Length: 5\r\n 6"),
    "a length by another name": ok("Content Length: 5", "X: a\nY: b"),
    "a coding without a colon": ok("Transfer-Encoding chunked"),
    "bare CR": ok("X: a\rY: b"),
    "NUL": ok("X: a\0"),
    "bytes after the head": ok("Content-Length: 1") + b"x",
    "an HTML page": b"<html>\r\n\r\n",
}


@pytest.mark.parametrize("head", BAD_RESPONSES.values(), ids=BAD_RESPONSES)
def test_bad_responses(head: bytes) -> None:
    for method in ("GET", "HEAD"):
        with pytest.raises(BadResponse):
            parse_response(head, method)


def test_upstream_head_strips_this_connection() -> None:
    request = parse_request(
        get(
            "User-Agent: x",
            "Connection: keep-alive, X-Hop, Authorization, Host, Content-Length",
            "Keep-Alive: timeout=5",
            "X-Hop: 1",
            "X-End: 2",
            "TE: trailers",
            "Trailer: X",
            "Upgrade: h2c",
            "Proxy-Authorization: Basic YTpi",
            "Proxy-Connection: keep-alive",
            "Authorization: Bearer t",
            "Content-Length: 5",
            line="PUT /v2/a HTTP/1.1",
        )
    )
    assert upstream_head(request, b"origin.example:5000") == lines(
        "PUT /v2/a HTTP/1.1",
        "host: origin.example:5000",
        "user-agent: x",
        "x-end: 2",
        "authorization: Bearer t",
        "content-length: 5",
    )


def test_upstream_head_changes() -> None:
    request = parse_request(get("Authorization: Bearer t", "Range: bytes=1-", "Accept: a/b", "Accept: c/d"))
    head = upstream_head(
        request,
        b"cdn.example",
        target="/x?sig=1",
        method="HEAD",
        drop=frozenset({b"authorization"}),
        put=[(b"range", b"bytes=7-"), (b"via", b"1.1 regproxy")],
    )
    assert head == lines(
        "HEAD /x?sig=1 HTTP/1.1",
        "host: cdn.example",
        "accept: a/b",
        "accept: c/d",
        "range: bytes=7-",
        "via: 1.1 regproxy",
    )


@pytest.mark.parametrize(
    "line, first",
    [
        ("GET http://other.example/v2/?a HTTP/1.1", b"GET /v2/?a HTTP/1.1\r\n"),
        ("GET / HTTP/1.0", b"GET / HTTP/1.1\r\n"),
        ("OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1\r\n"),
    ],
)
def test_upstream_head_first_line(line: str, first: bytes) -> None:
    assert upstream_head(parse_request(get(line=line)), b"a").startswith(first + b"host: a\r\n")


CHUNKED_PATCH = get("Transfer-Encoding: chunked", line="PATCH /u HTTP/1.1")
SIZED_PATCH = get("Content-Length: 5", line="PATCH /u HTTP/1.1")
FRAMINGS = [
    # head, drop, put, the framing fields that go out
    (CHUNKED_PATCH, set(), [], ["transfer-encoding: chunked"]),
    (SIZED_PATCH, set(), [], ["content-length: 5"]),
    (get(), set(), [], []),
    (CHUNKED_PATCH, {b"transfer-encoding"}, [], []),
    (SIZED_PATCH, {b"content-length"}, [], []),
    (CHUNKED_PATCH, set(), [(b"content-length", b"0")], ["content-length: 0"]),
    (SIZED_PATCH, set(), [(b"Content-Length", b"7")], ["Content-Length: 7"]),
    (SIZED_PATCH, set(), [(b"transfer-encoding", b"chunked")], ["transfer-encoding: chunked"]),
]


@pytest.mark.parametrize("head, drop, put, want", FRAMINGS)
def test_upstream_head_framing(
    head: bytes, drop: set[bytes], put: list[tuple[bytes, bytes]], want: list[str]
) -> None:
    sent = upstream_head(parse_request(head), b"a", drop=frozenset(drop), put=put)
    assert sent == lines("PATCH /u HTTP/1.1" if head != get() else "GET /v2/ HTTP/1.1", "host: a", *want)


@pytest.mark.parametrize(
    "host, target, put",
    [
        (b"", None, []),
        (b"a b", None, []),
        (b"a\r\nx: y", None, []),
        (b"u@a", None, []),
        (b"a", "/a b", []),
        (b"a", "/a\r\nx: y", []),
        (b"a", "/\xe4", []),
        (b"a", "/a#b", []),
        (b"a", "a", []),
        (b"a", "", []),
        (b"a", "http://b/", []),
        (b"a", None, [(b"authorization", b"Bearer a\r\nx: y")]),
        (b"a", None, [(b"authorization", b"Bearer a\nx: y")]),
        (b"a", None, [(b"authorization", b"Bearer a\rx: y")]),
        (b"a", None, [(b"authorization", b"Bearer a\0")]),
    ],
)
def test_upstream_head_lets_nothing_in(
    host: bytes, target: str | None, put: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(BadResponse):
        upstream_head(parse_request(get()), host, target=target, put=put)


def test_end_to_end() -> None:
    response = parse_response(
        ok(
            "Content-Length: 5",
            "Connection: X-Hop, Content-Length, Docker-Content-Digest",
            "X-Hop: 1",
            "Keep-Alive: 5",
            "Set-Cookie: a=b",
            "Set-Cookie: c=d",
            "Proxy-Authenticate: Basic",
            "Docker-Content-Digest: d",
            "Link: <a>",
            "Link: <b>",
        ),
        "GET",
    )
    assert end_to_end(response.headers) == [
        (b"content-length", b"5"),
        (b"docker-content-digest", b"d"),
        (b"link", b"<a>"),
        (b"link", b"<b>"),
    ]
    chunked = parse_response(ok("Transfer-Encoding: chunked", "Trailer: X"), "GET")
    assert end_to_end(chunked.headers) == []


def test_build_head() -> None:
    assert build_head(200, [(b"a", b"b"), (b"c", b"")]) == b"HTTP/1.1 200 OK\r\na: b\r\nc: \r\n\r\n"
    assert build_head(404, []) == b"HTTP/1.1 404 Not Found\r\n\r\n"
    assert build_head(599, []) == b"HTTP/1.1 599 \r\n\r\n"
    assert parse_response(build_head(599, []), "HEAD").status == 599
    for value in (b"a\r\nb: c", b"a\nb: c", b"a\r", b"a\0"):
        with pytest.raises(BadResponse):
            build_head(200, [(b"location", value)])


RANGES = [
    # Range, total, the span or None = ignored, or "416"
    (None, 10, None),
    (b"bytes=0-", 10, Span(0, 10)),
    (b"bytes=8388608-", 8388609, Span(8388608, 8388609)),
    (b"bytes=0-0", 10, Span(0, 1)),
    (b"bytes=2-5", 10, Span(2, 6)),
    (b"bytes=2-99", 10, Span(2, 10)),
    (b"Bytes= 2-5 ", 10, Span(2, 6)),
    (b"bytes=-3", 10, Span(7, 10)),
    (b"bytes=-99", 10, Span(0, 10)),
    (b"bytes=0-" + b"9" * 40, 10, Span(0, 10)),
    (b"bytes=-" + b"9" * 40, 10, Span(0, 10)),
    (b"bytes=10-", 10, "416"),
    (b"bytes=" + b"9" * 40 + b"-", 10, "416"),
    (b"bytes=-0", 10, "416"),
    (b"bytes=0-", 0, "416"),
    (b"bytes=-1", 0, "416"),
    (b"bytes=5-4", 10, "416"),
    (b"bytes=-", 10, None),
    (b"bytes=", 10, None),
    (b"bytes", 10, None),
    (b"bytes=0-1,3-4", 10, None),
    (b"bytes=0-1,", 10, None),
    (b"bytes=a-b", 10, None),
    (b"bytes=+1-2", 10, None),
    (b"bytes=1 -2", 10, None),
    (b"bytes=1-2\n", 10, None),
    (b"bytes =0-1", 10, None),
    (b"items=0-1", 10, None),
    (b"", 10, None),
    (b"bytes=" + b"9" * 5000 + b"-", 10, None),
]


@pytest.mark.parametrize("value, total, want", RANGES)
def test_ranges(value: bytes | None, total: int, want: Span | str | None) -> None:
    byte_range = parse_range(value)
    if want == "416":
        assert byte_range is not None
        with pytest.raises(Unsatisfiable) as caught:
            byte_range.resolve(total)
        assert (caught.value.total, caught.value.status) == (total, 416)
    else:
        assert (byte_range.resolve(total) if byte_range is not None else None) == want


def test_span() -> None:
    span = ByteRange(2, 5).resolve(10)
    assert (span.length, span.content_range(10)) == (4, b"bytes 2-5/10")


@given(st.integers(0, 300), st.none() | st.integers(0, 300), st.integers(0, 300))
def test_range_agrees_with_slicing(first: int, last: int | None, total: int) -> None:
    value = b"bytes=%d-" % first + (b"" if last is None else b"%d" % last)
    byte_range = parse_range(value)
    body = bytes(total % 251 for _ in range(total))
    assert byte_range is not None
    want = body[first:] if last is None else body[first : last + 1]
    try:
        span = byte_range.resolve(total)
    except Unsatisfiable:
        assert want == b""
    else:
        assert body[span.start : span.stop] == want
        assert span.length == len(want) > 0


@given(st.binary(max_size=40) | st.from_regex(rb"bytes=[0-9,\- ]*", fullmatch=True))
def test_range_never_raises(value: bytes) -> None:
    byte_range = parse_range(value)
    assert byte_range is None or byte_range.first is not None or byte_range.last is not None


ETAG = b'"sha256:ab"'
NONE_MATCH = [
    (None, False),
    (b"*", True),
    (ETAG, True),
    (b"W/" + ETAG, True),
    (b'"x", ' + ETAG, True),
    (b'"x",W/' + ETAG + b' ,"y"', True),
    (b"sha256:ab", True),
    (b'"x"', False),
    (b'"sha256:abc"', False),
    (b'"sha256:ab', False),
    (b"", False),
]


@pytest.mark.parametrize("value, want", NONE_MATCH)
def test_none_match(value: bytes | None, want: bool) -> None:
    assert none_match(value, ETAG) is want
    assert none_match(value, b"W/" + ETAG) is want


@pytest.mark.parametrize(
    "value, etag, want",
    [
        (None, ETAG, True),
        (ETAG, ETAG, True),
        (b"W/" + ETAG, ETAG, False),
        (b"W/" + ETAG, b"W/" + ETAG, False),
        (b'"x"', ETAG, False),
        (b"*", ETAG, False),
        (b"Sat, 29 Oct 1994 19:43:31 GMT", ETAG, False),
    ],
)
def test_if_range(value: bytes | None, etag: bytes, want: bool) -> None:
    assert if_range_allows(value, etag) is want


# What must stay true of any bytes.

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.!~", min_size=1, max_size=12).map(str.encode)
VALUE = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.just("\t"), max_size=20).map(
    lambda text: text.encode("latin-1").strip(b" \t")
)
PLAIN = st.tuples(TOKEN.map(lambda name: b"x-" + name), VALUE)
BODY: st.SearchStrategy[tuple[Framing, list[tuple[bytes, bytes]]]] = st.one_of(
    st.just((NONE, [])),
    st.integers(0, 10**17).map(lambda n: (Framing("length", n), [(b"Content-Length", b"%d" % n)])),
    st.just((CHUNKED, [(b"Transfer-Encoding", b"chunked")])),
)
PATH = st.text("abcXYZ019/%?=&:._-~+@!$'()*,;", max_size=30).map("/".__add__)


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    PATH,
    st.lists(PLAIN, max_size=8),
    BODY,
)
def test_round_trip(
    method: str, path: str, fields: list[tuple[bytes, bytes]], body: tuple[Framing, list[tuple[bytes, bytes]]]
) -> None:
    framing, extra = body
    sent = [(b"Host", b"reg.example"), *fields, *extra]
    head = lines(f"{method} {path} HTTP/1.1", *(name + b": " + value for name, value in sent))
    request = parse_request(head)
    want: Headers = tuple((name.lower(), value) for name, value in sent)
    assert request == Request(method, path, 1, want, framing, True, False)
    onward = parse_request(upstream_head(request, b"reg.example"))
    assert onward == request


@given(st.integers(100, 599).filter(lambda status: status != 101), st.lists(PLAIN, max_size=8), BODY)
def test_response_round_trip(
    status: int, fields: list[tuple[bytes, bytes]], body: tuple[Framing, list[tuple[bytes, bytes]]]
) -> None:
    sent = [*fields, *body[1]]
    response = parse_response(build_head(status, sent), "GET")
    assert response.status == status
    assert response.headers == tuple((name.lower(), value) for name, value in sent)
    if status >= 200 and status not in (204, 304):
        assert response.body == (EOF if body[0] == NONE else body[0])


@given(st.sampled_from([head for head, _ in CLIENTS.values()]), st.data())
def test_cut_anywhere(head: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(HeadError):
        parse_request(head[:cut])


@given(st.sampled_from([head for head, *_ in RESPONSES.values()]), st.data())
def test_response_cut_anywhere(head: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(BadResponse):
        parse_response(head[:cut], "GET")


FRAGMENTS = st.sampled_from(
    [
        b"Content-Length: 5",
        b"content-length: 6",
        b"Content-Length : 5",
        b"Content-Length: 5, 5",
        b"Content_Length: 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\tchunked ",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: x",
        b"Host: a",
        b"host: b",
        b"Host: a@b",
        b"Connection: close, content-length, transfer-encoding, host",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b" folded",
        b"X: \nContent-Length: 7",
        b"X: \rTransfer-Encoding: chunked",
        b"X:",
        b"",
        b"GET /smuggled HTTP/1.1",
        b"\0",
    ]
)
FIRST_LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /v2/ HTTP/1.1",
        b"POST /v2/ HTTP/1.0",
        b"GET http://h/p HTTP/1.1",
        b"CONNECT a:443 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET /a HTTP/1.1\n",
    ]
)
BREAKS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r"])


@st.composite
def crooked_heads(draw: st.DrawFn) -> bytes:
    """Draw a head that is nearly right."""
    head = draw(FIRST_LINES) + draw(BREAKS) + draw(st.sampled_from([b"Host: a\r\n", b"Host: a\r\n", b""]))
    for fragment in draw(st.lists(FRAGMENTS | st.binary(max_size=6), max_size=4)):
        head += fragment + draw(BREAKS)
    return head + b"\r\n"


@given(crooked_heads() | st.binary(max_size=80))
@example(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
def test_nothing_is_smuggled(head: bytes) -> None:
    """What is let through has one reading, and what we send on has the same one."""
    try:
        request = parse_request(head)
    except HeadError:
        return
    assert b"\n" not in head.replace(b"\r\n", b"")
    assert b"\r" not in head.replace(b"\r\n", b"")
    assert head.removeprefix(b"\r\n").count(b"\r\n") == len(request.headers) + 2
    lengths, codings = request.all(b"content-length"), request.all(b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1
    assert len(request.all(b"host")) == 1 or (request.minor == 0 and not request.all(b"host"))
    assert (request.body == CHUNKED) == bool(codings)
    assert (request.body.kind == "length") == bool(lengths)
    if request.method == "CONNECT":
        assert request.body.empty
        return
    sent = upstream_head(request, b"origin.example")
    assert sent.find(b"\r\n\r\n") == len(sent) - 4
    onward = parse_request(sent)
    assert onward.body == request.body
    assert onward.all(b"host") == [b"origin.example"]
    assert onward.all(b"connection") == []
    assert onward.method == request.method


@given(crooked_heads() | st.binary(max_size=80), st.sampled_from(["GET", "HEAD", "CONNECT"]))
def test_responses_have_one_reading(head: bytes, method: str) -> None:
    _, _, fields = head.partition(b"\r\n")
    for candidate in (head, b"HTTP/1.1 200 OK\r\n" + fields):
        try:
            response = parse_response(candidate, method)
        except BadResponse:
            continue
        lengths, codings = response.all(b"content-length"), response.all(b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1
        # What is read leniently may have had lines that are no fields: nothing follows it on its connection.
        assert candidate.count(b"\r\n") == len(response.headers) + 2 or not response.keep_alive
        assert response.body.kind != "eof" or not response.keep_alive
        names = {name for name, _ in end_to_end(response.headers)}
        assert names.isdisjoint({b"connection", b"transfer-encoding", b"set-cookie", b"upgrade"})


CONTENT_RANGES = [
    (b"bytes 0-0/1", (Span(0, 1), 1)),
    (b"bytes 5-9/10", (Span(5, 10), 10)),
    (b"Bytes 5-9/*", (Span(5, 10), None)),
    (b"bytes 5-9/9", None),
    (b"bytes 9-5/10", None),
    (b"bytes */10", None),
    (b"bytes 5-/10", None),
    (b"bytes 5-9", None),
    (b"items 5-9/10", None),
    (b"bytes 5-9/10, bytes 1-2/10", None),
    (b"bytes " + b"9" * 30 + b"-" + b"9" * 31 + b"/*", None),
    (b"", None),
    (None, None),
]


@pytest.mark.parametrize("value, want", CONTENT_RANGES, ids=str)
def test_content_range(value: bytes | None, want: tuple[Span, int | None] | None) -> None:
    """What a 206 has is believed only where it can be understood (RFC 9110 14.4)."""
    assert parse_content_range(value) == want
