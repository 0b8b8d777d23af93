"""Blobs through the proxy as a process: asked for once, served to all, right or not at all."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, cache_status, said
from tests.support.trust import Trust
from tests.support.virtual_hosts import VirtualHosts

StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

SIZE = 17_200 * 64
SEEDS = itertools.count()


class Blob(NamedTuple):
    """Content that no other test has, so that all can share a proxy."""

    digest: str
    body: bytes

    @property
    def path(self) -> str:
        return f"/v2/app/blobs/{self.digest}"

    def answer(self, **faults: object) -> Answer:
        return blob_answer(self.digest, self.body, **faults)


@pytest.fixture
def blob() -> Blob:
    body = random.Random(f"blobs-{next(SEEDS)}").randbytes(SIZE // 64).hex().encode() * 32  # gzip helps
    return Blob(digest_of(body), body)


@pytest.fixture(scope="module")
def cdns(trust: Trust) -> Iterator[VirtualHosts]:
    """Hosts that registries redirect to. The proxy knows where they are, no more."""
    with VirtualHosts(trust, "cdn") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def proxy(
    hosts: VirtualHosts, cdns: VirtualHosts, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    place, names = tmp_path_factory.mktemp("proxy"), tuple(f"{name}:{hosts.port}" for name in hosts.names)
    with Proxy(place, registries=names, resolve=hosts.resolve | cdns.resolve, ca=trust.path) as proxy:
        yield proxy


@pytest.fixture
def origin(hosts: VirtualHosts, blob: Blob) -> Origin:
    """An origin of the test's own, with one blob."""
    origin = hosts.new()
    origin.on(blob.path, blob.answer())
    return origin


@pytest.mark.parametrize("early", [False, True], ids=["two packets", "one packet"])
def test_miss_and_hit(early: bool, blob: Blob, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    client = talk(proxy, origin, early=early)
    miss = client.get(blob.path)
    proxy.wait_kept(blob.digest)
    hit, head = client.get(blob.path), client.request("HEAD", blob.path)
    assert (miss.body, miss.complete, said(miss)) == (blob.body, True, ("MISS", "blob-by-digest"))
    assert (hit.body, hit.complete, said(hit)) == (blob.body, True, ("HIT", "blob-by-digest"))
    assert (head.status, head.get("Content-Length"), said(head)) == (
        200,
        str(len(blob.body)),
        ("HIT", "blob-by-digest"),
    )
    for reply in (miss, hit, head):
        assert reply.get("Docker-Content-Digest") == blob.digest
        assert reply.get("Content-Type") == "application/octet-stream"
    assert cache_status(hit).endswith("; hit")
    assert "fwd=" in cache_status(miss)
    assert origin.hits[blob.path] == 1


def test_a_head_stays_a_head(blob: Blob, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
    proxy = start_proxy(origin)
    reply = talk(proxy, origin).request("HEAD", blob.path)
    assert (reply.status, reply.get("Content-Length"), reply.body) == (200, str(len(blob.body)), b"")
    assert [seen.method for seen in origin.requests] == ["HEAD"]
    assert proxy.blobs() == {}


def test_many_cold_clients_are_one_download(blob: Blob, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    """All of them have bytes while the origin holds the rest back."""
    go = threading.Event()
    origin.on(blob.path, blob.answer(hold_at=500_000, hold=go))
    clients = [talk(proxy, origin) for _ in range(8)]
    for client in clients:
        client.ask("GET", blob.path)
        assert client.read_head().get("Content-Length") == str(len(blob.body))
        assert client.read(400_000) == blob.body[:400_000]
    go.set()
    assert all(client.read(len(blob.body) - 400_000) == blob.body[400_000:] for client in clients)
    assert origin.hits[blob.path] == 1


@pytest.mark.parametrize("leave", ["close", "reset", "fin"])
def test_a_client_that_leaves_does_not_stop_the_download(
    leave: str, blob: Blob, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    go = threading.Event()
    origin.on(blob.path, blob.answer(hold_at=500_000, hold=go))
    client = talk(proxy, origin)
    client.ask("GET", blob.path)
    assert client.read_head().status == 200
    client.read(1000)
    getattr(client, leave)()
    go.set()
    proxy.wait_kept(blob.digest)
    assert talk(proxy, origin).get(blob.path).body == blob.body
    assert origin.hits[blob.path] == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda blob: blob.answer(wrong_at=10),
        lambda blob: blob.answer(wrong_at=len(blob.body) - 1),
        lambda blob: blob_answer(blob.digest, blob.body[:-1]),
        lambda blob: blob_answer(blob.digest, blob.body + b"x"),
        lambda blob: blob.answer(wrong_at=10, framing="chunked"),
        lambda blob: Answer(b"<html>Sign in to this network</html>", headers={"Content-Type": "text/html"}),
        lambda blob: Answer(b""),
    ],
    ids=[
        "wrong byte",
        "wrong last byte",
        "too short",
        "too long",
        "chunked",
        "HTML with 200",
        "empty",
    ],
)
def test_what_is_not_the_digest_is_never_a_whole_answer(
    make: Callable[[Blob], Answer], blob: Blob, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    origin.on(blob.path, make(blob))
    reply = talk(proxy, origin).get(blob.path)
    assert not (reply.status == 200 and reply.complete), (reply.status, len(reply.body))
    assert blob.digest not in proxy.blobs()
    origin.on(blob.path, blob.answer())
    assert talk(proxy, origin).get(blob.path).body == blob.body


def test_parallel_open_ended_ranges_of_a_cold_blob(
    blob: Blob, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    """containerd 2.1: each takes its part and drops the connection."""
    go = threading.Event()
    origin.on(blob.path, blob.answer(hold_at=100_000, hold=go))
    starts = range(0, len(blob.body), 250_000)
    clients = [talk(proxy, origin) for _ in starts]
    for start, client in zip(starts, clients, strict=True):
        client.ask("GET", blob.path, {"Range": f"bytes={start}-"})
    head = clients[0].read_head()
    assert (head.status, head.get("Content-Range")) == (206, f"bytes 0-{len(blob.body) - 1}/{len(blob.body)}")
    assert clients[0].read(90_000) == blob.body[:90_000]
    go.set()
    for start, client in zip(starts, clients, strict=True):
        if client is not clients[0]:
            head = client.read_head()
            assert (head.status, head.get("Content-Range")) == (
                206,
                f"bytes {start}-{len(blob.body) - 1}/{len(blob.body)}",
            )
            assert client.read(50_000) == blob.body[start:][:50_000]
        client.reset()
    assert talk(proxy, origin).get(blob.path).body == blob.body
    proxy.wait_kept(blob.digest)
    origin.wait_for(
        lambda origin: all(seen.done.is_set() for seen in origin.requests if seen.path == blob.path)
    )
    assert sum(seen.sent for seen in origin.requests if seen.path == blob.path) == len(blob.body)


@pytest.mark.parametrize(
    "asked, status, span",
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(SIZE - 7, None)),
        (f"bytes=0-{SIZE * 2}", 206, slice(None)),
        (f"bytes={SIZE}-", 416, slice(0, 0)),
        ("octets=0-1", 200, slice(None)),
    ],
)
def test_ranges_of_what_is_kept(
    asked: str, status: int, span: slice, blob: Blob, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    client = talk(proxy, origin)
    client.get(blob.path)
    reply = client.get(blob.path, {"Range": asked})
    assert reply.status == status
    if status == 416:
        assert reply.get("Content-Range") == f"bytes */{len(blob.body)}"
    else:
        assert reply.body == blob.body[span]
    assert client.get(blob.path).body == blob.body  # and the connection is still in step
    assert origin.hits[blob.path] == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["other host", "same host", "relative"])
def test_redirects_are_followed(
    status: int, where: str, blob: Blob, origin: Origin, cdns: VirtualHosts, proxy: Proxy, talk: Talk
) -> None:
    cdn = cdns.new()
    place = {"other host": cdn.url, "same host": origin.url, "relative": ""}[where]
    origin.on(blob.path, redirect(f"{place}/kept/x?sig=a%2Fb&c=d", status))
    (cdn if where == "other host" else origin).on("/kept/x", Answer(blob.body))
    client = talk(proxy, origin)
    reply = client.get(blob.path, {"Authorization": "Bearer abc", "Cookie": "a=b"})
    assert (reply.status, reply.body, reply.get("Location")) == (200, blob.body, None)
    first, second = *origin.requests, *cdn.requests
    assert first.get("Authorization") == "Bearer abc"
    assert second.target == "/kept/x?sig=a%2Fb&c=d"
    assert second.server_name == (cdn.name if where == "other host" else origin.name)
    if where == "other host":  # S3 refuses a foreign Authorization; the registry itself may want its own
        assert (second.get("Authorization"), second.get("Cookie")) == (None, None)
    proxy.wait_kept(blob.digest)
    assert said(client.get(blob.path))[0] == "HIT"
    assert len(origin.requests) + len(cdn.requests) == 2


def test_a_redirect_loop_ends(blob: Blob, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    origin.on(blob.path, redirect(blob.path))
    assert talk(proxy, origin).get(blob.path).status == 502
    assert 1 < origin.hits[blob.path] < 20


def test_a_401_goes_to_the_client(blob: Blob, origin: Origin, proxy: Proxy, talk: Talk) -> None:
    challenge = 'Bearer realm="https://auth.test/token",service="reg.test"'
    origin.on(blob.path, Answer(b"{}", 401, {"WWW-Authenticate": challenge}), blob.answer())
    client = talk(proxy, origin)
    reply = client.get(blob.path)
    assert (reply.status, reply.get("WWW-Authenticate"), reply.body) == (401, challenge, b"{}")
    assert client.get(blob.path, {"Authorization": "Bearer abc"}).body == blob.body
    assert origin.requests[1].get("Authorization") == "Bearer abc"


@pytest.mark.parametrize(
    "make",
    [
        lambda blob: blob.answer(framing="chunked"),
        lambda blob: blob.answer(framing="eof"),
        lambda blob: blob.answer(interim=(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",)),
        lambda blob: Answer(blob.body, headers={f"X-Amz-{number}": "v" * 500 for number in range(40)}),
        lambda blob: blob.answer(close=True),
    ],
    ids=["chunked", "until the end", "early hints", "big head", "closing"],
)
def test_whatever_way_it_comes_it_is_kept(
    make: Callable[[Blob], Answer], blob: Blob, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    origin.on(blob.path, make(blob))
    client = talk(proxy, origin)
    reply = client.get(blob.path)
    assert (reply.status, reply.body, reply.complete) == (200, blob.body, True)
    proxy.wait_kept(blob.digest)
    again = client.get(blob.path)
    assert (again.body, said(again)[0], again.get("Content-Length")) == (
        blob.body,
        "HIT",
        str(len(blob.body)),
    )
    assert origin.hits[blob.path] == 1


def test_a_slow_reader_holds_nobody_up(hosts: VirtualHosts, proxy: Proxy, talk: Talk) -> None:
    big = random.Random("slow reader").randbytes(20 * SIZE)
    digest = digest_of(big)
    path = f"/v2/app/blobs/{digest}"
    origin = hosts.new()
    origin.on(path, blob_answer(digest, big))
    slow = talk(proxy, origin, recv_buffer=4096)
    slow.ask("GET", path)
    assert slow.read_head().status == 200
    assert talk(proxy, origin).get(path).digest == digest
    proxy.wait_kept(digest)
    assert digest_of(slow.read(len(big))) == digest
    assert origin.hits[path] == 1


def test_a_client_that_ends_its_side_still_gets_its_answer(
    blob: Blob, origin: Origin, proxy: Proxy, talk: Talk
) -> None:
    client = talk(proxy, origin)
    client.get(blob.path)
    proxy.wait_kept(blob.digest)
    client.ask("GET", blob.path)
    client.half_close()
    reply = client.read_reply()
    assert (reply.body, reply.complete) == (blob.body, True)
    assert client.read_end()[1] in (End.FIN, End.CLOSE_NOTIFY)


def test_connections_that_are_gone_leave_no_descriptors(
    blob: Blob, origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    proxy = start_proxy(origin)
    talk(proxy, origin).get(blob.path)
    proxy.wait_kept(blob.digest)

    def descriptors() -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in proxy.workers(1))

    before = descriptors()
    for leave in ("close", "reset", "fin") * 10:
        client = talk(proxy, origin)
        client.ask("GET", blob.path)
        client.read_head()
        client.read(1000)
        getattr(client, leave)()
        client.layers[0].close()
    wait_until(lambda: descriptors() <= before, "all is closed")
