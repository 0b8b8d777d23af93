"""The proxy port, byte by byte: heads, framing, CONNECT, TLS, ranges, timeouts, and what is refused."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.client import Client, Reply, open_tunnel
from tests.origin import Answer, Origin, blob_answer
from tests.parts.images import digest_of
from tests.parts.processes import free_address, wait_until
from tests.parts.proxy import STATUS, TYPE, Proxy, cache_status
from tests.parts.trust import Trust, trusting
from tests.parts.wire import End, Plain, Tls

Start = Callable[..., Proxy]
Talk = Callable[..., Client]

HEAD_MAX = 32_768
NOISE = random.Random(1)
SMALL = NOISE.randbytes(2_000)
BIG = NOISE.randbytes(3_000_000)
SMALL_PATH, BIG_PATH = (f"/v2/app/blobs/{digest_of(body)}" for body in (SMALL, BIG))
UPLOADS = "/v2/app/blobs/uploads/"


def publish(origin: Origin, size: int, **faults: object) -> tuple[str, bytes]:
    """Serve new content, and return its path and bytes."""
    body = NOISE.randbytes(size)
    digest = digest_of(body)
    path = f"/v2/app/blobs/{digest}"
    origin.on(path, blob_answer(digest, body, **faults))
    return path, body


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    """One origin for all of them: two blobs, and paths that are passed through."""
    with Origin(trust, "reg.test") as origin:
        for path, body in ((SMALL_PATH, SMALL), (BIG_PATH, BIG)):
            origin.on(path, blob_answer(digest_of(body), body))
        origin.on("/v2/", Answer(b"{}", headers={"Content-Type": "application/json"}))
        origin.on("/pass", Answer(BIG))
        origin.on("/chunked", Answer(BIG, framing="chunked"))
        origin.on("/eof", Answer(BIG, framing="eof"))
        for path in ("/token", "/oauth2/token"):
            origin.on(path, lambda seen: Answer(f"{seen.method} ".encode() + seen.body))
        origin.on(UPLOADS + "*", lambda seen: Answer(digest_of(seen.body).encode(), 201))
        yield origin


@pytest.fixture(scope="module")
def begin(trust: Trust, origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a proxy before the origin, with variables, for the module; it must end without a leak."""
    with ExitStack() as stack:
        started: list[Proxy] = []

        def start(**env: str) -> Proxy:
            proxy = Proxy(
                tmp_path_factory.mktemp("proxy"),
                {"REGPROXY_DEBUG": "1", **env},
                registries=(origin.authority,),
                resolve=origin.resolve,
                ca=trust.path,
            )
            started.append(stack.enter_context(proxy))
            return proxy

        yield start
        stack.close()
        for proxy in started:
            assert "Traceback" not in proxy.log()


@pytest.fixture(scope="module")
def proxy(begin: Start, origin: Origin) -> Proxy:
    """One that pulls only, and holds both blobs."""
    proxy = begin()
    with proxy.client(origin.authority) as client:
        for path, body in ((SMALL_PATH, SMALL), (BIG_PATH, BIG)):
            assert client.get(path).body == body
    proxy.wait_kept(digest_of(SMALL), digest_of(BIG))
    return proxy


@pytest.fixture(scope="module")
def pushing(begin: Start) -> Proxy:
    """One that lets pushes through."""
    return begin(ALLOW_PUSH="true")


@pytest.fixture
def client(proxy: Proxy, origin: Origin, talk: Talk) -> Client:
    """A client that is through TLS."""
    return talk(proxy, origin)


@pytest.fixture
def dial(stack: ExitStack) -> Callable[[Proxy], Client]:
    """A client that has connected to the proxy port, nothing more."""
    return lambda proxy: stack.enter_context(Client.connect(proxy.address))


def ended(client: Client) -> End:
    """How the proxy ends the connection, once it does, without another byte."""
    rest, end = client.read_end()
    assert rest == b""
    return end


class TestHeads:
    """Where one request ends and the next begins."""

    def test_10000_on_one_connection(self, client: Client, proxy: Proxy) -> None:
        head = client.head("GET", SMALL_PATH)
        for _ in range(10_000):
            client.send(head)
            reply = client.read_reply("GET")
            assert reply.body == SMALL
        assert reply.get(STATUS) == "HIT"
        assert reply.get("Connection") is None

    @pytest.mark.parametrize("end", ["stays", "close_notify behind it"])
    def test_200_heads_in_one_packet(self, end: str, client: Client) -> None:
        """Answers come in order; those that were asked for come even when the client says it is done."""
        heads, want = [], []
        for number in range(200):
            if number % 10 == 9:
                heads.append(client.head("HEAD", BIG_PATH))
                want.append(("HEAD", 200, b""))
            elif number % 10 == 4:
                heads.append(client.head("GET", SMALL_PATH))
                want.append(("GET", 200, SMALL))
            else:
                heads.append(client.head("GET", BIG_PATH, [("Range", f"bytes={number}-{number * 100}")]))
                want.append(("GET", 206, BIG[number : number * 100 + 1]) if number else ("GET", 206, BIG[:1]))
        assert isinstance(client.stream, Tls)
        client.stream.ssl.write(b"".join(heads))
        if end == "stays":
            client.stream.send(b"")
        else:
            client.half_close()
        for method, status, body in want:
            reply = client.read_reply(method)
            assert (reply.status, reply.body) == (status, body)
        if end != "stays":
            assert ended(client) is End.CLOSE_NOTIFY

    def test_pipelined_behind_what_an_origin_is_asked(self, client: Client, origin: Origin) -> None:
        path, body = publish(origin, 200_000)
        paths = [SMALL_PATH, path, "/v2/", "/chunked", SMALL_PATH, "/pass", path]
        client.send(b"".join(client.head("GET", asked) for asked in paths))
        bodies = [client.read_reply("GET").body for _ in paths]
        assert bodies == [SMALL, body, b"{}", BIG, SMALL, BIG, body]

    def test_one_byte_at_a_time(self, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]) -> None:
        client = dial(proxy)
        client.send(
            f"CONNECT {origin.authority} HTTP/1.1\r\nHost: {origin.authority}\r\n\r\n".encode(), piece=1
        )
        assert client.read_reply("CONNECT").status == 200
        tls = Tls(client.stream, trusting(proxy.ca_pem), server_name=origin.name)
        for byte in tls.hello():
            client.stream.send(bytes([byte]))
        tls.handshake()
        client.layers.append(tls)
        client.ask("GET", SMALL_PATH, piece=1)
        assert client.read_reply().body == SMALL

    @pytest.mark.parametrize("back", [1, 2, 3, 4, 5])
    def test_cut_within_the_empty_line(self, back: int, client: Client) -> None:
        head = client.head("GET", SMALL_PATH)
        for _ in range(3):
            client.send(head[:-back])
            client.send(head[-back:] + head[:back])
            client.send(head[back:])
            assert [client.read_reply("GET").body for _ in range(2)] == [SMALL, SMALL]

    @pytest.mark.parametrize("early", [False, True])
    def test_connect_and_hello_in_one_packet(
        self, early: bool, proxy: Proxy, origin: Origin, talk: Talk
    ) -> None:
        assert talk(proxy, origin, early=early).get(SMALL_PATH).body == SMALL

    def test_empty_lines_before_a_request(self, client: Client) -> None:
        for lines in (b"\r\n", b"\r\n\r\n"):
            client.send(lines + client.head("GET", SMALL_PATH))
            assert client.read_reply("GET").body == SMALL

    def test_a_head_of_any_size_up_to_the_limit(self, client: Client) -> None:
        bare = len(client.head("GET", SMALL_PATH, [("X", "")]))
        for size in (HEAD_MAX - 1, HEAD_MAX):
            client.ask("GET", SMALL_PATH, [("X", "v" * (size - bare))])
            assert client.read_reply().body == SMALL
        client.ask("GET", SMALL_PATH, [("X", "v" * (HEAD_MAX + 1 - bare))])
        reply = client.read_reply()
        assert (reply.status, reply.get("Connection")) == (431, "close")
        assert "32 KiB" in reply.body.decode()
        assert ended(client) is End.CLOSE_NOTIFY

    @pytest.mark.parametrize("layer", ["plain", "tls"])
    def test_a_head_without_an_end(
        self, layer: str, proxy: Proxy, client: Client, dial: Callable[[Proxy], Client]
    ) -> None:
        client = client if layer == "tls" else dial(proxy)
        client.send(b"GET / HTTP/1.1\r\nX: " + b"v" * 100_000)
        assert client.read_reply("GET").status == 431

    @pytest.mark.parametrize("how", ["half close", "fin", "one packet"])
    @pytest.mark.parametrize("what", ["small", "hit", "fill", "slow fill", "pass", "chunked"])
    def test_half_close_behind_a_request(self, what: str, how: str, client: Client, origin: Origin) -> None:
        """The client says that it will send no more; it still gets all of its answer, then an end."""
        path, want = {
            "small": (SMALL_PATH, SMALL),
            "hit": (BIG_PATH, BIG),
            "pass": ("/pass", BIG),
            "chunked": ("/chunked", BIG),
        }.get(what) or publish(origin, 300_000, rate=1_000_000.0 if what == "slow fill" else None)
        if how == "one packet":
            assert isinstance(client.stream, Tls)
            client.stream.ssl.write(client.head("GET", path))
        else:
            client.send(client.head("GET", path))
        if how == "fin":
            client.fin()
        else:
            client.half_close()
        reply = client.read_reply("GET")
        assert (reply.status, reply.complete) == (200, True)
        assert reply.body == want
        assert ended(client) in (End.CLOSE_NOTIFY, End.FIN)


MALFORMED = {
    "no version": (b"GET /\r\nHost: reg.test\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "another version": (b"GET / HTTP/2.0\r\nHost: reg.test\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a bad Host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
    "a bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a bare CR": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", 400),
    "a NUL": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", 400),
    "a fragment": (b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "not a path": (b"GET elsewhere HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a line without a colon": (b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "an unknown coding": (
        b"POST /token HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        501,
    ),
    "an unknown expectation": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\nx",
        417,
    ),
}

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: reg.test\r\n\r\n"
SMUGGLING = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "two lengths in one": b"Content-Length: 0, 44\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": b"Content-Length: 0x0\r\n\r\n",
    "an empty length": b"Content-Length: \r\n\r\n",
    "a huge length": b"Content-Length: 99999999999999999999\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked is not the last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\n\r\n",
    "obscured chunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}

BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a size with a sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "a size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a size too large": b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a size that ends in LF": b"3\nabc\r\n0\r\n\r\n",
    "longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "a LF in an extension": b"3;a\nabc\r\n0\r\n\r\n",
    "an endless extension": b"3;" + b"a" * 100_000,
    "an endless trailer": b"0\r\nX: " + b"a" * 100_000,
}


class TestMalformed:
    """What can't be understood, or could be understood in two ways."""

    @pytest.mark.parametrize("name", MALFORMED)
    @pytest.mark.parametrize("layer", ["plain", "tls"])
    def test_heads(
        self, layer: str, name: str, proxy: Proxy, client: Client, dial: Callable[[Proxy], Client]
    ) -> None:
        data, status = MALFORMED[name]
        client = client if layer == "tls" else dial(proxy)
        client.send(data + SMUGGLED)
        reply = client.read_reply("GET")
        assert (reply.status, reply.complete, reply.get("Connection")) == (status, True, "close")
        message = reply.json()["errors"][0]["message"] if layer == "tls" else reply.body.decode()
        assert len(message) > 10
        assert ended(client) is (End.CLOSE_NOTIFY if layer == "tls" else End.FIN)

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("name", SMUGGLING)
    def test_smuggling(self, name: str, method: str, pushing: Proxy, origin: Origin, talk: Talk) -> None:
        before = origin.connections, len(origin.requests)
        client = talk(pushing, origin)
        client.send(f"{method} /token HTTP/1.1\r\nHost: reg.test\r\n".encode() + SMUGGLING[name] + SMUGGLED)
        reply = client.read_reply(method)
        assert reply.status in (400, 501)
        assert reply.get("Connection") == "close"
        assert ended(client) is End.CLOSE_NOTIFY
        assert (origin.connections, len(origin.requests)) == before

    @pytest.mark.parametrize("name", BAD_CHUNKS)
    def test_chunks(self, name: str, pushing: Proxy, origin: Origin, talk: Talk) -> None:
        """A broken body is a 400, and never a whole request for the origin."""
        before = len(origin.requests)
        client = talk(pushing, origin)
        client.send(client.head("POST", "/token", [("Transfer-Encoding", "chunked")]) + BAD_CHUNKS[name])
        reply = client.read_reply("POST")
        assert (reply.status, reply.get("Connection")) == (400, "close")
        assert "chunk" in reply.body.decode() or "trailer" in reply.body.decode()
        ended(client)
        assert origin.requests[before:] == []

    def test_chunks_that_are_good(self, pushing: Proxy, origin: Origin, talk: Talk) -> None:
        client = talk(pushing, origin)
        body = b"3;a=b\r\nabc\r\n003\r\ndef\r\nA ; x\r\n0123456789\r\n0\r\nX: y\r\nZ: w\r\n\r\n"
        client.send(client.head("POST", "/token", [("Transfer-Encoding", "chunked")]))
        client.send(body, piece=1)
        assert client.read_reply("POST").body == b"POST abcdef0123456789"

    @pytest.mark.parametrize("path", [SMALL_PATH, "/v2/app/blobs/" + digest_of(b"nobody has it")])
    def test_a_body_where_none_belongs(self, path: str, client: Client) -> None:
        """The body of a GET is never taken for the next request."""
        client.send(client.head("GET", path, [("Content-Length", str(len(SMUGGLED)))]) + SMUGGLED)
        reply = client.read_reply("GET")
        assert reply.status in (200, 400)
        assert reply.get("Connection") == "close"
        ended(client)


BAD_CONNECTS = [
    b"CONNECT reg.test HTTP/1.1",
    b"CONNECT :443 HTTP/1.1",
    b"CONNECT reg.test: HTTP/1.1",
    b"CONNECT reg.test:0 HTTP/1.1",
    b"CONNECT reg.test:65536 HTTP/1.1",
    b"CONNECT reg.test:443x HTTP/1.1",
    b"CONNECT reg.test:0000000443 HTTP/1.1",
    b"CONNECT https://reg.test:443 HTTP/1.1",
    b"CONNECT user@reg.test:443 HTTP/1.1",
    b"CONNECT reg.test:443/ HTTP/1.1",
    b"CONNECT reg.test:443",
    b"CONNECT reg.test:443 HTTP/2.0",
    b"CONNECT  reg.test:443 HTTP/1.1",
    b"CONNECT a" + b"a" * 300 + b":443 HTTP/1.1",
    b"CONNECT [::1:443 HTTP/1.1",
    b"CONNECT ::1:443 HTTP/1.1",
]

REFUSED = [
    ("example.com:80", "port 80"),
    ("example.com:22", "port 22"),
    ("reg.test:1", "port 1"),
    ("localhost:443", "loopback"),
    ("127.0.0.1:443", "loopback"),
    ("127.1:443", "loopback"),
    ("2130706433:443", "loopback"),
    ("0x7f000001:443", "loopback"),
    ("0.0.0.0:443", "loopback"),
    ("[::1]:443", "loopback"),
    ("[::]:443", "loopback"),
    ("[::ffff:127.0.0.1]:443", "loopback"),
    ("169.254.169.254:443", "metadata"),
    ("[fd00:ec2::254]:443", "metadata"),
]


class TestConnect:
    """CONNECT, and the first byte of a connection."""

    @pytest.mark.parametrize("line", BAD_CONNECTS, ids=str)
    def test_malformed(self, line: bytes, proxy: Proxy, dial: Callable[[Proxy], Client]) -> None:
        client = dial(proxy)
        client.send(line + b"\r\nHost: reg.test:443\r\n\r\n" + SMUGGLED)
        reply = client.read_reply("GET")
        assert (reply.status, reply.get("Connection")) == (400, "close")
        assert "CONNECT wants host:port" in reply.body.decode()
        assert ended(client) is End.FIN

    @pytest.mark.parametrize("target, word", REFUSED, ids=str)
    def test_refused(self, target: str, word: str, proxy: Proxy, dial: Callable[[Proxy], Client]) -> None:
        client = dial(proxy)
        reply = client.connect_to(target, extra=SMUGGLED)
        assert reply.status == 403
        assert reply.get("Content-Type") == "text/plain; charset=utf-8"
        text = reply.body.decode()
        assert word in text
        assert "REGPROXY_" in text
        assert ended(client) is End.FIN

    def test_spellings_of_one_host(self, proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
        for host in ("reg.test", "REG.test", "reg.test."):
            client = stack.enter_context(Client.connect(proxy.address))
            assert client.connect_to(f"{host}:{origin.port}").status == 200
            client.start_tls("reg.test", proxy.ca_pem)
            assert client.get(SMALL_PATH, {"Host": origin.authority}).get(STATUS) == "HIT"

    def test_the_answer_has_nothing_but_its_head(
        self, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]
    ) -> None:
        """RFC 9110 9.3.6: no Content-Length and no Transfer-Encoding; headers of the CONNECT do no harm."""
        client = dial(proxy)
        headers = [
            ("Proxy-Authorization", "Basic eDp5"),
            ("Proxy-Connection", "Keep-Alive"),
            ("User-Agent", "x"),
        ]
        reply = client.connect_to(origin.authority, headers=headers)
        assert (reply.status, reply.headers) == (200, ())
        client.start_tls(origin.name, proxy.ca_pem)
        assert client.get(SMALL_PATH).body == SMALL

    def test_http_1_0(self, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]) -> None:
        client = dial(proxy)
        client.send(f"CONNECT {origin.authority} HTTP/1.0\r\n\r\n".encode())
        assert client.read_reply("CONNECT").status == 200
        client.start_tls(origin.name, proxy.ca_pem)
        assert client.get(SMALL_PATH, {"Host": origin.authority}).body == SMALL

    def test_tls_where_plain_http_belongs(
        self, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]
    ) -> None:
        client = dial(proxy)
        client.send(Tls(client.stream, trusting(None), server_name=origin.name).hello())
        reply = client.read_reply("GET")
        assert (reply.status, reply.get("Connection")) == (400, "close")
        assert "http://" in reply.body.decode()
        assert ended(client) is End.FIN

    @pytest.mark.parametrize("early", [True, False], ids=["with the CONNECT", "behind the 200"])
    def test_plain_http_where_tls_belongs(
        self, early: bool, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]
    ) -> None:
        client = dial(proxy)
        assert client.connect_to(origin.authority, extra=SMUGGLED if early else b"").status == 200
        if not early:
            client.send(SMUGGLED)
        reply = client.read_reply("GET")
        assert (reply.status, reply.get("Connection")) == (400, "close")
        assert "TLS was expected" in reply.body.decode()
        assert ended(client) is End.FIN


def versions(low: ssl.TLSVersion, high: ssl.TLSVersion, ca: bytes) -> ssl.SSLContext:
    context = trusting(ca)
    context.minimum_version, context.maximum_version = low, high
    return context


class TestTls:
    """The TLS that a client meets."""

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
    def test_versions(self, version: ssl.TLSVersion, proxy: Proxy, origin: Origin, talk: Talk) -> None:
        client = talk(proxy, origin, context=versions(version, version, proxy.ca_pem))
        assert client.tls.version() == version.name.replace("_", ".")
        for path, body in ((SMALL_PATH, SMALL), (BIG_PATH, BIG), ("/chunked", BIG)):
            assert client.get(path).body == body
        client.half_close()
        assert ended(client) is End.CLOSE_NOTIFY

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
    def test_older_versions_are_refused(self, proxy: Proxy, origin: Origin, talk: Talk) -> None:
        context = versions(ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, proxy.ca_pem)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match="VERSION"):
            talk(proxy, origin, context=context)

    @pytest.mark.parametrize(
        "offered, chosen",
        [
            ((), None),
            (("http/1.1",), "http/1.1"),
            (("h2", "http/1.1"), "http/1.1"),
            (("x", "http/1.1", "h2"), "http/1.1"),
        ],
        ids=str,
    )
    def test_alpn(
        self, offered: tuple[str, ...], chosen: str | None, proxy: Proxy, origin: Origin, talk: Talk
    ) -> None:
        client = talk(proxy, origin, alpn=offered)
        assert client.tls.selected_alpn_protocol() == chosen
        assert client.get(SMALL_PATH).body == SMALL

    @pytest.mark.parametrize("offered", [("h2",), ("h2", "http/1.0"), ("http/1.1x",)], ids=str)
    def test_alpn_without_http_1_1(
        self, offered: tuple[str, ...], proxy: Proxy, origin: Origin, talk: Talk
    ) -> None:
        with pytest.raises(ssl.SSLError, match="NO_APPLICATION_PROTOCOL"):
            talk(proxy, origin, alpn=offered)

    def test_another_name_than_the_connects(
        self, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]
    ) -> None:
        client = dial(proxy)
        assert client.connect_to(origin.authority).status == 200
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            client.start_tls("other.test", proxy.ca_pem)
        wait_until(lambda: "'other.test'" in proxy.log(), "the handshake is in the log")
        (line,) = [line for line in proxy.log().splitlines() if "'other.test'" in line]
        assert "'reg.test'" in line
        assert client.layers[0].sock.getsockname()[0] in line  # type: ignore[attr-defined]

    def test_no_name_at_all(self, proxy: Proxy, origin: Origin, dial: Callable[[Proxy], Client]) -> None:
        client = dial(proxy)
        client.connect_to(origin.authority)
        context = trusting(proxy.ca_pem)
        context.check_hostname = False
        tls = Tls(client.stream, context)
        tls.handshake()
        client.layers.append(tls)
        assert client.get(SMALL_PATH).body == SMALL

    def test_a_client_that_does_not_trust_us(self, proxy: Proxy, origin: Origin, trust: Trust) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            open_tunnel(proxy.address, origin.authority, trust.pem)
        wait_until(lambda: "unknown ca" in proxy.log(), "the log says so")

    def test_the_leaf(self, proxy: Proxy, origin: Origin, talk: Talk) -> None:
        certificate = talk(proxy, origin).tls.getpeercert()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("DNS", "reg.test"),)


class TestMessages:
    """Versions, methods and conditions."""

    @pytest.mark.parametrize("path", [SMALL_PATH, BIG_PATH, "/pass", "/chunked", "/eof", "fill"])
    def test_http_1_0(self, path: str, client: Client, origin: Origin) -> None:
        path, want = (
            publish(origin, 300_000) if path == "fill" else (path, SMALL if path == SMALL_PATH else BIG)
        )
        client.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        reply = client.read_reply("GET")
        assert (reply.status, reply.body, reply.complete) == (200, want, True)
        assert reply.all("Connection") == ["close"]
        assert reply.get("Transfer-Encoding") is None
        assert ended(client) is End.CLOSE_NOTIFY

    def test_a_chunked_fill_for_http_1_0(self, client: Client, origin: Origin) -> None:
        path, body = publish(origin, 300_000, framing="chunked")
        client.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        reply = client.read_reply("GET")
        assert (reply.body, reply.complete, reply.get("Transfer-Encoding")) == (body, True, None)

    def test_http_1_0_that_stays(self, client: Client) -> None:
        for _ in range(3):
            client.send(f"GET {SMALL_PATH} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
            reply = client.read_reply("GET")
            assert reply.body == SMALL
            assert (reply.get("Connection") or "").lower() == "keep-alive"

    @pytest.mark.parametrize(
        "path", [SMALL_PATH, BIG_PATH, "/pass", "/chunked", "/v2/app/blobs/sha256:", "fill"]
    )
    def test_head(self, path: str, client: Client, origin: Origin) -> None:
        if path == "fill":
            path, _ = publish(origin, 100)
        for _ in range(2):
            head = client.request("HEAD", path)
            assert head.body == b""
            get = client.get(SMALL_PATH)
            assert get.body == SMALL  # nothing was sent behind the head
        got = client.get(path)
        assert head.status == got.status
        assert head.get("Content-Type") == got.get("Content-Type")
        assert head.get("Content-Length") == got.get("Content-Length")

    @pytest.mark.parametrize(
        "path", [SMALL_PATH, BIG_PATH, "/pass", "/chunked", "/eof", "/v2/app/tags/list", "/v1/"]
    )
    def test_connection_close(self, path: str, client: Client) -> None:
        reply = client.get(path, {"Connection": "Close"})
        assert reply.complete
        assert reply.all("Connection") == ["close"]
        assert ended(client) is End.CLOSE_NOTIFY

    @pytest.mark.parametrize("path", [SMALL_PATH, BIG_PATH])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_if_none_match(self, method: str, path: str, client: Client) -> None:
        digest = path.rpartition("/")[2]
        for value in (f'"{digest}"', f'W/"{digest}"', "*", f'"x", "{digest}"', digest):
            reply = client.request(method, path, {"If-None-Match": value})
            assert (reply.status, reply.body, reply.get("ETag")) == (304, b"", f'"{digest}"'), value
            assert reply.get("Content-Length") in (None, str(len(SMALL if path == SMALL_PATH else BIG)))
            assert reply.get("Transfer-Encoding") is None
        for value in ('"x"', "x", f'"{digest}x"'):
            reply = client.request(method, path, {"If-None-Match": value})
            assert reply.status == 200, value
        ranged = client.request(method, path, {"If-None-Match": f'"{digest}"', "Range": "bytes=0-1"})
        assert ranged.status == 304

    def test_what_a_hit_says(self, client: Client) -> None:
        digest = digest_of(BIG)
        reply = client.get(BIG_PATH)
        fields = [name.lower() for name, _ in reply.headers]
        assert len(fields) == len(set(fields))
        assert dict((name.lower(), value) for name, value in reply.headers if name.lower() != "date") == {
            "content-type": "application/octet-stream",
            "content-length": str(len(BIG)),
            "docker-content-digest": digest,
            "etag": f'"{digest}"',
            "accept-ranges": "bytes",
            "docker-distribution-api-version": "registry/2.0",
            TYPE.lower(): "blob-by-digest",
            STATUS.lower(): "HIT",
            "cache-status": "regproxy; hit",
        }
        date = time.strptime(reply.get("Date") or "", "%a, %d %b %Y %H:%M:%S GMT")
        assert abs(time.time() - time.mktime(date) + time.timezone) < 86_400

    def test_what_a_miss_says(self, client: Client, origin: Origin) -> None:
        for size in (100, 300_000):
            path, body = publish(origin, size)
            miss, hit = client.get(path), client.get(path)
            assert (miss.body, hit.body) == (body, body)
            assert (miss.get(STATUS), hit.get(STATUS)) == ("MISS", "HIT")
            assert cache_status(miss) == "regproxy; fwd=miss; stored"
            for name in (
                "Content-Type",
                "Content-Length",
                "Docker-Content-Digest",
                "ETag",
                "Accept-Ranges",
                TYPE,
            ):
                assert miss.get(name) == hit.get(name), name

    def test_what_is_passed_says(self, client: Client) -> None:
        reply = client.get("/v2/")
        assert (reply.get(STATUS), reply.get("Content-Type")) == ("BYPASS", "application/json")
        assert cache_status(reply) == "regproxy; fwd=bypass"
        assert len(reply.all("Date")) == 1


def ranged(total: int) -> list[tuple[str, tuple[int, int] | int]]:
    """Range headers and what they get of `total` bytes: (start, stop) of a 206, or another status."""
    return [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-9", (5, 10)),
        ("bytes=5-", (5, total)),
        (f"bytes={total - 1}-", (total - 1, total)),
        ("bytes=-7", (total - 7, total)),
        (f"bytes=-{total + 5}", (0, total)),
        (f"bytes=10-{total + 100}", (10, total)),
        ("bytes=0-99999999999999999999999999", (0, total)),
        ("Bytes=5-9", (5, 10)),
        (f"bytes={total}-", 416),
        (f"bytes={total + 10}-{total + 20}", 416),
        ("bytes=-0", 416),
        ("bytes=0-1,4-5", 200),
        ("bytes=9-5", 200),
        ("bytes=-", 200),
        ("bytes=a-b", 200),
        ("items=0-1", 200),
        ("", 200),
    ]


def assert_ranged(reply: Reply, body: bytes, want: tuple[int, int] | int) -> None:
    """RFC 9110 14: the answer to a range."""
    if isinstance(want, tuple):
        start, stop = want
        assert (reply.status, reply.body) == (206, body[start:stop])
        assert reply.get("Content-Range") == f"bytes {start}-{stop - 1}/{len(body)}"
    elif want == 416:
        assert (reply.status, reply.get("Content-Range")) == (416, f"bytes */{len(body)}")
    else:
        assert (reply.status, reply.body, reply.get("Content-Range")) == (200, body, None)


class TestRanges:
    """Parts of a body: of what is kept, and of what is just growing."""

    @pytest.mark.parametrize("path, body", [(SMALL_PATH, SMALL), (BIG_PATH, BIG)], ids=["small", "big"])
    def test_of_a_hit(self, path: str, body: bytes, client: Client) -> None:
        for value, want in ranged(len(body)):
            assert_ranged(client.get(path, {"Range": value}), body, want)
            head = client.request("HEAD", path, {"Range": value})
            assert (head.status, head.get("Content-Length")) == (200, str(len(body)))

    @pytest.mark.parametrize("size", [2_000, 200_000], ids=["small", "big"])
    @pytest.mark.parametrize("number", range(len(ranged(0))), ids=[v[0] for v in ranged(1000)])
    def test_of_a_miss(self, number: int, size: int, client: Client, origin: Origin) -> None:
        path, body = publish(origin, size)
        value, want = ranged(size)[number]
        assert_ranged(client.get(path, {"Range": value}), body, want)
        assert client.get(path).body == body
        assert origin.hits[path] == 1
        assert origin.requests[-1].get("Range") is None

    def test_of_what_grows(self, proxy: Proxy, origin: Origin, talk: Talk) -> None:
        go = threading.Event()
        path, body = publish(origin, 1_000_000, hold_at=500_000, hold=go)
        first, second, third = (talk(proxy, origin) for _ in range(3))
        first.ask("GET", path)
        assert first.read_head().status == 200
        second.ask("GET", path, {"Range": "bytes=100-999"})
        assert_ranged(second.read_reply(), body, (100, 1000))  # what is there needs no waiting
        third.ask("GET", path, {"Range": "bytes=900000-"})
        assert third.read_head().status == 206
        assert_ranged(second.get(path, {"Range": "bytes=1000000-"}), body, 416)
        go.set()
        assert third.read(100_000) == body[900_000:]
        assert first.read(len(body)) == body
        assert origin.hits[path] == 1

    @pytest.mark.parametrize(
        "value, counts",
        [('"{}"', True), ('W/"{}"', False), ('"x"', False), ("Wed, 21 Oct 2015 07:28:00 GMT", False)],
        ids=str,
    )
    @pytest.mark.parametrize("kept", [True, False])
    def test_if_range(self, kept: bool, value: str, counts: bool, client: Client, origin: Origin) -> None:
        path, body = (BIG_PATH, BIG) if kept else publish(origin, 200_000)
        reply = client.get(path, {"Range": "bytes=1-2", "If-Range": value.format(digest_of(body))})
        assert_ranged(reply, body, (1, 3) if counts else 200)


class Bare:
    """An origin that speaks no HTTP of its own: `script(stream)` does, for each connection, over TLS."""

    def __init__(self, trust: Trust, script: Callable[[Tls], None]) -> None:
        self.name = "bare.test"
        self.address = free_address()
        self.authority = f"{self.name}:{self.address[1]}"
        self.resolve = {self.name: self.address[0]}
        self._context = trust.server_context(self.name)
        self._script = script
        self._listener = socket.create_server(self.address)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                plain = Plain(sock)
                with contextlib.suppress(OSError):
                    tls = Tls(plain, self._context, server_side=True)
                    tls.handshake()
                    self._script(tls)
                    tls.finish()
                    while plain.recv():
                        pass
                plain.close()

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()


def head_of(stream: Tls) -> bytes:
    """Read one head, nothing behind it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            raise ConnectionError("no head")
        data += byte
    return data


def body_of(stream: Tls, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := stream.recv(size - len(data))):
        data += more
    return data


class TestRequestBodies:
    """Bodies that clients send: refused, or passed through."""

    @pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "none"])
    def test_pushes_are_refused(self, framing: str, method: str, client: Client, origin: Origin) -> None:
        """The client gets to read the 405, although it is still sending."""
        before = len(origin.requests)
        body = b"x" * 5_000_000
        if framing == "length":
            client.send(client.head(method, UPLOADS, [("Content-Length", str(len(body)))]) + body)
        elif framing == "chunked":
            head = client.head(method, UPLOADS, [("Transfer-Encoding", "chunked")])
            client.send(head + b"%x\r\n%b\r\n" % (len(body), body) + b"0\r\n\r\n")
        else:
            client.send(client.head(method, UPLOADS))
        reply = client.read_reply(method)
        assert reply.status == 405
        assert reply.get("Allow") == "GET, HEAD"
        (error,) = reply.json()["errors"]
        assert error["code"] == "UNSUPPORTED"
        assert method in error["message"]
        assert "ALLOW_PUSH" in error["message"]
        if framing == "none":
            assert client.get(SMALL_PATH).body == SMALL
        else:
            assert reply.get("Connection") == "close"
            ended(client)
        assert origin.requests[before:] == []

    def test_a_refused_push_is_not_asked_for(self, client: Client) -> None:
        client.send(client.head("PUT", UPLOADS, [("Expect", "100-continue"), ("Content-Length", "5")]))
        assert client.read_reply("PUT").interim == ()

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
    def test_v1(self, method: str, client: Client) -> None:
        reply = client.request(method, "/v1/users/", body=b"x" if method == "POST" else None)
        assert reply.status == 405
        if method != "HEAD":
            assert "reg.test" in reply.body.decode()
            assert "v1" in reply.body.decode()

    @pytest.mark.parametrize("path", ["/token", "/oauth2/token"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "empty", "none"])
    def test_tokens_by_post(self, framing: str, path: str, client: Client, origin: Origin) -> None:
        form = b"grant_type=password&username=u&password=secret"
        headers = [("Content-Type", "application/x-www-form-urlencoded")]
        want = b"POST " + (form if framing in ("length", "chunked") else b"")
        if framing == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
            body = (
                b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (form[:5], form[5:])) + b"0\r\n\r\n"
            )
        else:
            body = form if framing == "length" else b""
            if framing != "none":
                headers.append(("Content-Length", str(len(body))))
        client.send(client.head("POST", path, headers) + body)
        reply = client.read_reply("POST")
        assert (reply.status, reply.body) == (200, want)
        assert origin.requests[-1].get("Content-Type") == headers[0][1]

    @pytest.mark.parametrize("size", [1, 100_000, 5_000_000])
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "continue"])
    def test_pushes(
        self, framing: str, method: str, size: int, pushing: Proxy, origin: Origin, talk: Talk
    ) -> None:
        body, client = NOISE.randbytes(size), talk(pushing, origin)
        path = UPLOADS + "1?digest=" + digest_of(body)
        length = [("Content-Length", str(size))]
        if framing == "chunked":
            client.send(client.head(method, path, [("Transfer-Encoding", "chunked")]))
            for start in range(0, size, 70_000):
                part = body[start : start + 70_000]
                client.send(b"%x\r\n%b\r\n" % (len(part), part))
            client.send(b"0\r\n\r\n")
        elif framing == "continue":
            client.send(client.head(method, path, [("Expect", "100-continue"), *length]))
            assert client.read_head().status == 100
            client.send(body)
        else:
            client.send(client.head(method, path, length) + body)
        reply = client.read_reply(method)
        assert (reply.status, reply.body.decode()) == (201, digest_of(body))
        assert reply.interim == ()
        seen = origin.requests[-1]
        assert (seen.method, seen.target) == (method, path)
        assert len(seen.all("Content-Length") + seen.all("Transfer-Encoding")) == 1

    def test_a_push_leaves_the_connection_usable_or_says_that_it_closes(
        self, pushing: Proxy, origin: Origin, talk: Talk
    ) -> None:
        client = talk(pushing, origin)
        reply = client.request("PUT", UPLOADS + "1", body=b"abc")
        if reply.get("Connection") == "close":
            ended(client)
        else:
            assert client.get("/v2/").body == b"{}"

    @pytest.mark.parametrize("expects", [True, False])
    def test_an_origin_that_answers_before_the_body(
        self, expects: bool, trust: Trust, begin: Start, talk: Talk
    ) -> None:
        """The client sees that answer, and the rest of its body is nobody's request."""

        def refuse(stream: Tls) -> None:
            head_of(stream)
            stream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

        with Bare(trust, refuse) as bare:
            proxy = begin(
                ALLOW_PUSH="true",
                REGISTRIES=bare.authority,
                REGPROXY_RESOLVE=f"{bare.name}={bare.address[0]}",
            )
            client = talk(proxy, bare)
            headers = [("Content-Length", "1000000")] + [("Expect", "100-continue")] * expects
            client.send(client.head("PUT", UPLOADS, headers) + b"x" * (0 if expects else 1000))
            reply = client.read_reply("PUT")
            assert (reply.status, reply.body, reply.interim) == (401, b"no", ())
            assert reply.get("Connection") == "close"
            client.half_close()
            ended(client)

    @pytest.mark.parametrize(
        "first", [b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"], ids=["", "103"]
    )
    def test_an_origin_that_never_says_100(
        self, first: bytes, trust: Trust, begin: Start, talk: Talk
    ) -> None:
        """RFC 9110 10.1.1: a client sends its body after a while, whether it was told to or not."""

        def take(stream: Tls) -> None:
            head_of(stream)
            if first:
                stream.send(first)
            body = body_of(stream, 100_000)
            text = digest_of(body).encode()
            stream.send(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

        with Bare(trust, take) as bare:
            proxy = begin(
                ALLOW_PUSH="true",
                PROXY_READ_TIMEOUT="5s",
                REGISTRIES=bare.authority,
                REGPROXY_RESOLVE=f"{bare.name}={bare.address[0]}",
            )
            client, body = talk(proxy, bare), NOISE.randbytes(100_000)
            headers = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
            client.send(client.head("PUT", UPLOADS, headers))
            client.send(body)
            reply = client.read_reply("PUT")
            assert (reply.status, reply.body.decode()) == (201, digest_of(body))

    @pytest.mark.parametrize("what", ["fill", "pass", "push"])
    def test_interim_answers_of_an_origin(
        self, what: str, pushing: Proxy, origin: Origin, talk: Talk
    ) -> None:
        """1xx before the answer is not the answer."""
        interim = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
        )
        client = talk(pushing, origin)
        if what == "fill":
            path, body = publish(origin, 200_000, interim=interim)
            assert client.get(path).body == body
        else:
            origin.on(UPLOADS + "interim", Answer(b"yes", interim=interim))
            method, sent = ("PUT", b"abc") if what == "push" else ("GET", None)
            reply = client.request(method, UPLOADS + "interim", body=sent)
            assert (reply.status, reply.body) == (200, b"yes")


class TestTimeouts:
    """Nothing waits for ever; what moves is let be."""

    @pytest.mark.parametrize(
        "state", ["accepted", "head", "lines", "connected", "hello", "handshaken", "request"]
    )
    def test_client_header(self, state: str, slow_heads: Proxy, origin: Origin, stack: ExitStack) -> None:
        """However a head is drawn out, its time is over at some point; a handshake's too."""
        client = stack.enter_context(Client.connect(slow_heads.address))
        if state in ("connected", "hello", "handshaken", "request"):
            assert client.connect_to(origin.authority).status == 200
        if state == "hello":
            hello = Tls(client.stream, trusting(None), server_name="reg.test").hello()
            client.send(hello[: len(hello) // 2])
        elif state in ("handshaken", "request"):
            client.start_tls(origin.name, slow_heads.ca_pem)
        drip = {
            "head": b"CONNECT reg.test:443 HTTP/1.1\r\nX: ",
            "lines": b"\r\n",
            "request": b"GET / HTTP/1.1\r\nX: ",
        }
        with contextlib.suppress(OSError):
            for byte in b"".join([drip.get(state, b""), b"v" * 100 if state != "lines" else b"\r\n" * 50]):
                if state not in drip:
                    break
                client.send(bytes([byte]))
                if client.layers[0].end or _readable(client):
                    break
        client.read_end()

    @pytest.fixture(scope="class")
    def slow_heads(self, begin: Start) -> Proxy:
        return begin(CLIENT_HEADER_TIMEOUT="1s")

    def test_keepalive(self, begin: Start, origin: Origin, talk: Talk) -> None:
        client = talk(begin(KEEPALIVE_TIMEOUT="1s"), origin)
        assert client.get(SMALL_PATH).body == SMALL
        assert ended(client) is End.CLOSE_NOTIFY

    def test_a_client_that_stops_reading(self, begin: Start, origin: Origin, talk: Talk) -> None:
        """It is cut; others that read the same fill are not."""
        proxy = begin(SEND_TIMEOUT="1s")
        path, body = publish(origin, 20_000_000)
        stuck = [talk(proxy, origin, recv_buffer=4096) for _ in range(3)]
        stuck[0].ask("GET", path)
        stuck[1].ask("GET", "/pass-large")
        origin.on("/pass-large", Answer(body))
        assert talk(proxy, origin).get(path).body == body
        stuck[2].ask("GET", path)
        lines = proxy.access_log(4, check=lambda line: line["method"] == "GET")
        assert sorted(int(line["bytes_sent"]) < len(body) for line in lines) == [False, True, True, True]
        for client in stuck:
            assert client.read_reply().complete is False

    @pytest.mark.parametrize("what", ["fill", "small fill", "pass"])
    def test_an_origin_that_says_nothing(self, what: str, hasty: Proxy, origin: Origin, talk: Talk) -> None:
        hold = threading.Event()
        path, _ = publish(origin, 200_000 if what == "fill" else 100, hold_at=-1, hold=hold)
        if what == "pass":
            path = "/held"
            origin.on(path, Answer(b"x", hold_at=-1, hold=hold))
        client = talk(hasty, origin)
        reply = client.get(path)
        hold.set()
        assert (reply.status, reply.complete) == (504, True)
        assert "reg.test" in reply.body.decode()
        assert client.get("/v2/").status == 200

    @pytest.mark.parametrize("what", ["fill", "pass", "chunked pass", "chunked fill"])
    def test_an_origin_that_stalls(self, what: str, hasty: Proxy, origin: Origin, talk: Talk) -> None:
        """A cut, and never a clean end."""
        hold = threading.Event()
        framing = "chunked" if "chunked" in what else "length"
        path, body = publish(origin, 200_000, hold_at=100_000, hold=hold, framing=framing)
        if "pass" in what:
            path = "/stalls"
            origin.on(path, Answer(body, hold_at=100_000, hold=hold, framing=framing))
        reply = talk(hasty, origin).get(path)
        hold.set()
        assert (reply.status, reply.complete) == (200, False)
        assert reply.end is not End.CLOSE_NOTIFY
        assert body.startswith(reply.body)
        wait_until(lambda: hasty.parts() == [], "the part is gone")

    @pytest.fixture(scope="class")
    def hasty(self, begin: Start) -> Proxy:
        return begin(PROXY_READ_TIMEOUT="1s", ALLOW_PUSH="true")

    def test_a_slow_upload_is_not_a_slow_origin(self, hasty: Proxy, origin: Origin, talk: Talk) -> None:
        """The origin's time to answer begins with the end of the request."""
        client = talk(hasty, origin)
        client.send(client.head("PUT", UPLOADS + "1", [("Content-Length", "50")]))
        for _ in range(50):
            client.send(b"x")
            time.sleep(0.05)  # two and a half times as long in all as an origin may be silent
        assert client.read_reply("PUT").body.decode() == digest_of(b"x" * 50)

    def test_a_request_body_that_stalls(self, begin: Start, origin: Origin, talk: Talk) -> None:
        client = talk(begin(CLIENT_BODY_TIMEOUT="1s", ALLOW_PUSH="true"), origin)
        client.send(client.head("PUT", UPLOADS + "1", [("Content-Length", "50")]) + b"x")
        rest, _ = client.read_end()
        assert re.match(rb"HTTP/1.1 408 ", rest) or rest == b""
        assert origin.count("PUT", "stalls") == 0


def _readable(client: Client) -> bool:
    """Wait a moment for the peer; tell whether it said something."""
    return bool(select.select([client.layers[0]], [], [], 0.1)[0])
