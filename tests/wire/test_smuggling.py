"""What two parties could read in two ways, between clients, the proxy and origins.

Each row says what comes of it. Whatever that is, the next request of another client, on the same connection
to the origin, is unharmed.
"""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from tests.support.byte_streams import Tls
from tests.support.client import Client
from tests.support.origin import Answer, Origin, Seen
from tests.support.processes import free_address
from tests.support.proxy import Proxy
from tests.support.shared_proxy import UPLOADS, Bare, Lane, ended, take_head
from tests.support.trust import Trust
from tests.wire.test_proxy_port import BAD_CHUNKS, MALFORMED, SMUGGLED, SMUGGLING

Talk = Callable[..., Client]

PLAIN = "/v2/"
NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class Way:
    """How clients get to reg.test. `host`: what the origin is asked by; `url`: ahead of their targets."""

    dial: Callable[[], Client]
    host: str
    url: bytes = b""

    def sent(self, head: bytes) -> bytes:
        """Return a request as it is sent on this way."""
        return re.sub(rb" (?=/(?:v2/|token) HTTP/)", b" " + self.url, head, count=1)


@pytest.fixture(scope="module")
def listening() -> tuple[str, int]:
    """Where clients come whom DNS has sent."""
    return free_address()


@pytest.fixture(scope="module")
def pushing(lane: Lane, listening: tuple[str, int], tmp_path_factory: pytest.TempPathFactory) -> Proxy:
    """One that lets pushes through: more of what a client sends reaches the origin."""
    host, port = lane.origin.address
    toml = tmp_path_factory.mktemp("smuggling") / "regproxy.toml"
    toml.write_text(f'[origin."reg.test:443"]\naddress = "{host}"\nport = {port}\n')
    return lane.proxy(
        ALLOW_PUSH="true",
        REGISTRIES=f"reg.test {lane.origin.authority}",
        REGPROXY_CONFIG=str(toml),
        REGPROXY_TRANSPARENT_LISTEN="{}:{}".format(*listening),
    )


@pytest.fixture
def way(
    request: pytest.FixtureRequest,
    pushing: Proxy,
    origin: Origin,
    listening: tuple[str, int],
    talk: Talk,
    stack: ExitStack,
) -> Way:
    """By CONNECT; by a URL to the proxy (HTTP_PROXY); by DNS, with TLS and without."""

    def plain(address: tuple[str, int]) -> Client:
        return stack.enter_context(Client.connect(address, authority="reg.test"))

    def tls() -> Client:
        client = plain(listening)
        client.start_tls("reg.test", pushing.ca_pem)
        return client

    ways = {
        "CONNECT": Way(lambda: talk(pushing, origin), origin.authority),
        "URL": Way(lambda: plain(pushing.address), origin.authority, f"http://{origin.authority}".encode()),
        "DNS": Way(lambda: plain(listening), "reg.test"),
        "DNS, TLS": Way(tls, "reg.test"),
    }
    return ways[request.param]


by_any_way = pytest.mark.parametrize("way", ["CONNECT", "URL", "DNS", "DNS, TLS"], indirect=True)
# Where the host that a request names is the one that it is for.
by_tls = pytest.mark.parametrize("way", ["CONNECT", "DNS, TLS"], indirect=True)


class Witness:
    """Another client, who asks before and after. `seen`: what the origin has got between its two requests."""

    def __init__(self, way: Way, origin: Origin) -> None:
        self._way, self._origin = way, origin
        origin.on(PLAIN, Answer(b"{}"))
        self.before = self._own()

    def _own(self) -> Seen:
        client, target = self._way.dial(), f"{PLAIN}?{next(NUMBERS)}"
        reply = client.get(self._way.url.decode() + target)
        assert (reply.status, reply.body) == (200, b"{}")
        seen = self._origin.requests[-1]
        assert seen.target == target
        return seen

    def check(self) -> list[Seen]:
        """Ask again, and return what the origin has got meanwhile."""
        after = self._own()
        assert (after.method, after.headers, after.body) == (
            self.before.method,
            self.before.headers,
            self.before.body,
        )
        # The connection on which the first one was answered was still good for the second one.
        assert after.connection == self.before.connection
        requests = self._origin.requests
        seen = requests[requests.index(self.before) + 1 : -1]
        assert not any("smuggled" in each.target for each in seen)
        return seen


# --- clients: what is refused ----------------------------------------------------------------------------


def post(fields: bytes, line: bytes = b"POST /token HTTP/1.1") -> bytes:
    return line + b"\r\nHost: reg.test\r\n" + fields


def get(target: bytes, host: bytes = b"reg.test", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# Refused with this status, and the connection is closed: what follows is nobody's request.
CLOSED: dict[str, tuple[bytes, int]] = {
    **{f"a head with {name}": row for name, row in MALFORMED.items()},
    **{f"a body with {name}": (post(fields), 400) for name, fields in SMUGGLING.items()},
    **{f"a chunk with {name}": (post(CHUNKED + body), 400) for name, body in BAD_CHUNKS.items()},
    # Framing
    "chunked in HTTP/1.0": (post(CHUNKED + b"0\r\n\r\n", b"POST /token HTTP/1.0"), 400),
    "a length and chunked in HTTP/1.0": (
        post(b"Content-Length: 0\r\n" + CHUNKED + b"0\r\n\r\n", b"POST /token HTTP/1.0"),
        400,
    ),
    "the same length twice": (post(b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n"), 400),
    "the same length in a list": (post(b"Content-Length: 0, 0\r\n\r\n"), 400),
    "a length with an underscore in it": (post(b"Content-Length: 4_4\r\n\r\n"), 400),
    "a length in other digits": (post("Content-Length: ٤٤\r\n\r\n".encode()), 400),
    "a length with blanks in it": (post(b"Content-Length: 4 4\r\n\r\n"), 400),
    "chunked in two fields": (post(b"Transfer-Encoding: chunked\r\n" + CHUNKED + b"0\r\n\r\n"), 400),
    "an empty coding": (post(b"Transfer-Encoding:\r\n\r\n0\r\n\r\n"), 400),
    "quoted chunked": (post(b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'), 400),
    "chunked with a parameter": (post(b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n"), 400),
    "Content_Length": (post(b"Content_Length: 44\r\n\r\n"), 400),
    "Transfer_Encoding": (post(b"Transfer_Encoding: chunked\r\n\r\n"), 400),
    "content.length~ beside a length": (post(b"content.length~: 44\r\nContent-Length: 0\r\n\r\n"), 400),
    # Chunks
    "a size and a blank and digits": (post(CHUNKED + b"0 3\r\nabc\r\n0\r\n\r\n"), 400),
    "a size with a blank ahead": (post(CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n"), 400),
    "a size with an underscore": (post(CHUNKED + b"0_3\r\nabc\r\n0\r\n\r\n"), 400),
    "a negative size": (post(CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"), 400),
    "a size that is 0 in 64 bits": (post(CHUNKED + b"10000000000000000\r\n\r\n"), 400),
    "a size that is negative in 64 bits": (post(CHUNKED + b"ffffffffffffffff\r\n"), 400),
    "a NUL in an extension": (post(CHUNKED + b"3;a=\0\r\nabc\r\n0\r\n\r\n"), 400),
    "a bare CR in an extension": (post(CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n"), 400),
    "a trailer that ends in LF": (post(CHUNKED + b"0\r\nX: y\n\r\n"), 400),
    "a last chunk that ends in LF": (post(CHUNKED + b"0\r\n\n"), 400),
    "a request within a trailer": (post(CHUNKED + b"0\r\nX: y\nGET /smuggled HTTP/1.1\r\n\r\n"), 400),
    "a trailer that is folded": (post(CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n"), 400),
    "a trailer without a name": (post(CHUNKED + b"0\r\n: y\r\n\r\n"), 400),
    # Fields
    "a nameless field": (post(b": x\r\n\r\n"), 400),
    "a field whose name is a blank": (post(b" : x\r\n\r\n"), 400),
    "a first field that is folded": (b"GET /v2/ HTTP/1.1\r\n Host: reg.test\r\n\r\n", 400),
    "a line of blanks": (post(b" \r\n\r\n"), 400),
    "a control character in a name": (post(b"X\x01: y\r\n\r\n"), 400),
    "a control character in a value": (post(b"X: \x01y\r\n\r\n"), 400),
    "two bare LFs": (b"GET /v2/ HTTP/1.1\nHost: reg.test\n\n", 400),
    "CR CR LF": (post(b"X: y\r\r\n\r\n"), 400),
    # The first line
    "a method in lower case": (get(b"/v2/", method=b"get"), 501),
    "a method in mixed case": (get(b"/v2/", method=b"Get"), 501),
    "a method with a blank ahead": (b" GET /v2/ HTTP/1.1\r\nHost: reg.test\r\n\r\n", 400),
    "connect in lower case": (b"connect a.test:443 HTTP/1.1\r\nHost: reg.test\r\n\r\n", 501),
    "http in lower case": (b"GET /v2/ http/1.1\r\nHost: reg.test\r\n\r\n", 400),
    "HTTP/1.10": (b"GET /v2/ HTTP/1.10\r\nHost: reg.test\r\n\r\n", 400),
    "HTTP/01.1": (b"GET /v2/ HTTP/01.1\r\nHost: reg.test\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /v2/ HTTP/1.2\r\nHost: reg.test\r\n\r\n", 505),
    "HTTP/0.9 with a body": (b"POST /v2/\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a tab in the first line": (b"GET\t/v2/\tHTTP/1.1\r\nHost: reg.test\r\n\r\n", 400),
    "a blank at its end": (b"GET /v2/ HTTP/1.1 \r\nHost: reg.test\r\n\r\n", 400),
    # The target
    "an asterisk for GET": (get(b"*"), 400),
    "an authority for GET": (get(b"reg.test:443"), 400),
    "another scheme": (get(b"ftp://reg.test/v2/"), 400),
    "a URL without a host": (get(b"http:///v2/"), 400),
    "a URL with a user": (get(b"https://reg.test@other.test/v2/"), 400),
    "a URL with a backslash": (get(b"https://other.test\\@reg.test/v2/"), 400),
    "a URL with a port that is none": (get(b"https://reg.test:4x/v2/"), 400),
    "bytes that are no ASCII": (get("/v2/ä".encode()), 400),
    # Host
    "a Host with a user": (get(b"/v2/", b"other.test@reg.test"), 400),
    "two Hosts in a list": (get(b"/v2/", b"reg.test, other.test"), 400),
    "two equal Hosts": (get(b"/v2/", b"reg.test\r\nHost: reg.test"), 400),
    "two Hosts by case": (get(b"/v2/", b"reg.test\r\nhOST: other.test"), 400),
    "a Host with a path": (get(b"/v2/", b"reg.test/other"), 400),
    "a Host with a port that is none": (get(b"/v2/", b"reg.test:4x"), 400),
    "a Host with two ports": (get(b"/v2/", b"reg.test:443:443"), 400),
    "a Host with a port that is too large": (get(b"/v2/", b"reg.test:65536"), 400),
    "a Host with two dots": (get(b"/v2/", b"reg.test.."), 400),
    "a Host with a zone": (get(b"/v2/", b"[fe80::1%25eth0]"), 400),
    "a Host that is folded": (get(b"/v2/", b"reg.test\r\n other.test"), 400),
    # Expect
    "one expectation of two unknown": (
        post(b"Expect: 100-continue, tea\r\nContent-Length: 1\r\n\r\nx"),
        417,
    ),
    "an expectation that begins otherwise": (
        post(b"Expect: y 100-continue\r\nContent-Length: 1\r\n\r\nx"),
        417,
    ),
    "unknown expectations without a body": (post(b"Expect: tea\r\n\r\n", b"GET /v2/ HTTP/1.1"), 417),
    # Bodies where none has a meaning
    **{
        f"a body with {method}, {framing}": (
            post(fields, f"{method} /v2/ HTTP/1.1".encode()) + (b"" if framing == "length" else b"0\r\n\r\n"),
            400,
        )
        for method in ("GET", "HEAD", "OPTIONS", "TRACE")
        for framing, fields in {
            "length": b"Content-Length: %d\r\n\r\n" % len(SMUGGLED),
            "chunked": CHUNKED,
        }.items()
    },
}


@by_any_way
@pytest.mark.parametrize("name", CLOSED)
def test_refused_and_closed(name: str, way: Way, origin: Origin) -> None:
    data, status = CLOSED[name]
    witness, client = Witness(way, origin), way.dial()
    with suppress(OSError):  # it may be closed before all of it is sent
        client.send(way.sent(data) + SMUGGLED)
    reply = client.read_reply("HEAD" if data.startswith(b"HEAD ") else "GET")
    assert reply.status == status
    assert reply.get("Connection") == "close"
    ended(client)
    assert witness.check() == []


# Refused, but it is clear where the request ends: the next one on this connection is answered.
STAYS: dict[str, tuple[bytes, int]] = {
    "another Host": (get(b"/v2/", b"other.test"), 421),
    "an empty Host": (get(b"/v2/", b""), 421),
    "a Host above": (get(b"/v2/", b"reg.test.other.test"), 421),
    "a Host below": (get(b"/v2/", b"a.reg.test"), 421),
    "an address": (get(b"/v2/", b"[::1]"), 421),
    "another URL": (get(b"https://other.test/v2/"), 421),
    "OPTIONS for another Host": (get(b"*", b"other.test", b"OPTIONS"), 421),
    "CONNECT": (get(b"reg.test:443", method=b"CONNECT"), 405),
    "the first API": (get(b"/v1/users/"), 405),
}


# Who is sent here by DNS names the port that it has connected to, whichever that is.
PORTS: dict[str, tuple[bytes, int]] = {
    "another port": (get(b"/v2/", b"reg.test:1"), 421),
    "another URL's port": (get(b"https://reg.test:1/v2/"), 421),
    "http's own port": (get(b"http://reg.test:80/v2/"), 421),
}


@pytest.mark.parametrize(
    "name, way",
    [*((name, "CONNECT") for name in (*STAYS, *PORTS)), *((name, "DNS, TLS") for name in STAYS)],
    indirect=["way"],
)
def test_refused_and_gone_on(name: str, way: Way, origin: Origin) -> None:
    data, status = (STAYS | PORTS)[name]
    witness, client = Witness(way, origin), way.dial()
    client.send(data + client.head("GET", PLAIN) + data)
    assert client.read_reply("GET").status == status
    assert client.read_reply("GET").body == b"{}"
    assert client.read_reply("GET").status == status
    assert [(seen.method, seen.target) for seen in witness.check()] == [("GET", PLAIN)]


@by_any_way
def test_nothing_is_taken_behind_a_close(way: Way, origin: Origin) -> None:
    """A client that says that it closes has sent its last request."""
    witness, client = Witness(way, origin), way.dial()
    client.send(way.sent(post(b"Connection: close\r\n\r\n", b"GET /v2/ HTTP/1.1")) + SMUGGLED)
    assert client.read_reply("GET").body == b"{}"
    ended(client)
    assert [seen.target for seen in witness.check()] == [PLAIN]


# A CONNECT has no content (RFC 9110 9.3.6), and what follows it is no request of its own.
CONNECTS = {
    "a length": b"\r\nHost: reg.test\r\nContent-Length: 44\r\n\r\n",
    "chunked": b"\r\nHost: reg.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare LF": b"\nHost: reg.test\r\n\r\n",
    "two bare LFs": b"\r\nHost: reg.test\n\n",
    "a bare LF in a field": b"\r\nHost: reg.test\nX: y\r\n\r\n",
    "a bare CR in a field": b"\r\nHost: reg.test\rX: y\r\n\r\n",
    "a NUL": b"\r\nHost: reg.test\0\r\n\r\n",
    "a folded line": b"\r\nHost: reg.test\r\n X: y\r\n\r\n",
    "a blank before the colon": b"\r\nHost : reg.test\r\n\r\n",
    "a nameless field": b"\r\n: reg.test\r\n\r\n",
    "a line without a colon": b"\r\nHost: reg.test\r\nnonsense\r\n\r\n",
}


@pytest.mark.parametrize("way", ["URL"], indirect=True)
@pytest.mark.parametrize("name", CONNECTS)
def test_connects_that_are_refused(name: str, way: Way, origin: Origin) -> None:
    witness, client = Witness(way, origin), way.dial()
    client.send(f"CONNECT {origin.authority} HTTP/1.1".encode() + CONNECTS[name] + SMUGGLED)
    reply = client.read_reply("GET")
    assert (reply.status, reply.get("Connection")) == (400, "close")
    ended(client)
    assert witness.check() == []


# --- clients: what is passed on --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Onward:
    """A request that is passed on: what the origin gets of it. None: a field that it must not get."""

    sent: bytes
    method: str
    target: str
    body: bytes = b""
    fields: Mapping[str, str | None] = field(default_factory=dict)
    status: int = 200


def gone(*names: str) -> dict[str, str | None]:
    return dict.fromkeys(names)


PUT = f"PUT {UPLOADS}1 HTTP/1.1".encode()
# A client can neither take a field away by naming it in Connection nor keep one.
KEPT = {
    "accept": "text/x",
    "accept-encoding": "gzip",
    "authorization": "Basic dTpw",
    "content-encoding": "x",
    "content-range": "0-2",
    "content-type": "text/x",
    "if-match": '"x"',
    "if-none-match": '"x"',
    "range": "bytes=0-1",
    "user-agent": "x",
}
PASSED: dict[str, Onward] = {
    **{
        f"Connection: {name}": Onward(
            post(f"Connection: {name}\r\n{name}: {value}\r\nContent-Length: 3\r\n\r\nabc".encode(), PUT),
            *("PUT", f"{UPLOADS}1", b"abc", {name: value, "connection": None, "content-length": "3"}, 201),
        )
        for name, value in KEPT.items()
    },
    "Connection: content-length": Onward(
        post(b"Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc", PUT),
        *("PUT", f"{UPLOADS}1", b"abc", {"content-length": "3"}, 201),
    ),
    "Connection: transfer-encoding": Onward(
        post(b"Connection: transfer-encoding, close\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", PUT),
        *("PUT", f"{UPLOADS}1", b"abc", {"content-length": None}, 201),
    ),
    "Connection: host, expect": Onward(
        post(b"Connection: host, expect\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", PUT),
        *("PUT", f"{UPLOADS}1", b"abc", {"expect": "100-continue"}, 201),
    ),
    "Connection: x-own": Onward(
        post(b"Connection: x-own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: 5\r\n\r\n", b"GET /v2/ HTTP/1.1"),
        *("GET", PLAIN, b"", {"x-own": None, "keep-alive": None, "connection": None}),
    ),
    "what is for proxies": Onward(
        post(
            b"Connection: proxy-authorization\r\nProxy-Authorization: Basic dTpw\r\nProxy-Connection: x\r\n"
            b"TE: trailers\r\nTrailer: X\r\n\r\n",
            b"GET /v2/ HTTP/1.1",
        ),
        *("GET", PLAIN, b""),
        gone("proxy-authorization", "proxy-connection", "te", "trailer"),
    ),
    "h2c": Onward(
        post(
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
            b"GET /v2/ HTTP/1.1",
        ),
        *("GET", PLAIN, b"", gone("upgrade", "http2-settings", "connection")),
    ),
    "Upgrade with a body": Onward(
        post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc", PUT),
        *("PUT", f"{UPLOADS}1", b"abc", {"upgrade": None}, 201),
    ),
    # An origin that waits for a body would take the next request for it.
    "Expect without a body": Onward(
        post(b"Expect: 100-continue\r\n\r\n", b"GET /v2/ HTTP/1.1"), "GET", PLAIN, b"", {"expect": None}
    ),
    "Expect with an empty body": Onward(
        post(b"Expect: 100-Continue\r\nContent-Length: 0\r\n\r\n", PUT),
        *("PUT", f"{UPLOADS}1", b"", {"expect": None, "content-length": "0"}, 201),
    ),
    "Expect in HTTP/1.0": Onward(
        post(b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", PUT[:-1] + b"0"),
        *("PUT", f"{UPLOADS}1", b"abc", {"expect": None}, 201),
    ),
    "Expect of something in HTTP/1.0": Onward(
        post(b"Expect: tea\r\n\r\n", b"GET /v2/ HTTP/1.0"), "GET", PLAIN, b"", {"expect": None}
    ),
    # Chunks are made anew: nothing of their framing goes on.
    "extensions and trailers": Onward(
        post(CHUNKED + b"3 ;a=b\r\nabc\r\n03\r\ndef\r\n0;c\r\nContent-Length: 9\r\nHost: x\r\n\r\n", PUT),
        *("PUT", f"{UPLOADS}1", b"abcdef", {"content-length": None, "transfer-encoding": "chunked"}, 201),
    ),
    # The target
    "a URL": Onward(get(b"HTTPS://REG.test./v2/?x"), "GET", "/v2/?x", b""),
    "a URL that outranks Host": Onward(get(b"http://reg.test/v2/", b"other.test"), "GET", PLAIN),
    "a URL without a path": Onward(get(b"https://reg.test", method=b"OPTIONS"), "OPTIONS", "*", status=404),
    "an asterisk": Onward(get(b"*", method=b"OPTIONS"), "OPTIONS", "*", status=404),
    "no Host in HTTP/1.0": Onward(b"GET /v2/ HTTP/1.0\r\n\r\n", "GET", PLAIN),
    "a Host in capitals with a dot": Onward(get(b"/v2/", b"REG.Test."), "GET", PLAIN),
    "other names of the host": Onward(
        post(b"X-Forwarded-Host: other.test\r\nX-Host: other.test\r\n\r\n", b"GET /v2/ HTTP/1.1"),
        *("GET", PLAIN),
    ),
}


@by_tls
@pytest.mark.parametrize("name", PASSED)
def test_passed_on(name: str, way: Way, origin: Origin) -> None:
    row = PASSED[name]
    witness, client = Witness(way, origin), way.dial()
    client.send(row.sent)
    assert client.read_reply("GET").status == row.status
    (seen,) = witness.check()
    assert (seen.method, seen.target, seen.body) == (row.method, row.target, row.body)
    assert seen.all("Host") == [way.host]
    assert len(seen.all("Content-Length") + seen.all("Transfer-Encoding")) == bool(
        seen.get("Content-Length") or row.body
    )
    for key, want in row.fields.items():
        assert seen.all(key) == ([] if want is None else [want]), key


# --- origins ---------------------------------------------------------------------------------------------

EVIL = b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 4\r\n\r\nevil"
OK = b"HTTP/1.1 200 OK\r\n"
TE = b"Transfer-Encoding: chunked\r\n\r\n"
# What an origin answers, and what its client gets: a body, or None for an error or an answer that is cut.
ANSWERS: dict[str, tuple[bytes, bytes | None]] = {
    "two answers": (OK + b"Content-Length: 2\r\n\r\nhi", b"hi"),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 70\r\n\r\nhi", None),
    "two lengths in a list": (OK + b"Content-Length: 2, 70\r\n\r\nhi", None),
    "one length twice": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "a length with a sign": (OK + b"Content-Length: +2\r\n\r\nhi", None),
    "a negative length": (OK + b"Content-Length: -2\r\n\r\nhi", None),
    "a length with an underscore": (OK + b"Content-Length: 0_2\r\n\r\nhi", None),
    "a huge length": (OK + b"Content-Length: 18446744073709551618\r\n\r\nhi", None),
    "a length and chunked": (OK + b"Content-Length: 70\r\n" + TE + b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
    "chunked twice": (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", None),
    "another coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", None),
    "chunked is not the last": (OK + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\nhi\r\n", None),
    "chunked in HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + TE + b"2\r\nhi\r\n0\r\n\r\n", None),
    "a blank before the colon": (OK + b"Transfer-Encoding : chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi"),
    "a folded coding": (OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi"),
    "a NUL in a length": (OK + b"Content-Length: 2\0\r\n\r\nhi", None),
    "a bare CR in a length": (OK + b"Content-Length: 2\r7\r\n\r\nhi", None),
    "a bare CR ahead of a coding": (OK + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
    "a nameless field": (OK + b": chunked\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "Content_Length": (OK + b"Content_Length: 70\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "Connection: content-length": (OK + b"Connection: content-length\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "an extension": (OK + TE + b"2;a=b\r\nhi\r\n0\r\n\r\n", b"hi"),
    "a trailer": (OK + TE + b"2\r\nhi\r\n0\r\nContent-Length: 70\r\n\r\n", b"hi"),
    "a size and a blank and digits": (OK + TE + b"2 0\r\nhi\r\n0\r\n\r\n", None),
    "a size with 0x": (OK + TE + b"0x2\r\nhi\r\n0\r\n\r\n", None),
    "a size with a sign": (OK + TE + b"+2\r\nhi\r\n0\r\n\r\n", None),
    "a size with a blank ahead": (OK + TE + b" 2\r\nhi\r\n0\r\n\r\n", None),
    "a size with an underscore": (OK + TE + b"0_2\r\nhi\r\n0\r\n\r\n", None),
    "no size": (OK + TE + b"\r\nhi\r\n0\r\n\r\n", None),
    "a size that is negative in 64 bits": (OK + TE + b"ffffffffffffffff\r\nhi\r\n0\r\n\r\n", None),
    "a size that is 0 in 64 bits": (OK + TE + b"10000000000000000\r\n\r\n", None),
    "a size that ends in LF": (OK + TE + b"2\nhi\r\n0\r\n\r\n", None),
    "a LF in an extension": (OK + TE + b"2;\nhi\r\n0\r\n\r\n", None),
    "a trailer that ends in LF": (OK + TE + b"2\r\nhi\r\n0\r\nX: y\n\r\n", None),
    "longer than its size": (OK + TE + b"2\r\nhiya\r\n0\r\n\r\n", None),
    "a 204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 70\r\n\r\n", b""),
    "a 204 that is chunked": (b"HTTP/1.1 204 No Content\r\n" + TE, b""),
    "a 304 with a body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi", b""),
    "an interim answer with a body": (b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nhi", None),
    "101": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", None),
    "HTTP/2": (b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nhi", None),
    "HTTP/0.9": (b"hi\r\n\r\n", None),
}


KIND = "application/vnd.oci.image.manifest.v1+json"


class TwoFaced(Bare):
    """An origin that says `answer` to a path with "evil" in it, and to others a manifest with that path.

    It leaves its connections open whatever it has said.
    """

    def __init__(self, trust: Trust) -> None:
        self.answer = b""
        super().__init__(trust, self._serve)

    def _serve(self, stream: Tls) -> None:
        with suppress(ConnectionError):
            while True:
                method, path, _ = take_head(stream).split(b" ", 2)
                if b"evil" in path:
                    stream.send(self.answer)
                else:
                    body = said_of(path.decode())
                    head = f"Content-Type: {KIND}\r\nContent-Length: {len(body)}\r\n\r\n"
                    stream.send(OK + head.encode() + (body if method == b"GET" else b""))

    def _take(self, sock: socket.socket) -> None:
        threading.Thread(target=super()._take, args=(sock,), daemon=True).start()


def said_of(path: str) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": KIND, "annotations": {"path": path}}).encode()


@pytest.fixture(scope="module")
def two_faced(trust: Trust) -> Iterator[TwoFaced]:
    with TwoFaced(trust) as bare:
        yield bare


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/evil", "/v2/app/manifests/evil"], ids=["passed", "tag"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str, path: str, method: str, two_faced: TwoFaced, lane: Lane, talk: Talk) -> None:
    """Whatever the rest of an answer is, it is no answer to somebody else."""
    answer, body = ANSWERS[name]
    two_faced.answer = answer + EVIL
    proxy, number = lane.proxy(**two_faced.env), next(NUMBERS)
    with talk(proxy, two_faced) as client:
        reply = client.request(method, f"{path}-{number}")
        if method == "HEAD":
            assert reply.body == b""
        elif path == "/evil":
            assert (reply.body if reply.status < 400 and reply.complete else None) == body
        else:
            assert b"evil" not in reply.body or reply.status >= 400
    for other in (f"/other/{number}", f"/v2/app/manifests/other-{number}"):
        for _ in range(2):
            client = talk(proxy, two_faced)
            assert client.get(other).body == said_of(other)
            assert client.request("HEAD", other).status == 200
