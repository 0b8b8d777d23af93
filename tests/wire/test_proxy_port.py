"""The proxy port, byte by byte: where a head ends, what is refused, CONNECT and TLS."""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from tests.support.byte_streams import End, Tls
from tests.support.client import Client, open_tunnel
from tests.support.images import digest_of
from tests.support.origin import Origin
from tests.support.processes import free_address, wait_until
from tests.support.proxy import STATUS, Proxy
from tests.support.shared_proxy import BIG, BIG_PATH, SMALL, SMALL_PATH, Lane, ended
from tests.support.trust import Trust, trusting

Talk = Callable[..., Client]
Dial = Callable[[Proxy], Client]

HEAD_MAX = 32_768
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: reg.test\r\n\r\n"


@pytest.fixture(scope="module")
def proxy(lane: Lane) -> Proxy:
    """One that pulls only, and holds SMALL and BIG."""
    return lane.filled()


@pytest.fixture
def client(proxy: Proxy, origin: Origin, talk: Talk) -> Client:
    """A client that is through TLS."""
    return talk(proxy, origin)


@pytest.fixture(scope="module")
def pushing(lane: Lane) -> Proxy:
    """One that lets pushes through."""
    return lane.proxy(ALLOW_PUSH="true")


@pytest.fixture
def dial(stack: ExitStack) -> Dial:
    """A client that has connected to the proxy port, nothing more."""
    return lambda proxy: stack.enter_context(Client.connect(proxy.address))


class TestHeads:
    """Where one request ends and the next begins."""

    def test_10000_on_one_connection(self, client: Client) -> None:
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

    def test_pipelined_behind_what_an_origin_is_asked(self, lane: Lane, client: Client) -> None:
        path, body = lane.publish(200_000)
        paths = [SMALL_PATH, path, "/v2/", "/chunked", SMALL_PATH, "/pass", path]
        client.send(b"".join(client.head("GET", asked) for asked in paths))
        bodies = [client.read_reply("GET").body for _ in paths]
        assert bodies == [SMALL, body, b"{}", BIG, SMALL, BIG, body]

    def test_one_byte_at_a_time(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
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
        client.authority = origin.authority
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
    def test_a_head_without_an_end(self, layer: str, proxy: Proxy, client: Client, dial: Dial) -> None:
        client = client if layer == "tls" else dial(proxy)
        client.send(b"GET / HTTP/1.1\r\nX: " + b"v" * 100_000)
        assert client.read_reply("GET").status == 431

    @pytest.mark.parametrize("how", ["half close", "fin", "one packet"])
    @pytest.mark.parametrize("what", ["small", "hit", "fill", "slow fill", "pass", "chunked"])
    def test_half_close_behind_a_request(self, lane: Lane, what: str, how: str, client: Client) -> None:
        """The client says that it will send no more; it still gets all of its answer, then an end."""
        path, want = {
            "small": (SMALL_PATH, SMALL),
            "hit": (BIG_PATH, BIG),
            "pass": ("/pass", BIG),
            "chunked": ("/chunked", BIG),
        }.get(what) or lane.publish(300_000, rate=1_000_000.0 if what == "slow fill" else None)
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
    def test_heads(self, layer: str, name: str, proxy: Proxy, client: Client, dial: Dial) -> None:
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

    @pytest.mark.parametrize("layer", ["plain", "tls"])
    def test_noise(self, layer: str, lane: Lane, origin: Origin) -> None:
        """Whatever comes, the connection ends when the client has ended it, and the next one is served."""
        proxy = lane.proxy(ALLOW_PUSH="true")
        chance = random.Random(4)
        models = [data for data, _ in MALFORMED.values()] + [
            b"POST /token HTTP/1.1\r\nHost: a\r\n" + data for data in SMUGGLING.values()
        ]
        models.append(b"CONNECT reg.test:443 HTTP/1.1\r\nHost: reg.test\r\n\r\n\x16\x03\x01\x00\x05hello")
        models.append(
            b"POST /token HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        for _ in range(200):
            data = bytearray(chance.choice(models) * chance.randrange(1, 3))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.choice(b"\r\n\0 :,;0aG\xff\x16")
            with (
                Client.connect(proxy.address)
                if layer == "plain"
                else proxy.client(origin.authority) as client
            ):
                with contextlib.suppress(OSError):
                    client.send(bytes(data[: chance.randrange(1, len(data))]))
                    client.half_close()
                client.read_end()
        with proxy.client(origin.authority) as client:
            assert client.get("/v2/").status == 200

    @pytest.mark.parametrize(
        "path", [SMALL_PATH, "/v2/app/blobs/" + digest_of(b"nobody has it")], ids=["hit", "miss"]
    )
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
    def test_malformed(self, line: bytes, proxy: Proxy, dial: Dial) -> None:
        client = dial(proxy)
        client.send(line + b"\r\nHost: reg.test:443\r\n\r\n" + SMUGGLED)
        reply = client.read_reply("GET")
        assert (reply.status, reply.get("Connection")) == (400, "close")
        assert "CONNECT wants host:port" in reply.body.decode()
        assert ended(client) is End.FIN

    @pytest.mark.parametrize("target, word", REFUSED, ids=str)
    def test_refused(self, target: str, word: str, proxy: Proxy, dial: Dial) -> None:
        client = dial(proxy)
        reply = client.connect_to(target, extra=SMUGGLED)
        assert reply.status == 403
        assert reply.get("Content-Type") == "text/plain; charset=utf-8"
        text = reply.body.decode()
        assert word in text
        assert "REGPROXY_" in text
        assert ended(client) is End.FIN

    def test_no_tunnel_leads_back_here(self, lane: Lane, dial: Dial) -> None:
        """Who comes in by one has the proxy's own address, and so maybe more rights than by its own."""
        transparent, tls = free_address(), free_address()
        proxy = lane.proxy(
            REGPROXY_CONNECT_PORTS="*",
            REGPROXY_ALLOW_TARGETS="127.*",
            REGPROXY_TRANSPARENT_LISTEN="{}:{}".format(*transparent),
            # Another spelling of it, as inet_aton(3) takes it
            REGPROXY_TLS_LISTEN=f"{int(IPv4Address(tls[0]))}:{tls[1]}",
        )
        for host, port in (proxy.address, proxy.admin_address, transparent, tls):
            for spelling in (host, f"{host}."):
                client = dial(proxy)
                reply = client.connect_to(f"{spelling}:{port}", extra=SMUGGLED)
                assert (reply.status, ended(client)) == (403, End.FIN)
                assert f"{host}:{port} is this proxy itself" in reply.body.decode()

    def test_spellings_of_one_host(self, proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
        for host in ("reg.test", "REG.test", "reg.test."):
            client = stack.enter_context(Client.connect(proxy.address))
            assert client.connect_to(f"{host}:{origin.port}").status == 200
            client.start_tls("reg.test", proxy.ca_pem)
            assert client.get(SMALL_PATH, {"Host": origin.authority}).get(STATUS) == "HIT"

    def test_the_answer_has_nothing_but_its_head(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
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

    def test_http_1_0(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
        client = dial(proxy)
        client.send(f"CONNECT {origin.authority} HTTP/1.0\r\n\r\n".encode())
        assert client.read_reply("CONNECT").status == 200
        client.start_tls(origin.name, proxy.ca_pem)
        assert client.get(SMALL_PATH, {"Host": origin.authority}).body == SMALL

    def test_behind_a_page(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
        client = dial(proxy)
        assert client.get("/").status == 200
        assert client.connect_to(origin.authority).status == 200
        client.start_tls(origin.name, proxy.ca_pem)
        assert client.get(SMALL_PATH).body == SMALL

    @pytest.mark.parametrize("allow_push", ["false", "true"])
    def test_within_tls(self, allow_push: str, lane: Lane, origin: Origin, talk: Talk) -> None:
        """An origin is no proxy: it is not asked to be one."""
        client = talk(lane.proxy(ALLOW_PUSH=allow_push), origin)
        before = len(origin.requests)
        client.send(b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n")
        assert client.read_reply("CONNECT").status in (400, 403, 405)
        assert origin.requests[before:] == []

    def test_tls_where_plain_http_belongs(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
        client = dial(proxy)
        client.send(Tls(client.stream, trusting(None), server_name=origin.name).hello())
        reply = client.read_reply("GET")
        assert (reply.status, reply.get("Connection")) == (400, "close")
        assert "http://" in reply.body.decode()
        assert ended(client) is End.FIN

    @pytest.mark.parametrize("early", [True, False], ids=["with the CONNECT", "behind the 200"])
    def test_plain_http_where_tls_belongs(
        self, early: bool, proxy: Proxy, origin: Origin, dial: Dial
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
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            talk(proxy, origin, alpn=offered)

    def test_another_name_than_the_connects(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
        client = dial(proxy)
        assert client.connect_to(origin.authority).status == 200
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            client.start_tls("other.test", proxy.ca_pem)
        wait_until(lambda: "'other.test'" in proxy.log(), "the handshake is in the log")
        (line,) = [line for line in proxy.log().splitlines() if "'other.test'" in line]
        assert "'reg.test'" in line
        assert client.layers[0].sock.getsockname()[0] in line  # type: ignore[attr-defined]

    def test_no_name_at_all(self, proxy: Proxy, origin: Origin, dial: Dial) -> None:
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
