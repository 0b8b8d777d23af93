"""The scriptable origin and the raw client, each tested by the other: what goes wrong is seen as that."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.byte_streams import End, Plain, Stream, Tls
from tests.support.client import Client, NotHttp, Reply, open_tunnel
from tests.support.connect_relay import Relay
from tests.support.images import Image
from tests.support.origin import Answer, Origin, Seen, redirect
from tests.support.processes import accepts
from tests.support.trust import Trust

BODY = bytes(range(256)) * 800
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENCODED = gzip.compress(b"hello" * 100, mtime=0)
StartOrigin = Callable[..., Origin]


@contextmanager
def talking_to(origin: Origin, trust: Trust | None, **options: Any) -> Iterator[Client]:
    """A client of the origin itself, over TLS when there is a CA."""
    with Client.connect(origin.address, authority=origin.authority, **options) as client:
        if trust is not None:
            client.start_tls(origin.name, trust.pem)
        yield client


@pytest.fixture(params=["tls", "plain"])
def pair(request: pytest.FixtureRequest, trust: Trust) -> Iterator[tuple[Origin, Client]]:
    """An origin and a client that talks to it, with and without TLS."""
    ca = trust if request.param == "tls" else None
    with Origin(ca, "origin.test") as origin, talking_to(origin, ca) as client:
        yield origin, client


FAULTS: dict[str, tuple[Answer, dict[str, Any]]] = {
    "whole": (Answer(BODY), {"status": 200, "body": BODY, "complete": True, "end": None}),
    "chunked": (
        Answer(BODY, framing="chunked"),
        {"status": 200, "body": BODY, "complete": True, "end": None},
    ),
    "cut by FIN": (
        Answer(BODY, cut_at=70_000),
        {"status": 200, "body": BODY[:70_000], "complete": False, "end": End.FIN},
    ),
    "cut by RST": (Answer(BODY, cut_at=10, cut=End.RST), {"status": 200, "complete": False, "end": End.RST}),
    "chunked, cut by FIN": (
        Answer(BODY, framing="chunked", cut_at=1000),
        {"body": BODY[:1000], "complete": False, "end": End.FIN},
    ),
    "cut before the head": (Answer(cut_at=-1), {"status": 0, "complete": False, "end": End.FIN}),
    "cut behind the last byte": (
        Answer(BODY, cut_at=len(BODY)),
        {"body": BODY, "complete": True, "end": None},
    ),
    "wrong byte": (
        Answer(BODY, wrong_at=256),
        {"body": BODY[:256] + b"\xff" + BODY[257:], "complete": True, "end": None},
    ),
    "more declared": (
        Answer(BODY, declared=len(BODY) + 1),
        {"body": BODY, "complete": False},
    ),
    "less declared": (
        Answer(BODY, declared=len(BODY) - 1),
        {"body": BODY[:-1], "complete": True},
    ),
    "HTML": (
        Answer(b"<html>", headers={"Content-Type": "text/html"}),
        {"status": 200, "body": b"<html>", "headers": (("Content-Type", "text/html"),)},
    ),
    "gzip": (
        Answer(ENCODED, headers={"Content-Encoding": "gzip"}),
        {"body": ENCODED, "headers": (("Content-Encoding", "gzip"),)},
    ),
    "early hints": (
        Answer(
            b"x", interim=(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n")
        ),
        {"status": 200, "body": b"x", "interim": (100, 103)},
    ),
    "big head": (
        Answer(b"x", headers=tuple((f"X-{number}", "v" * 1000) for number in range(60))),
        {"status": 200, "body": b"x", "headers": tuple((f"X-{number}", "v" * 1000) for number in range(60))},
    ),
    "not modified": (Answer(BODY, 304), {"status": 304, "body": b"", "complete": True, "end": None}),
    "no content": (Answer(BODY, 204), {"status": 204, "body": b"", "complete": True, "end": None}),
    "too many requests": (
        Answer(b"slow down", 429, {"Retry-After": "7"}),
        {
            "status": 429,
            "reason": "Too Many Requests",
            "body": b"slow down",
            "headers": (("Retry-After", "7"),),
        },
    ),
    "closing": (Answer(b"x", close=True), {"body": b"x", "complete": True}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_answer_arrives_as_it_was_scripted(name: str, pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    answer, want = FAULTS[name]
    origin.on("/x", answer)
    reply = client.get("/x")
    got = {key: getattr(reply, key) for key in want if key != "headers"}
    assert got == {key: value for key, value in want.items() if key != "headers"}
    for field in want.get("headers", ()):
        assert field in reply.headers
    assert origin.hits == {"/x": 1}


def test_the_end_of_a_body_without_a_length(trust: Trust, start_origin: StartOrigin) -> None:
    """Within TLS a bare FIN is no clean end (RFC 9112 9.8); without TLS it is all there is."""
    secure, plain = start_origin("origin.test"), start_origin("origin.test", tls=False)
    for origin in (secure, plain):
        origin.on("/eof", Answer(BODY, framing="eof"))
        origin.on("/cut", Answer(BODY, framing="eof", cut_at=500))
    cases: list[tuple[Origin, Trust | None, str, int, bool, End]] = [
        (secure, trust, "/eof", len(BODY), True, End.CLOSE_NOTIFY),
        (secure, trust, "/cut", 500, False, End.FIN),
        (plain, None, "/eof", len(BODY), True, End.FIN),
        (plain, None, "/cut", 500, True, End.FIN),
    ]
    for origin, ca, path, size, complete, end in cases:
        with talking_to(origin, ca) as client:
            reply = client.get(path)
        assert (len(reply.body), reply.complete, reply.end) == (size, complete, end), path


@pytest.mark.parametrize(
    "asked, status, span",
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100000-", 206, slice(100_000, None)),
        ("bytes=-5", 206, slice(len(BODY) - 5, None)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=999999999-", 416, slice(0, 0)),
        ("bytes=-", 200, slice(None)),
        ("pages=1-2", 200, slice(None)),
        ("bytes=1-2,5-6", 200, slice(None)),
    ],
)
def test_ranges(asked: str, status: int, span: slice, pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    origin.on("/x", Answer(BODY))
    reply = client.get("/x", {"Range": asked})
    assert (reply.status, reply.body) == (status, BODY[span])
    if status == 206:
        start, stop, _ = span.indices(len(BODY))
        assert reply.get("content-range") == f"bytes {start}-{stop - 1}/{len(BODY)}"


def test_a_range_keeps_its_wrong_byte(pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    origin.on("/x", Answer(BODY, wrong_at=1000))
    assert client.get("/x", {"Range": "bytes=999-1001"}).body == BODY[999:1000] + b"\x17" + BODY[1001:1002]
    origin.on("/x", Answer(BODY, ranges=False))
    assert client.get("/x", {"Range": "bytes=5-"}).status == 200


def test_scripts_are_said_one_after_another(pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    origin.on("/x", Answer(b"1", 500), Answer(b"2"))
    origin.on("/a/*", lambda seen: Answer(seen.path.encode()))
    assert [client.get("/x?q=1").body for _ in range(3)] == [b"1", b"2", b"2"]
    assert client.get("/a/b/c").body == b"/a/b/c"
    assert client.get("/nowhere").status == 404
    assert origin.hits == {"/x": 3, "/a/b/c": 1, "/nowhere": 1}
    assert (origin.count("GET", "/x"), origin.count("HEAD"), origin.count()) == (3, 0, 5)
    assert {seen.connection for seen in origin.requests} == {1}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(status: int, pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    origin.on("/x", redirect("https://cdn.test:8443/y?sig=1", status))
    reply = client.get("/x")
    assert (reply.status, reply.get("location")) == (status, "https://cdn.test:8443/y?sig=1")


def test_a_head_has_a_length_and_no_body(pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    origin.on("/x", Answer(BODY))
    reply = client.request("HEAD", "/x")
    assert (reply.status, reply.get("content-length"), reply.body) == (200, str(len(BODY)), b"")
    assert client.get("/x").body == BODY
    assert [seen.method for seen in origin.requests] == ["HEAD", "GET"]


def test_a_stall_lasts_until_its_event(pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    go = threading.Event()
    origin.on("/x", Answer(BODY, hold_at=70_000, hold=go), Answer(b"late", hold_at=-1, hold=go))
    client.ask("GET", "/x")
    head = client.read_head()
    assert head.get("content-length") == str(len(BODY))
    assert client.read(70_000) == BODY[:70_000]
    origin.wait_for(lambda known: known.requests[0].sent == 70_000)
    assert not origin.requests[0].done.is_set()
    go.set()
    assert client.read(len(BODY) - 70_000) == BODY[70_000:]
    origin.wait_idle()
    client.sent.clear()
    assert client.get("/x").body == b"late"


def test_a_stalled_origin_can_be_closed(start_origin: StartOrigin) -> None:
    origin = start_origin("origin.test", tls=False)
    origin.on("/x", Answer(BODY, hold_at=10, hold=threading.Event()))
    with talking_to(origin, None) as client:
        client.ask("GET", "/x")
        client.read_head()
        origin.close()
        assert client.read_end()[1] in (End.FIN, End.RST)
    assert not accepts(origin.address)


def test_a_rate_is_kept_by_each_and_by_all(start_origin: StartOrigin) -> None:
    """Counted on the origin's side, in due times: no clock is compared with what it took."""
    origin = start_origin("origin.test", tls=False, rate=1_000_000)
    origin.on("/x", Answer(BODY, rate=2_000_000))
    with talking_to(origin, None) as client:
        assert client.get("/x").body == BODY
        assert client.request("GET", "/x", rate=1_000_000).body == BODY
    assert origin._step(Answer(rate=2_000_000)) == 20_000
    assert origin._step(Answer(rate=500_000)) == 10_000


def test_the_slow_reader_fills_the_senders_buffers(start_origin: StartOrigin) -> None:
    origin = start_origin("origin.test", tls=False)
    body = BODY * 100
    origin.on("/x", Answer(body))
    with talking_to(origin, None, recv_buffer=4096) as client:
        client.ask("GET", "/x")
        client.read_head()
        assert client.read(1000) == body[:1000]
        assert origin.requests[0].sent < len(body)
        client.reset()
    origin.wait_idle()
    assert origin.requests[0].sent < len(body)


def test_cutting_all_connections_keeps_the_origin(start_origin: StartOrigin) -> None:
    origin = start_origin("origin.test", tls=False)
    origin.on("/x", Answer(b"x"))
    with talking_to(origin, None) as first:
        assert first.get("/x").body == b"x"
        origin.cut_all()
        assert first.read_end() == (b"", End.FIN)
    origin.wait_for(lambda known: known.open_connections == 0, "the connection is gone")
    with talking_to(origin, None) as second:
        assert second.get("/x").body == b"x"
    assert origin.connections == 2


def test_an_image_is_published(start_origin: StartOrigin, trust: Trust, image: Image) -> None:
    origin = start_origin("origin.test")
    origin.publish("team/app", image, "v1", "latest")
    with talking_to(origin, trust) as client:
        replies = [client.get(f"/v2/team/app/manifests/{ref}") for ref in ("v1", "latest", image.digest)]
        blobs = [client.get(f"/v2/team/app/blobs/{digest}") for digest in image.blobs]
    assert {reply.digest for reply in replies} == {image.digest}
    assert {reply.get("content-type") for reply in replies} == {image.media_type}
    assert [blob.digest for blob in blobs] == list(image.blobs)


def test_bodies_of_requests_are_read(pair: tuple[Origin, Client]) -> None:
    origin, client = pair
    origin.on("/up", lambda seen: Answer(seen.body))
    assert client.request("PUT", "/up", {"X": "1"}, b"a" * 70_000).body == b"a" * 70_000
    client.sent.append("POST")
    client.send(
        client.head("POST", "/up", [("Transfer-Encoding", "chunked")]) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert client.read_reply().body == b"abcde"
    client.sent.append("PUT")
    client.send(client.head("PUT", "/up", [("Expect", "100-continue"), ("Content-Length", "2")]))
    assert client.read_head().status == 100
    client.send(b"ok")
    assert client.read_reply().body == b"ok"
    assert [seen.get("x") for seen in origin.requests] == ["1", None, None]


class TestClient:
    """What the client can do to a peer, and what it does not let pass."""

    def test_one_byte_at_a_time(self, pair: tuple[Origin, Client]) -> None:
        origin, client = pair
        origin.on("/x", Answer(b"x"))
        client.ask("GET", "/x", piece=1)
        assert client.read_reply().body == b"x"

    def test_pipelining(self, pair: tuple[Origin, Client]) -> None:
        origin, client = pair
        origin.on("/n/*", lambda seen: Answer(seen.path[3:].encode()))
        for number in range(5):
            client.ask("HEAD" if number == 2 else "GET", f"/n/{number}")
        assert [client.read_reply().body for _ in range(5)] == [b"0", b"1", b"", b"3", b"4"]

    def test_half_closing(self, pair: tuple[Origin, Client]) -> None:
        origin, client = pair
        go = threading.Event()
        origin.on("/x", Answer(BODY, hold_at=100, hold=go))
        client.ask("GET", "/x")
        client.half_close()
        go.set()
        reply = client.read_reply()
        assert (reply.body, reply.complete) == (BODY, True)
        assert client.read_end()[1] in (End.FIN, End.CLOSE_NOTIFY)

    @pytest.mark.parametrize("early", [False, True], ids=["two packets", "one packet"])
    def test_through_a_relay(self, early: bool, start_origin: StartOrigin, trust: Trust) -> None:
        origin = start_origin("origin.test")
        origin.on("/x", Answer(b"x"))
        with Relay(origin.resolve) as relay:
            client = open_tunnel(relay.address, origin.authority, trust.pem, early=early, alpn=["http/1.1"])
            with client:
                assert client.get("/x").body == b"x"
                assert client.tls.version() == "TLSv1.3"
            assert relay.connects == [origin.authority]
        assert origin.requests[0].get("host") == origin.authority
        assert origin.requests[0].server_name == "origin.test"

    def test_tls_inside_tls(self, trust: Trust) -> None:
        """As through a proxy that is itself reached over TLS."""
        ours, theirs = socket.socketpair()

        def serve() -> None:
            stream: Stream = Plain(theirs)
            for name, answer in (("outer.test", b"HTTP/1.1 200 OK\r\n\r\n"), ("inner.test", ANSWER)):
                stream = Tls(stream, trust.server_context(name), server_side=True)
                stream.handshake()
                assert stream.recv().endswith(b"\r\n\r\n")
                stream.send(answer)
            stream.finish()
            theirs.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with Client(Plain(ours)) as client:
            client.start_tls("outer.test", trust.pem)
            assert client.connect_to("inner.test:443").status == 200
            client.start_tls("inner.test", trust.pem)
            assert client.get("/x").body == b"ok"
            assert client.read_end() == (b"", End.CLOSE_NOTIFY)
        thread.join(10)

    def test_trust(self, start_origin: StartOrigin, trust: Trust) -> None:
        origin = start_origin("origin.test")
        for name, pem in (("origin.test", None), ("other.test", trust.pem)):
            with Client.connect(origin.address) as client, pytest.raises(ssl.SSLCertVerificationError):
                client.start_tls(name, pem)

    @pytest.mark.parametrize(
        "raw, why",
        [
            (b"HTTP/2 200 OK\r\n\r\n", "status line"),
            (b"HTTP/1.1 200\r\n\r\n", "status line"),
            (b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n", "field line"),
            (b"HTTP/1.1 200 OK\r\n A: b\r\nContent-Length: 0\r\n\r\n", "field line"),
            (b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "status line"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "Content-Length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", "Content-Length"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", "chunk size"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz0\r\n\r\n", "chunk ends"),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\nx", "framed"),
        ],
        ids=str,
    )
    def test_an_answer_that_breaks_http_is_not_taken(
        self, raw: bytes, why: str, pair: tuple[Origin, Client]
    ) -> None:
        origin, client = pair
        origin.on("/x", Answer(raw=raw))
        client.ask("GET", "/x")
        with pytest.raises(NotHttp, match=why):
            client.read_reply()

    def test_trailers_and_extensions_of_chunks(self, pair: tuple[Origin, Client]) -> None:
        origin, client = pair
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        origin.on("/x", Answer(raw=head + b"2;a=b\r\nab\r\n0\r\nDigest: d\r\n\r\n"))
        reply = client.get("/x")
        assert (reply.body, reply.complete, reply.trailers) == (b"ab", True, (("Digest", "d"),))

    def test_resetting(self, start_origin: StartOrigin) -> None:
        origin = start_origin("origin.test", tls=False)
        ended: list[End | None] = []

        def serve(seen: Seen) -> Answer:
            stream = origin._streams[seen.connection]
            stream.recv()
            ended.append(stream.end)
            return Answer(b"")

        origin.on("/x", serve)
        with talking_to(origin, None) as client:
            client.ask("GET", "/x")
            origin.wait_for(lambda known: known.count() == 1)
            client.reset()
        origin.wait_idle()
        assert ended == [End.RST]


def test_a_reply_finds_its_fields_whatever_their_case() -> None:
    reply = Reply(200, headers=(("A-B", "1"), ("a-b", "2")))
    assert (reply.get("a-B"), reply.all("A-b"), reply.get("c")) == ("1", ["1", "2"], None)
