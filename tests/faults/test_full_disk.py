"""A disk that takes nothing, in all its ways: pulls go on, log and metrics say so, and it ends by itself."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, digest_of, make_image
from tests.support.origin import Origin, blob_answer, manifest_answer
from tests.support.processes import Daemon, wait_until
from tests.support.proxy import Proxy
from tests.support.small_filesystems import break_disk, fill_up, fragile_disk, free, small_disk
from tests.support.two_workers import Pair

DISK = 8_000_000
LARGE = 12_000_000
HUGE = 60_000_000  # more than is kept in memory of one body
SEEDS = itertools.count()
BOTH = [("Accept", MANIFEST), ("Accept", INDEX)]
StartProxy = Callable[..., Proxy]


class Cold:
    """Content that nobody has asked for yet."""

    def __init__(self, origin: Origin, size: int, **faults: object) -> None:
        self.body = random.Random(f"disk-{next(SEEDS)}").randbytes(size)
        self.digest = digest_of(self.body)
        self.path = f"/v2/app/blobs/{self.digest}"
        origin.on(self.path, blob_answer(self.digest, self.body, **faults))

    def arrived(self, reply: Reply) -> bool:
        return (reply.status, reply.complete, reply.digest) == (200, True, self.digest)


@pytest.fixture
def origin(start_origin: Callable[..., Origin]) -> Origin:
    return start_origin("reg.test")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK) as disk:
        yield disk


@pytest.fixture
def proxy(disk: Path, origin: Origin, start_proxy: StartProxy) -> Proxy:
    return two_workers(start_proxy, origin, disk / "cache")


@pytest.fixture
def pair(proxy: Proxy, origin: Origin) -> Pair:
    return Pair(proxy, origin.authority)


def two_workers(start_proxy: StartProxy, origin: Origin, cache: Path) -> Proxy:
    """Two workers on this directory; nothing is evicted."""
    proxy = start_proxy(
        origin,
        REGPROXY_CACHE_DIR=str(cache),
        REGPROXY_WORKERS="2",
        REGPROXY_MIN_FREE="0",
        ENABLE_MANIFEST_CACHE="true",
    )
    proxy.cache_dir = cache
    return proxy


def get_all(clients: list[Client], blob: Cold) -> list[Reply]:
    """Ask by all of them, read all answers at once."""
    replies: list[Reply | None] = [None] * len(clients)

    def read(number: int) -> None:
        replies[number] = clients[number].get(blob.path)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [reply for reply in replies if reply is not None]


def failures(proxy: Proxy, reason: str) -> float:
    return proxy.metric("regproxy_store_failures_total", reason=reason)


@pytest.mark.parametrize("size", [LARGE, HUGE])
def test_it_fills_up_in_the_middle(
    size: int, pair: Pair, proxy: Proxy, origin: Origin, disk: Path, stack: ExitStack
) -> None:
    """Clients of both workers, all complete; the space is given back; the next small thing is stored."""
    blob = Cold(origin, size)
    clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids() for _ in range(3)]
    replies = get_all(clients, blob)
    assert [blob.arrived(reply) for reply in replies] == [True] * 6
    assert failures(proxy, "ENOSPC") >= 1
    assert "No space left on device (ENOSPC)" in proxy.log()
    wait_until(lambda: free(disk) > DISK // 2, "the part's space is free")
    assert blob.digest not in proxy.blobs()
    assert origin.hits[blob.path] <= 2 * 6  # each client by itself at the worst, where memory had gone on
    for client in (clients[0], clients[-1]):  # it is said by the worker that had the trouble
        small = Cold(origin, 100_000)
        assert small.arrived(client.get(small.path))
        proxy.wait_kept(small.digest)
    wait_until(lambda: "storing works again" in proxy.log(), "it says that it works again")


def test_it_is_full(pair: Pair, proxy: Proxy, origin: Origin, disk: Path, stack: ExitStack) -> None:
    """Everything that a pull asks for, from a disk that has no room for a byte."""
    hog = fill_up(disk)
    image = make_image(size=900_000, seed=next(SEEDS))
    origin.publish("app", image, "v1.2.3")
    client = stack.enter_context(proxy.client(origin.authority))
    for _ in range(2):
        assert client.get("/v2/app/manifests/v1.2.3", BOTH).body == image.manifest
        assert client.get(f"/v2/app/manifests/{image.digest}", BOTH).body == image.manifest
        for digest, body in image.blobs.items():
            reply = client.get(f"/v2/app/blobs/{digest}")
            assert (reply.complete, reply.body) == (True, body)
    assert proxy.blobs() == {}
    assert proxy.metric("regproxy_store_ok") == 0
    hog.unlink()
    assert client.get(f"/v2/app/blobs/{image.layers[0]}").complete
    proxy.wait_kept(image.layers[0])
    wait_until(lambda: proxy.metric("regproxy_store_ok") == 1, "the gauge says so")


def test_others_fill_it(disk: Path, origin: Origin, start_proxy: StartProxy, stack: ExitStack) -> None:
    """No more goes than is needed, whoever holds it open, though the index can't be written meanwhile."""
    proxy = start_proxy(
        origin, REGPROXY_CACHE_DIR=str(disk / "cache"), REGPROXY_WORKERS="2", REGPROXY_MIN_FREE="500k"
    )
    proxy.cache_dir = disk / "cache"
    pair = Pair(proxy, origin.authority)
    clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
    blobs = [Cold(origin, 300_000) for _ in range(12)]
    for blob in blobs:
        assert all(blob.arrived(client.get(blob.path)) for client in clients)
    proxy.wait_kept(*(blob.digest for blob in blobs))
    ballast = fill_up(disk)
    wait_until(lambda: free(disk) >= 500_000, "there is room again")
    assert 4 <= len(proxy.blobs()) < 12
    wait_until(lambda: proxy.metric("regproxy_evicted_objects_total", reason="free") > 0, "it is counted")
    wait_until(lambda: proxy.metric("regproxy_cache_objects") == len(proxy.blobs()), "the index agrees")
    ballast.unlink()
    for blob in blobs:
        assert all(blob.arrived(client.get(blob.path)) for client in clients)
    proxy.wait_kept(*(blob.digest for blob in blobs))


def test_downloads_that_do_not_fit_together(
    origin: Origin, start_proxy: StartProxy, stack: ExitStack
) -> None:
    """What there is no room for beside those under way is passed on."""
    proxy = start_proxy(origin, REGPROXY_WORKERS="2", REGPROXY_MIN_FREE="0", CACHE_MAX_SIZE="8m")
    go = threading.Event()
    blobs = [Cold(origin, 3_000_000, hold_at=2_000_000, hold=go) for _ in range(5)]
    clients = [stack.enter_context(proxy.client(origin.authority)) for _ in blobs]
    for client, blob in zip(clients, blobs, strict=True):
        client.ask("GET", blob.path)
        assert client.read_head().status == 200
        assert client.read(1_000_000) == blob.body[:1_000_000]
    go.set()
    for client, blob in zip(clients, blobs, strict=True):
        assert client.read(2_000_000) == blob.body[1_000_000:]
    wait_until(lambda: proxy.metric("regproxy_fills_active") == 0, "all is done")
    assert len(proxy.blobs()) == 2
    assert proxy.metric("regproxy_store_failures_total") == 0


def test_ranges_of_what_is_not_stored(proxy: Proxy, origin: Origin, disk: Path) -> None:
    fill_up(disk)
    blob = Cold(origin, 3_000_000)
    with proxy.client(origin.authority) as client:
        reply = client.get(blob.path, [("Range", "bytes=1000000-2000000")])
    assert (reply.status, reply.body) == (206, blob.body[1_000_000:2_000_001])


def test_the_directory_is_removed(pair: Pair, proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
    """And made anew; the index too."""
    clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
    first = Cold(origin, 500_000)
    assert all(first.arrived(client.get(first.path)) for client in clients)
    proxy.wait_kept(first.digest)
    place = Path(proxy.cache_dir)
    for child in place.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    place.rmdir()
    second = Cold(origin, 500_000)
    for client in clients:
        assert second.arrived(client.get(second.path))
    proxy.wait_kept(second.digest)
    image = make_image(size=1000, layers=1, seed=next(SEEDS))
    path = "/v2/app/manifests/v1.2.3"
    origin.on(path, manifest_answer(image))
    for client in clients:
        assert client.get(path, BOTH).body == image.manifest
    wait_until(lambda: (place / "index.sqlite3").exists(), "the index is made anew")


def test_what_is_larger_than_the_whole_cache(
    origin: Origin, start_proxy: StartProxy, stack: ExitStack
) -> None:
    """It is passed on, and nothing has to go for it."""
    proxy = start_proxy(origin, REGPROXY_WORKERS="2", REGPROXY_MIN_FREE="0", CACHE_MAX_SIZE="4m")
    pair = Pair(proxy, origin.authority)
    clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
    held, huge = Cold(origin, 1_000_000), Cold(origin, 5_000_000)
    assert held.arrived(clients[0].get(held.path))
    proxy.wait_kept(held.digest)
    assert all(huge.arrived(reply) for reply in get_all(clients, huge))
    assert proxy.blobs().keys() == {held.digest}
    assert proxy.metric("regproxy_evicted_objects_total") == 0
    assert proxy.metric("regproxy_store_failures_total") == 0
    assert proxy.parts() == []


@pytest.mark.parametrize("error", ["EIO", "EDQUOT", "EROFS"])
def test_writes_fail(error: str, pair: Pair, proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
    """As broken disks, quotas and file systems that have turned read-only answer a write."""
    filling, following = pair.pids()
    go = threading.Event()
    blob = Cold(origin, LARGE // 2, hold_at=1_000_000, hold=go)
    one, two = (stack.enter_context(pair.client(pid)) for pid in (filling, following))
    for client in (one, two):
        client.ask("GET", blob.path)
        assert client.read_head().status == 200
    with injected(proxy, filling, error, proxy.cache_dir / "parts" / f"{blob.digest[7:]}.part"):
        go.set()
        assert one.read(len(blob.body)) == blob.body
    assert two.read(len(blob.body)) == blob.body
    assert failures(proxy, error) >= 1
    assert f"({error})" in proxy.log()
    later = Cold(origin, 500_000)
    assert later.arrived(one.get(later.path))
    proxy.wait_kept(later.digest)


@contextlib.contextmanager
def injected(proxy: Proxy, pid: int, error: str, path: Path) -> Iterator[None]:
    """Let every pwrite of the process to this file fail."""
    where = proxy.directory / "strace"
    words = ["strace", "-f", "-p", str(pid), "-P", str(path), "-e", "trace=pwrite64"]
    words += ["-e", f"inject=pwrite64:error={error}"]
    daemon = Daemon("strace", words, directory=where)
    wait_until(lambda: "attached" in daemon.err.read_text(), "strace is attached")
    try:
        yield
    finally:
        daemon.send(signal.SIGINT)
        daemon.wait(10)


def test_the_file_system_turns_read_only(
    origin: Origin, start_proxy: StartProxy, tmp_path: Path, stack: ExitStack
) -> None:
    """What is held is served, what is not is relayed, and neither needs the index."""
    disk = stack.enter_context(fragile_disk(tmp_path / "disk", 40_000_000))
    with two_workers(start_proxy, origin, disk / "cache") as proxy:
        pair = Pair(proxy, origin.authority)
        clients = [stack.enter_context(pair.client(pid)) for pid in pair.pids()]
        held = Cold(origin, 500_000)
        assert all(held.arrived(client.get(held.path)) for client in clients)
        proxy.wait_kept(held.digest)
        break_disk(disk)
        for client in clients:
            new = Cold(origin, 500_000)
            assert held.arrived(client.get(held.path))
            assert new.arrived(client.get(new.path))
        assert failures(proxy, "EROFS") >= 1
        # It can't be made writable again: another one takes its place.
        stack.enter_context(small_disk(disk, DISK))
        after = Cold(origin, 500_000)
        assert after.arrived(clients[0].get(after.path))
        proxy.wait_kept(after.digest)
        path = "/v2/app/manifests/v1.2.3"
        image = make_image(size=1000, layers=1, seed=next(SEEDS))
        origin.on(path, manifest_answer(image))
        for client in clients:
            assert client.get(path, BOTH).body == image.manifest
        assert proxy.stop() == 0
