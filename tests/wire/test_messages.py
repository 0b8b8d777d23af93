"""What requests get through the proxy port: versions, methods, conditions, ranges."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.origin import Origin
from tests.support.proxy import STATUS, TYPE, Proxy, cache_status
from tests.support.shared_proxy import BIG, BIG_PATH, SMALL, SMALL_PATH, Lane, ended

Talk = Callable[..., Client]
Dial = Callable[[Proxy], Client]


@pytest.fixture(scope="module")
def proxy(lane: Lane) -> Proxy:
    """One that pulls only, and holds SMALL and BIG."""
    return lane.filled()


@pytest.fixture
def client(proxy: Proxy, origin: Origin, talk: Talk) -> Client:
    """A client that is through TLS."""
    return talk(proxy, origin)


def named(path: str) -> str:
    """Return an id for a test."""
    return {SMALL_PATH: "small", BIG_PATH: "big"}.get(path, path)


class TestMessages:
    """Versions, methods and conditions."""

    @pytest.mark.parametrize("path", [SMALL_PATH, BIG_PATH, "/pass", "/chunked", "/eof", "fill"], ids=named)
    def test_http_1_0(self, lane: Lane, path: str, client: Client) -> None:
        path, want = lane.publish(300_000) if path == "fill" else (path, SMALL if path == SMALL_PATH else BIG)
        client.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        reply = client.read_reply("GET")
        assert (reply.status, reply.body, reply.complete) == (200, want, True)
        assert reply.all("Connection") == ["close"]
        assert reply.get("Transfer-Encoding") is None
        assert ended(client) is End.CLOSE_NOTIFY

    def test_a_chunked_fill_for_http_1_0(self, lane: Lane, client: Client) -> None:
        path, body = lane.publish(300_000, framing="chunked")
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
        "path", [SMALL_PATH, BIG_PATH, "/pass", "/chunked", "/v2/app/blobs/sha256:", "fill"], ids=named
    )
    def test_head(self, lane: Lane, path: str, client: Client) -> None:
        if path == "fill":
            path, _ = lane.publish(100)
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
        "path", [SMALL_PATH, BIG_PATH, "/pass", "/chunked", "/eof", "/v2/app/tags/list", "/v1/"], ids=named
    )
    def test_connection_close(self, path: str, client: Client) -> None:
        reply = client.get(path, {"Connection": "Close"})
        assert reply.complete
        assert reply.all("Connection") == ["close"]
        assert ended(client) is End.CLOSE_NOTIFY

    @pytest.mark.parametrize("path", [SMALL_PATH, BIG_PATH], ids=named)
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

    @pytest.mark.parametrize("protocol", ["h2c", "websocket"])
    def test_upgrades_are_not_made(self, protocol: str, client: Client, origin: Origin) -> None:
        """RFC 9110 7.8: who does not want it ignores it."""
        headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAM"}
        assert client.get(SMALL_PATH, headers).body == SMALL
        assert client.get("/v2/", headers).body == b"{}"
        assert origin.requests[-1].get("Upgrade") is None
        assert client.get(SMALL_PATH).body == SMALL

    def test_what_a_hit_says(self, client: Client) -> None:
        digest = digest_of(BIG)
        reply = client.get(BIG_PATH)
        fields = [name.lower() for name, _ in reply.headers]
        assert len(fields) == len(set(fields))
        own = {"date", "x-request-id"}
        assert {name.lower(): value for name, value in reply.headers if name.lower() not in own} == {
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

    def test_what_a_miss_says(self, lane: Lane, proxy: Proxy, client: Client) -> None:
        for size in (100, 300_000):
            path, body = lane.publish(size)
            miss = client.get(path)
            proxy.wait_kept(digest_of(body))
            hit = client.get(path)
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
        ("bytes=9-5", 416),
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
    def test_of_a_miss(self, lane: Lane, number: int, size: int, client: Client, origin: Origin) -> None:
        path, body = lane.publish(size)
        value, want = ranged(size)[number]
        assert_ranged(client.get(path, {"Range": value}), body, want)
        assert client.get(path).body == body
        if want != 416:
            # The client may have all of it before the origin has noted that it has sent it.
            origin.wait_for(
                lambda origin: all(seen.done.is_set() for seen in origin.requests if seen.path == path)
            )
            assert sum(seen.sent for seen in origin.requests if seen.path == path) == size

    def test_of_what_grows(self, lane: Lane, proxy: Proxy, origin: Origin, talk: Talk) -> None:
        go = threading.Event()
        path, body = lane.publish(1_000_000, hold_at=500_000, hold=go)
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
    def test_if_range(self, lane: Lane, kept: bool, value: str, counts: bool, client: Client) -> None:
        path, body = (BIG_PATH, BIG) if kept else lane.publish(200_000)
        reply = client.get(path, {"Range": "bytes=1-2", "If-Range": value.format(digest_of(body))})
        assert_ranged(reply, body, (1, 3) if counts else 200)
