"""Cold content and many clients: one download, everybody a reader of it, and nobody's to stop."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, Seen, blob_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

CROWD = 50
SHARED = "regproxy_fill_requests_sum"
LARGE = 400_000
SMALL = 20_000  # verified before its head goes out
SHM = Path("/dev/shm")
SEEDS = itertools.count()


class Cold(NamedTuple):
    """Content that nobody has asked for yet."""

    path: str
    digest: str
    body: bytes


def cold(origin: Origin, size: int = LARGE, repository: str = "app", **faults: object) -> Cold:
    """Content of its own for a test, which `origin` has."""
    body = random.Random(f"fill-{next(SEEDS)}").randbytes(size)
    digest = digest_of(body)
    path = f"/v2/{repository}/blobs/{digest}"
    origin.on(path, blob_answer(digest, body, **faults))
    return Cold(path, digest, body)


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def other(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "other.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(
    origin: Origin, other: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """One proxy for the module; it fails at the end where anything was left open."""
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        {"REGPROXY_DEBUG": "1"},
        registries=(origin.authority, other.authority),
        resolve=origin.resolve | other.resolve,
        ca=trust.path,
    ) as proxy:
        yield proxy


@pytest.fixture
def crowd(proxy: Proxy, origin: Origin, stack: ExitStack) -> list[Client]:
    """Many clients that are through to the origin and have asked for nothing."""
    return [stack.enter_context(proxy.client(origin.authority)) for _ in range(CROWD)]


def waiting(proxy: Proxy, count: int) -> None:
    """Wait until so many requests wait for a fill."""
    wait_until(lambda: proxy.metric("regproxy_fill_waiters") == count, f"{count} requests wait")


def stored(proxy: Proxy, blob: Cold) -> None:
    """Wait until the content is in the store and no fill is under way."""
    wait_until(lambda: proxy.blobs().get(blob.digest) == len(blob.body), f"{blob.digest} is in the store")
    wait_until(lambda: proxy.parts() == [], "no part file is left")


class TestOneDownload:
    """However many want it."""

    def test_of_a_large_blob(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        go = threading.Event()
        blob = cold(origin, hold_at=LARGE // 2, hold=go)
        for client in crowd:
            client.ask("GET", blob.path)
        for client in crowd:
            head = client.read_head()
            assert (head.status, head.get("Content-Length")) == (200, str(LARGE))
        go.set()
        assert {digest_of(client.read(LARGE)) for client in crowd} == {blob.digest}
        assert origin.hits[blob.path] == 1
        assert said(crowd[0].get(blob.path))[0] == "HIT"

    def test_of_a_small_blob(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        go = threading.Event()
        blob = cold(origin, SMALL, hold_at=-1, hold=go)
        before = proxy.metric(SHARED)
        for client in crowd:
            client.ask("GET", blob.path)
        waiting(proxy, CROWD)
        go.set()
        replies = [client.read_reply() for client in crowd]
        wait_until(lambda: proxy.metric(SHARED) == before + CROWD, "it is counted that they shared it")
        assert proxy.metric("regproxy_upstream_first_byte_seconds_count") > 0
        assert {reply.digest for reply in replies} == {blob.digest}
        assert sorted(said(reply)[0] or "" for reply in replies) == ["MISS"] + ["UPDATING"] * (CROWD - 1)
        assert origin.hits[blob.path] == 1

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_answers_heads_too(self, size: int, origin: Origin, crowd: list[Client]) -> None:
        """Once it is under way the origin need not be asked what it has said already."""
        go = threading.Event()
        blob = cold(origin, size, hold_at=size // 2, hold=go)
        crowd[0].ask("GET", blob.path)
        origin.wait_for(lambda origin: origin.hits[blob.path] == 1)
        if size == LARGE:
            assert crowd[0].read_head().status == 200
            head = crowd[1].request("HEAD", blob.path)
            go.set()
            assert digest_of(crowd[0].read(size)) == blob.digest
        else:
            go.set()
            assert crowd[0].read_reply().digest == blob.digest
            head = crowd[1].request("HEAD", blob.path)
        assert (head.status, head.get("Content-Length"), head.body) == (200, str(size), b"")
        assert head.get("Docker-Content-Digest") == blob.digest
        assert origin.hits[blob.path] == 1

    def test_of_an_empty_blob(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        blob = cold(origin, 0)
        for client in crowd[:2]:
            reply = client.get(blob.path)
            assert (reply.status, reply.body, reply.complete) == (200, b"", True)
        assert origin.hits[blob.path] == 1

    def test_for_two_repositories(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        go = threading.Event()
        blob = cold(origin, repository="one", hold_at=LARGE // 2, hold=go)
        twin = blob.path.replace("/one/", "/two/")
        origin.on(twin, blob_answer(blob.digest, blob.body))
        crowd[0].ask("GET", blob.path)
        assert crowd[0].read_head().status == 200
        crowd[1].ask("GET", twin)
        assert crowd[1].read_head().status == 200
        go.set()
        assert {digest_of(client.read(LARGE)) for client in crowd[:2]} == {blob.digest}
        assert origin.hits[blob.path] + origin.hits[twin] == 1
        stored(proxy, blob)

    def test_for_two_registries(
        self, proxy: Proxy, origin: Origin, other: Origin, crowd: list[Client], stack: ExitStack
    ) -> None:
        blob = cold(origin)
        other.on(blob.path, blob_answer(blob.digest, blob.body))
        assert crowd[0].get(blob.path).digest == blob.digest
        stored(proxy, blob)
        reply = stack.enter_context(proxy.client(other.authority)).get(blob.path)
        assert (reply.digest, said(reply)[0]) == (blob.digest, "HIT")
        assert other.hits[blob.path] == 0


def test_a_slow_reader_holds_nobody(
    proxy: Proxy, origin: Origin, crowd: list[Client], stack: ExitStack
) -> None:
    """It takes one piece and no more until everybody else is done."""
    # More than waits on the way to it: up to 4 MB in the kernel, and a batch.
    size, first = 8_000_000, 100_000
    blob = cold(origin, size)
    slow = stack.enter_context(proxy.client(origin.authority, recv_buffer=16_384))
    slow.ask("GET", blob.path)
    assert slow.read_head().status == 200
    assert slow.read(first) == blob.body[:first]
    for client in crowd[1:]:
        client.ask("GET", blob.path)
    assert all(client.read_reply().digest == blob.digest for client in crowd[1:])
    stored(proxy, blob)

    def ended() -> int:
        return len(proxy.access_log(check=lambda line: line["uri"] == blob.path))

    wait_until(lambda: ended() >= CROWD - 1, "the others are logged as done")
    assert ended() == CROWD - 1  # the slow one's answer is still on its way
    assert slow.read(size - first) == blob.body[first:]
    wait_until(lambda: ended() == CROWD, "so is the slow one")
    assert origin.hits[blob.path] == 1


@pytest.mark.parametrize("leave", ["close", "reset", "fin"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_download_outlives_everybody_who_wanted_it(
    size: int, leave: str, proxy: Proxy, origin: Origin, stack: ExitStack
) -> None:
    go = threading.Event()
    blob = cold(origin, size, hold_at=size // 2, hold=go)
    clients = [stack.enter_context(proxy.client(origin.authority)) for _ in range(10)]
    for client in clients:
        client.ask("GET", blob.path)
    if size == LARGE:
        for client in clients:
            assert client.read_head().status == 200
            assert client.read(1000) == blob.body[:1000]
    else:
        waiting(proxy, len(clients))
    for client in clients:
        getattr(client, leave)()
    go.set()
    stored(proxy, blob)
    reply = stack.enter_context(proxy.client(origin.authority)).get(blob.path)
    assert (reply.digest, said(reply)[0]) == (blob.digest, "HIT")
    assert origin.hits[blob.path] == 1
    waiting(proxy, 0)


class TestRefusals:
    """An origin's answer to one client's credentials says nothing about another's."""

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    @pytest.mark.parametrize("status", [401, 403, 404, 429])
    def test_of_the_first(
        self, status: int, size: int, proxy: Proxy, origin: Origin, crowd: list[Client]
    ) -> None:
        go, blob = threading.Event(), cold(origin, size)

        def answer(seen: Seen) -> Answer:
            if seen.get("Authorization") == f"Bearer {size}.0":
                return Answer(b'{"errors":[]}', status, {"WWW-Authenticate": "Bearer x"}, hold_at=-1, hold=go)
            return blob_answer(blob.digest, blob.body)

        origin.on(blob.path, answer)
        # A 429 is remembered for who got it.
        for number, client in enumerate(crowd):
            client.ask("GET", blob.path, {"Authorization": f"Bearer {size}.{number}"})
            if number == 0:
                origin.wait_for(lambda origin: origin.hits[blob.path] == 1)
        waiting(proxy, CROWD)
        go.set()
        first, *others = [client.read_reply() for client in crowd]
        assert (first.status, first.body, first.get("WWW-Authenticate")) == (
            status,
            b'{"errors":[]}',
            "Bearer x",
        )
        assert {(reply.status, reply.digest) for reply in others} == {(200, blob.digest)}
        assert origin.hits[blob.path] == 2

    def test_of_each(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        blob = cold(origin)
        origin.on(blob.path, lambda seen: Answer((seen.get("Authorization") or "").encode(), 401))
        for number, client in enumerate(crowd):
            client.ask("GET", blob.path, {"Authorization": f"Bearer {number}"})
        for number, client in enumerate(crowd):
            reply = client.read_reply()
            assert (reply.status, reply.body) == (401, b"Bearer %d" % number)

    def test_of_all_alike(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        """Who sends the same credentials shares the answer."""
        go, blob = threading.Event(), cold(origin)
        origin.on(blob.path, Answer(b"no", 401, hold_at=-1, hold=go))
        for client in crowd:
            client.ask("GET", blob.path, {"Authorization": "Bearer same"})
        waiting(proxy, CROWD)
        go.set()
        assert {(reply.status, reply.body) for reply in map(Client.read_reply, crowd)} == {(401, b"no")}
        assert origin.hits[blob.path] == 1

    def test_silence_is_everybodys(
        self, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        """Credentials do not matter to an origin that says nothing: one wait for it is enough for all."""
        origin = start_origin("reg.test")
        blob = cold(origin, hold_at=-1, hold=threading.Event())
        proxy = start_proxy(origin, PROXY_READ_TIMEOUT="1s", REGPROXY_DEBUG="1")
        clients = [talk(proxy, origin) for _ in range(10)]
        for number, client in enumerate(clients):
            client.ask("GET", blob.path, {"Authorization": f"Bearer {number}"})
        assert {client.read_reply().status for client in clients} == {504}
        assert origin.hits[blob.path] == 1

    def test_of_another_registry(
        self, proxy: Proxy, origin: Origin, other: Origin, crowd: list[Client], stack: ExitStack
    ) -> None:
        go, blob = threading.Event(), cold(origin)
        other.on(blob.path, Answer(b"nowhere", 404, hold_at=-1, hold=go))
        stranger = stack.enter_context(proxy.client(other.authority))
        stranger.ask("GET", blob.path)
        other.wait_for(lambda origin: origin.hits[blob.path] == 1)
        # A registry that is slow is none of another one's clients' business.
        crowd[0].ask("GET", blob.path)
        assert crowd[0].read_reply().digest == blob.digest
        go.set()
        assert stranger.read_reply().status == 404


class TestRanges:
    """206 from a download that is still under way."""

    @pytest.mark.parametrize(
        "asked, start, stop, at_once",
        [
            ("bytes=0-", 0, LARGE, False),
            ("bytes=150000-", 150_000, LARGE, False),
            ("bytes=0-0", 0, 1, True),
            ("bytes=100-99999", 100, 100_000, True),
            ("bytes=150000-250000", 150_000, 250_001, False),
            (f"bytes=250000-{LARGE * 2}", 250_000, LARGE, False),
            ("bytes=-7", LARGE - 7, LARGE, False),
            ("bytes=-300000", LARGE - 300_000, LARGE, False),
        ],
    )
    def test_of_a_growing_file(
        self, asked: str, start: int, stop: int, at_once: bool, proxy: Proxy, origin: Origin, stack: ExitStack
    ) -> None:
        go = threading.Event()
        blob = cold(origin, hold_at=LARGE // 2, hold=go)
        client = stack.enter_context(proxy.client(origin.authority))
        client.ask("GET", blob.path, {"Range": asked})
        if not at_once:
            origin.wait_for(lambda origin: origin.hits[blob.path] == 1)
            go.set()
        reply = client.read_reply()
        go.set()
        assert (reply.status, reply.complete) == (206, True)
        assert reply.get("Content-Range") == f"bytes {start}-{stop - 1}/{LARGE}"
        assert reply.body == blob.body[start:stop]
        assert client.get(blob.path).digest == blob.digest
        origin.wait_idle()
        assert sum(seen.sent for seen in origin.requests if seen.path == blob.path) == LARGE

    def test_beyond_the_end(self, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        go = threading.Event()
        blob = cold(origin, hold_at=LARGE // 2, hold=go)
        reply = crowd[0].get(blob.path, {"Range": f"bytes={LARGE}-"})
        assert (reply.status, reply.get("Content-Range")) == (416, f"bytes */{LARGE}")
        go.set()
        assert crowd[0].get(blob.path).digest == blob.digest

    @pytest.mark.parametrize("same", [True, False])
    def test_if_range(self, same: bool, proxy: Proxy, origin: Origin, crowd: list[Client]) -> None:
        blob = cold(origin)
        etag = f'"{blob.digest}"' if same else '"other"'
        reply = crowd[0].get(blob.path, {"Range": "bytes=10-19", "If-Range": etag})
        assert (reply.status, reply.body) == ((206, blob.body[10:20]) if same else (200, blob.body))

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_when_the_origin_says_no_length(
        self, size: int, proxy: Proxy, origin: Origin, crowd: list[Client]
    ) -> None:
        blob = cold(origin, size, framing="chunked")
        reply = crowd[0].get(blob.path, {"Range": "bytes=-10"})
        assert (reply.status, reply.body) == (206, blob.body[-10:])
        assert reply.get("Content-Range") == f"bytes {size - 10}-{size - 1}/{size}"

    def test_open_ended_at_every_offset_and_dropped(self, proxy: Proxy, origin: Origin) -> None:
        """containerd 2.1 takes a layer in pieces: each asks for the rest, and leaves when it has its own."""
        size, step = 1_500_000, 150_000

        def piece(blob: Cold, start: int) -> bytes:
            client = proxy.client(origin.authority)
            try:
                client.ask("GET", blob.path, {"Range": f"bytes={start}-"})
                head = client.read_head()
                assert (head.status, head.get("Content-Length")) == (206, str(size - start))
                return client.read(step)
            finally:
                client.reset()

        with ThreadPoolExecutor(10) as pool:
            for _ in range(8):
                blob = cold(origin, size)
                pieces = pool.map(lambda start, blob=blob: piece(blob, start), range(0, size, step))
                assert b"".join(pieces) == blob.body
                proxy.wait_kept(blob.digest)
                origin.wait_idle()
                assert sum(seen.sent for seen in origin.requests if seen.path == blob.path) == size
                stored(proxy, blob)


class TestKept:
    """What is in the store is as good after a restart, or after somebody touched it, as it was."""

    def test_a_restart(self, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk) -> None:
        origin = start_origin("reg.test")
        blobs = [cold(origin, size) for size in (0, SMALL, LARGE)]
        proxy = start_proxy(origin, REGPROXY_DEBUG="1")
        client = talk(proxy, origin)
        assert [client.get(blob.path).digest for blob in blobs] == [blob.digest for blob in blobs]
        assert proxy.stop() == 0, proxy.log()
        for damage in (None, "index.sqlite3"):
            if damage is not None:
                (proxy.cache_dir / damage).unlink()
            proxy = start_proxy(origin, at=proxy.directory, REGPROXY_DEBUG="1")
            client = talk(proxy, origin)
            replies = [client.get(blob.path) for blob in blobs]
            assert [reply.digest for reply in replies] == [blob.digest for blob in blobs]
            assert {said(reply)[0] for reply in replies} == {"HIT"}
            assert proxy.stop() == 0, proxy.log()
        assert len(origin.requests) == len(blobs)

    def test_a_cache_in_memory(
        self, start_origin: StartOrigin, start_proxy: StartProxy, stack: ExitStack, talk: Talk
    ) -> None:
        """tmpfs can't tell whether a read would block (no RWF_NOWAIT)."""
        if not SHM.is_dir():
            pytest.skip("there is no /dev/shm")
        place = stack.enter_context(TemporaryDirectory(dir=SHM))
        origin, go = start_origin("reg.test"), threading.Event()
        blob = cold(origin, 3_000_000, hold_at=1_000_000, hold=go)
        proxy = start_proxy(origin, REGPROXY_CACHE_DIR=place, REGPROXY_DEBUG="1")
        clients = [talk(proxy, origin) for _ in range(10)]
        for client in clients:
            client.ask("GET", blob.path)
            assert client.read_head().status == 200
        go.set()
        assert all(client.read(len(blob.body)) == blob.body for client in clients)
        for client in clients:
            client.ask("GET", blob.path, {"Range": "bytes=1000-"})
        assert all(client.read_reply().body == blob.body[1000:] for client in clients)
        assert origin.hits[blob.path] == 1

    def test_a_file_cut_while_it_is_open(self, proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
        blob = cold(origin)
        client = stack.enter_context(proxy.client(origin.authority))
        assert client.get(blob.path).digest == blob.digest
        stored(proxy, blob)
        truncate(proxy, blob)
        cut(client.get(blob.path), blob)
        later = stack.enter_context(proxy.client(origin.authority)).get(blob.path)
        assert later.digest == blob.digest  # asked for again: a damaged file is not for ever

    @pytest.mark.parametrize("size", [SMALL, LARGE])
    def test_a_file_cut_while_the_proxy_was_down(
        self, size: int, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        origin = start_origin("reg.test")
        blob = cold(origin, size)
        proxy = start_proxy(origin, REGPROXY_DEBUG="1")
        assert talk(proxy, origin).get(blob.path).digest == blob.digest
        assert proxy.stop() == 0, proxy.log()
        truncate(proxy, blob)
        proxy = start_proxy(origin, at=proxy.directory, REGPROXY_DEBUG="1")
        cut(talk(proxy, origin).get(blob.path), blob)
        assert talk(proxy, origin).get(blob.path).digest == blob.digest


def truncate(proxy: Proxy, blob: Cold) -> None:
    """Take the second half of stored content away, as a broken disk or a careless hand does."""
    name = blob.digest.removeprefix("sha256:")
    path = Path(proxy.cache_dir, "blobs", "sha256", name[:2], name)
    with path.open("r+b") as file:
        file.truncate(len(blob.body) // 2)


def cut(reply: Reply, blob: Cold) -> None:
    """Assert that it is either the content or visibly not all of it."""
    assert reply.digest == blob.digest or not (reply.status == 200 and reply.complete)


ABOUT_THE_CACHE = {
    *("date", "x-request-id"),
    *("cache-status", "x-docker-registry-proxy-cache-upstream-status"),
}


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("asked", [None, "bytes=100-", "bytes=100-199"])
def test_a_miss_has_the_headers_of_a_hit(origin: Origin, proxy: Proxy, size: int, asked: str | None) -> None:
    blob = cold(origin, size)
    replies = []
    with proxy.client(origin.authority) as client:
        for _ in range(2):
            replies.append(client.get(blob.path, [("Range", asked)] if asked else []))
            stored(proxy, blob)
    miss, hit = (
        {name.lower(): value for name, value in reply.headers if name.lower() not in ABOUT_THE_CACHE}
        for reply in replies
    )
    assert [said(reply)[0] for reply in replies] == ["MISS", "HIT"]
    assert miss == hit
