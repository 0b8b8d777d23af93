"""Killed in the middle of a download: what is on the disk is not asked for again, and the rest is right."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from regproxy.dataplane.block_map import Extents
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Origin, blob_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy

MIB = 1 << 20
BLOCK = 65_536  # what the map of a part knows
LINEAR, SCATTERED = 3 * MIB, 20 * MIB
STREAMS = 4
RATE = 6_000_000.0  # bytes/s, of all streams together: slow enough for them to be more than one
PIECE = int(RATE / 50)  # what the origin sends at a time

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]


@pytest.fixture
def origin(start_origin: StartOrigin) -> Origin:
    return start_origin("reg.test", rate=RATE)


@pytest.mark.parametrize("who", ["proxy", "worker"])
@pytest.mark.parametrize("size", [LINEAR, SCATTERED], ids=["linear", "scattered"])
def test_only_what_is_lacking_is_asked_for(
    size: int, who: str, origin: Origin, start_proxy: StartProxy, stack: ExitStack
) -> None:
    body = random.Random(f"killed-{size}-{who}").randbytes(size)
    digest = digest_of(body)
    path = f"/v2/app/blobs/{digest}"
    origin.on(path, blob_answer(digest, body))
    env = {"REGPROXY_FILL_STREAMS": str(STREAMS)}
    proxy = start_proxy(origin, **env)
    part = proxy.cache_dir / "parts" / f"{digest[7:]}.part"
    client = stack.enter_context(proxy.client(origin.authority))
    reader = threading.Thread(target=get, args=(client, path))
    reader.start()
    streams = 1 if size == LINEAR else STREAMS
    wait_until(lambda: written(part) >= size // 2, "half of it is there")
    wait_until(lambda: len(lacking(part, size)) >= min(streams, 2), "it grows in several places")
    proxy = kill(proxy, who, lambda: start_proxy(origin, at=proxy.directory, **env))
    reader.join(20)
    origin.wait_idle()
    holes = lacking(part, size)
    assert 0 < sum(stop - start for start, stop in holes) < size
    assert_true(part, body, holes)
    origin.requests.clear()

    reply = stack.enter_context(proxy.client(origin.authority)).get(path)
    assert (reply.status, reply.complete, reply.digest) == (200, True, digest)
    proxy.wait_kept(digest)
    assert proxy.parts() == []
    for seen in origin.requests:
        first, _, last = (seen.get("range") or "").removeprefix("bytes=").partition("-")
        assert any(start <= int(first) and int(last or size - 1) < stop for start, stop in holes), (
            seen,
            holes,
        )
        assert seen.get("if-range") in (f'"{digest}"', None)
    spare = len(origin.requests) * (BLOCK + PIECE)
    assert sum(seen.sent for seen in origin.requests) <= sum(stop - start for start, stop in holes) + spare


def get(client: Client, path: str) -> None:
    with contextlib.suppress(OSError):
        client.get(path)


def kill(proxy: Proxy, who: str, again: Callable[[], Proxy]) -> Proxy:
    """SIGKILL the proxy, or its one worker, and return the one that is there then."""
    if who == "proxy":
        proxy.kill()
        return again()
    (worker,) = proxy.workers(1)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: proxy.workers() not in ([], [worker]), "another worker is ready")
    return proxy


def written(part: Path) -> int:
    """Bytes on the disk, wherever in the part they are."""
    with contextlib.suppress(OSError):
        return part.stat().st_blocks * 512
    return 0


def lacking(part: Path, size: int) -> list[tuple[int, int]]:
    """What is not there, as the part itself says."""
    status = part.stat()
    if size == LINEAR:
        return [(status.st_size, size)]
    extents = Extents(size, os.open(part.with_suffix(".map"), os.O_RDWR | os.O_CLOEXEC))
    assert extents.load(status.st_dev, status.st_ino)
    holes, at = [], 0
    while (hole := extents.hole(at))[0] < size:
        holes.append(hole)
        at = hole[1]
    return holes


def assert_true(part: Path, body: bytes, holes: list[tuple[int, int]]) -> None:
    """Assert that what is said to be there is, and right."""
    have, at = part.read_bytes(), 0
    for start, stop in [*holes, (len(body), len(body))]:
        assert have[at:start] == body[at:start]
        at = stop
