"""Blobs through the proxy as a process: asked for once, served to all, right or not at all."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, cache_status, said

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

BODY = b"".join(digest_of(bytes([number])).encode() for number in range(256)) * 60  # a bit over 1 MB
BLOB = digest_of(BODY)
PATH = f"/v2/app/blobs/{BLOB}"


@pytest.fixture
def origin(start_origin: StartOrigin) -> Origin:
    """An origin with one blob."""
    origin = start_origin("reg.test", "cdn.test")
    origin.on(PATH, blob_answer(BLOB, BODY))
    return origin


@pytest.mark.parametrize("early", [False, True], ids=["two packets", "one packet"])
def test_miss_and_hit(early: bool, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
    proxy = start_proxy(origin)
    client = talk(proxy, origin, early=early)
    miss = client.get(PATH)
    proxy.wait_kept(BLOB)
    hit, head = client.get(PATH), client.request("HEAD", PATH)
    assert (miss.body, miss.complete, said(miss)) == (BODY, True, ("MISS", "blob-by-digest"))
    assert (hit.body, hit.complete, said(hit)) == (BODY, True, ("HIT", "blob-by-digest"))
    assert (head.status, head.get("Content-Length"), said(head)) == (
        200,
        str(len(BODY)),
        ("HIT", "blob-by-digest"),
    )
    for reply in (miss, hit, head):
        assert reply.get("Docker-Content-Digest") == BLOB
        assert reply.get("Content-Type") == "application/octet-stream"
    assert cache_status(hit).endswith("; hit")
    assert "fwd=" in cache_status(miss)
    assert origin.hits[PATH] == 1


def test_a_head_stays_a_head(origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
    proxy = start_proxy(origin)
    reply = talk(proxy, origin).request("HEAD", PATH)
    assert (reply.status, reply.get("Content-Length"), reply.body) == (200, str(len(BODY)), b"")
    assert [seen.method for seen in origin.requests] == ["HEAD"]
    assert proxy.blobs() == {}


def test_many_cold_clients_are_one_download(origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
    """All of them have bytes while the origin holds the rest back."""
    go = threading.Event()
    origin.on(PATH, blob_answer(BLOB, BODY, hold_at=500_000, hold=go))
    proxy = start_proxy(origin)
    clients = [talk(proxy, origin) for _ in range(8)]
    for client in clients:
        client.ask("GET", PATH)
        assert client.read_head().get("Content-Length") == str(len(BODY))
        assert client.read(400_000) == BODY[:400_000]
    go.set()
    assert all(client.read(len(BODY) - 400_000) == BODY[400_000:] for client in clients)
    assert origin.hits[PATH] == 1


@pytest.mark.parametrize("leave", ["close", "reset", "fin"])
def test_a_client_that_leaves_does_not_stop_the_download(
    leave: str, origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    go = threading.Event()
    origin.on(PATH, blob_answer(BLOB, BODY, hold_at=500_000, hold=go))
    proxy = start_proxy(origin)
    client = talk(proxy, origin)
    client.ask("GET", PATH)
    assert client.read_head().status == 200
    client.read(1000)
    getattr(client, leave)()
    go.set()
    proxy.wait_kept(BLOB)
    assert talk(proxy, origin).get(PATH).body == BODY
    assert origin.hits[PATH] == 1


@pytest.mark.parametrize(
    "answer",
    [
        blob_answer(BLOB, BODY, wrong_at=10),
        blob_answer(BLOB, BODY, wrong_at=len(BODY) - 1),
        blob_answer(BLOB, BODY[:-1]),
        blob_answer(BLOB, BODY + b"x"),
        blob_answer(BLOB, BODY, wrong_at=10, framing="chunked"),
        Answer(b"<html>Sign in to this network</html>", headers={"Content-Type": "text/html"}),
        Answer(b""),
        Answer(BODY, headers={"Content-Encoding": "gzip"}),
        Answer(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}),
    ],
    ids=[
        "wrong byte",
        "wrong last byte",
        "too short",
        "too long",
        "chunked",
        "HTML with 200",
        "empty",
        "said to be gzip",
        "gzip",
    ],
)
def test_what_is_not_the_digest_is_never_a_whole_answer(
    answer: Answer, origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin.on(PATH, answer)
    proxy = start_proxy(origin)
    reply = talk(proxy, origin).get(PATH)
    assert not (reply.status == 200 and reply.complete), (reply.status, len(reply.body))
    assert BLOB not in proxy.blobs()
    origin.on(PATH, blob_answer(BLOB, BODY))
    assert talk(proxy, origin).get(PATH).body == BODY


def test_parallel_open_ended_ranges_of_a_cold_blob(
    origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    """containerd 2.1: each takes its part and drops the connection."""
    go = threading.Event()
    origin.on(PATH, blob_answer(BLOB, BODY, hold_at=100_000, hold=go))
    proxy = start_proxy(origin)
    starts = range(0, len(BODY), 250_000)
    clients = [talk(proxy, origin) for _ in starts]
    for start, client in zip(starts, clients, strict=True):
        client.ask("GET", PATH, {"Range": f"bytes={start}-"})
    head = clients[0].read_head()
    assert (head.status, head.get("Content-Range")) == (206, f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
    assert clients[0].read(90_000) == BODY[:90_000]
    go.set()
    for start, client in zip(starts, clients, strict=True):
        if client is not clients[0]:
            head = client.read_head()
            assert (head.status, head.get("Content-Range")) == (
                206,
                f"bytes {start}-{len(BODY) - 1}/{len(BODY)}",
            )
            assert client.read(50_000) == BODY[start:][:50_000]
        client.reset()
    assert talk(proxy, origin).get(PATH).body == BODY
    proxy.wait_kept(BLOB)
    assert sum(seen.sent for seen in origin.requests if seen.path == PATH) == len(BODY)


@pytest.mark.parametrize(
    "asked, status, span",
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(len(BODY) - 7, None)),
        (f"bytes=0-{len(BODY) * 2}", 206, slice(None)),
        (f"bytes={len(BODY)}-", 416, slice(0, 0)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("octets=0-1", 200, slice(None)),
    ],
)
def test_ranges_of_what_is_kept(
    asked: str, status: int, span: slice, origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    proxy = start_proxy(origin)
    client = talk(proxy, origin)
    client.get(PATH)
    reply = client.get(PATH, {"Range": asked})
    assert reply.status == status
    if status == 416:
        assert reply.get("Content-Range") == f"bytes */{len(BODY)}"
    else:
        assert reply.body == BODY[span]
    assert client.get(PATH).body == BODY  # and the connection is still in step
    assert origin.hits[PATH] == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["other host", "same host", "relative"])
def test_redirects_are_followed(
    status: int, where: str, origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    place = {"other host": f"https://cdn.test:{origin.port}", "same host": origin.url, "relative": ""}[where]
    origin.on(PATH, redirect(f"{place}/kept/x?sig=a%2Fb&c=d", status))
    origin.on("/kept/x", Answer(BODY))
    proxy = start_proxy(origin)
    client = talk(proxy, origin)
    reply = client.get(PATH, {"Authorization": "Bearer abc", "Cookie": "a=b"})
    assert (reply.status, reply.body, reply.get("Location")) == (200, BODY, None)
    first, second = origin.requests
    assert first.get("Authorization") == "Bearer abc"
    assert second.target == "/kept/x?sig=a%2Fb&c=d"
    assert second.server_name == ("cdn.test" if where == "other host" else "reg.test")
    if where == "other host":  # S3 refuses a foreign Authorization; the registry itself may want its own
        assert (second.get("Authorization"), second.get("Cookie")) == (None, None)
    proxy.wait_kept(BLOB)
    assert said(client.get(PATH))[0] == "HIT"
    assert len(origin.requests) == 2


def test_a_redirect_loop_ends(origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
    origin.on(PATH, redirect(PATH))
    proxy = start_proxy(origin)
    assert talk(proxy, origin).get(PATH).status == 502
    assert 1 < origin.hits[PATH] < 20


def test_a_401_goes_to_the_client(origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
    challenge = 'Bearer realm="https://auth.test/token",service="reg.test"'
    origin.on(PATH, Answer(b"{}", 401, {"WWW-Authenticate": challenge}), blob_answer(BLOB, BODY))
    proxy = start_proxy(origin)
    client = talk(proxy, origin)
    reply = client.get(PATH)
    assert (reply.status, reply.get("WWW-Authenticate"), reply.body) == (401, challenge, b"{}")
    assert client.get(PATH, {"Authorization": "Bearer abc"}).body == BODY
    assert origin.requests[1].get("Authorization") == "Bearer abc"


@pytest.mark.parametrize(
    "answer",
    [
        blob_answer(BLOB, BODY, framing="chunked"),
        blob_answer(BLOB, BODY, framing="eof"),
        blob_answer(BLOB, BODY, interim=(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",)),
        Answer(BODY, headers={f"X-Amz-{number}": "v" * 500 for number in range(40)}),
        blob_answer(BLOB, BODY, close=True),
    ],
    ids=["chunked", "until the end", "early hints", "big head", "closing"],
)
def test_whatever_way_it_comes_it_is_kept(
    answer: Answer, origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    origin.on(PATH, answer)
    proxy = start_proxy(origin)
    client = talk(proxy, origin)
    reply = client.get(PATH)
    assert (reply.status, reply.body, reply.complete) == (200, BODY, True)
    proxy.wait_kept(BLOB)
    again = client.get(PATH)
    assert (again.body, said(again)[0], again.get("Content-Length")) == (BODY, "HIT", str(len(BODY)))
    assert origin.hits[PATH] == 1


def test_a_slow_reader_holds_nobody_up(
    start_proxy: StartProxy, start_origin: StartOrigin, talk: Talk
) -> None:
    big = BODY * 20
    digest = digest_of(big)
    path = f"/v2/app/blobs/{digest}"
    origin = start_origin("reg.test")
    origin.on(path, blob_answer(digest, big))
    proxy = start_proxy(origin)
    slow = talk(proxy, origin, recv_buffer=4096)
    slow.ask("GET", path)
    assert slow.read_head().status == 200
    assert talk(proxy, origin).get(path).digest == digest
    proxy.wait_kept(digest)
    assert digest_of(slow.read(len(big))) == digest
    assert origin.hits[path] == 1


def test_a_client_that_ends_its_side_still_gets_its_answer(
    origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    proxy = start_proxy(origin)
    client = talk(proxy, origin)
    client.get(PATH)
    proxy.wait_kept(BLOB)
    client.ask("GET", PATH)
    client.half_close()
    reply = client.read_reply()
    assert (reply.body, reply.complete) == (BODY, True)
    assert client.read_end()[1] in (End.FIN, End.CLOSE_NOTIFY)


def test_connections_that_are_gone_leave_no_descriptors(
    origin: Origin, start_proxy: StartProxy, talk: Talk
) -> None:
    proxy = start_proxy(origin)
    talk(proxy, origin).get(PATH)
    proxy.wait_kept(BLOB)

    def descriptors() -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in proxy.workers(1))

    before = descriptors()
    for leave in ("close", "reset", "fin") * 10:
        client = talk(proxy, origin)
        client.ask("GET", PATH)
        client.read_head()
        client.read(1000)
        getattr(client, leave)()
        client.layers[0].close()
    wait_until(lambda: descriptors() <= before, "all is closed")
