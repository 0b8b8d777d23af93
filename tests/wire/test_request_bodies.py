"""Bodies that clients send: refused, or passed through to the origin."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.support.byte_streams import Tls
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, UPLOADS, Bare, Lane, ended, take, take_head
from tests.support.trust import Trust

Talk = Callable[..., Client]
Dial = Callable[[Proxy], Client]

NOISE = random.Random(2)


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


class TestRequestBodies:
    """Bodies that clients send: refused, or passed through."""

    @pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "none"])
    def test_pushes_are_refused(self, framing: str, method: str, client: Client, origin: Origin) -> None:
        """The client gets to read the 403, although it is still sending."""
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
        assert reply.status == 403
        (error,) = reply.json()["errors"]
        assert error["code"] == "DENIED"
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
        self, expects: bool, trust: Trust, lane: Lane, talk: Talk
    ) -> None:
        """The client sees that answer, and the rest of its body is nobody's request."""

        def refuse(stream: Tls) -> None:
            take_head(stream)
            stream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

        with Bare(trust, refuse) as bare:
            proxy = lane.proxy(ALLOW_PUSH="true", **bare.env)
            client = talk(proxy, bare)
            headers = [("Content-Length", "1000000")] + [("Expect", "100-continue")] * expects
            client.send(client.head("PUT", UPLOADS, headers) + b"x" * (0 if expects else 1000))
            reply = client.read_reply("PUT")
            assert (reply.status, reply.body, reply.interim) == (401, b"no", ())
            assert reply.get("Connection") == "close"
            client.half_close()
            ended(client)

    @pytest.mark.parametrize("expects", [True, False])
    def test_a_connection_with_half_a_request_on_it_is_not_used_again(
        self, expects: bool, lane: Lane, trust: Trust, talk: Talk
    ) -> None:
        """The origin would take the next client's head for the rest of the body."""
        behind: list[bytes] = []

        def refuse_first(stream: Tls) -> None:
            take_head(stream)
            if not behind:
                if not expects:
                    take(stream, 1000)
                stream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
                behind.append(stream.recv())
            else:
                stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")

        with Bare(trust, refuse_first) as bare:
            proxy = lane.proxy(ALLOW_PUSH="true", **bare.env)
            client = talk(proxy, bare)
            headers = [("Content-Length", "1000000")] + [("Expect", "100-continue")] * expects
            client.send(client.head("PUT", UPLOADS, headers) + b"x" * (0 if expects else 1000))
            assert client.read_reply("PUT").status == 401
            assert talk(proxy, bare).get("/v2/").body == b"yes"
            client.close()
        assert behind == [b""]

    @pytest.mark.parametrize(
        "first", [b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"], ids=["", "103"]
    )
    def test_an_origin_that_never_says_100(self, first: bytes, trust: Trust, lane: Lane, talk: Talk) -> None:
        """RFC 9110 10.1.1: a client sends its body after a while, whether it was told to or not."""

        def accept(stream: Tls) -> None:
            take_head(stream)
            if first:
                stream.send(first)
            body = take(stream, 100_000)
            text = digest_of(body).encode()
            stream.send(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

        with Bare(trust, accept) as bare:
            proxy = lane.proxy(ALLOW_PUSH="true", PROXY_READ_TIMEOUT="5s", **bare.env)
            client, body = talk(proxy, bare), NOISE.randbytes(100_000)
            headers = [("Expect", "100-continue"), ("Content-Length", str(len(body)))]
            client.send(client.head("PUT", UPLOADS, headers))
            client.send(body)
            reply = client.read_reply("PUT")
            assert (reply.status, reply.body.decode()) == (201, digest_of(body))

    @pytest.mark.parametrize("what", ["fill", "pass", "push"])
    def test_interim_answers_of_an_origin(
        self, lane: Lane, what: str, pushing: Proxy, origin: Origin, talk: Talk
    ) -> None:
        """1xx before the answer is not the answer."""
        interim = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
        )
        client = talk(pushing, origin)
        if what == "fill":
            path, body = lane.publish(200_000, interim=interim)
            assert client.get(path).body == body
        else:
            origin.on(UPLOADS + "interim", Answer(b"yes", interim=interim))
            method, sent = ("PUT", b"abc") if what == "push" else ("GET", None)
            reply = client.request(method, UPLOADS + "interim", body=sent)
            assert (reply.status, reply.body) == (200, b"yes")
