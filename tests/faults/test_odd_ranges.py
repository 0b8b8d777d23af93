"""Origins whose ranges are odd: shorter than asked for, cut within a block, changed, refused, another's."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from tests.support.client import Client, Reply
from tests.support.cold_blobs import MIB, Cold, forget, origin, span
from tests.support.origin import Answer, Origin, Seen
from tests.support.proxy import Proxy
from tests.support.two_workers import Pair

__all__ = ["forget", "origin"]  # fixtures

Start = Callable[..., Proxy]
Talk = Callable[[Proxy, Origin], Client]


def part_of(blob: Cold, start: int, stop: int, **faults: object) -> Answer:
    fields = {"Content-Range": f"bytes {start}-{stop - 1}/{len(blob.body)}"}
    return Answer(blob.body[start:stop], 206, fields, **faults)  # type: ignore[arg-type]


def closed(seen: Seen) -> bool:
    return not (seen.get("Range") or "-").endswith("-")


@pytest.mark.parametrize("cap", [3_000_000, 100_000])
def test_shorter_than_asked_for(cap: int, origin: Origin, start_proxy: Start, talk: Talk) -> None:
    """They end within a block: what is behind them in it is nobody's to count as there."""

    def script(blob: Cold, seen: Seen) -> Answer:
        if seen.get("Range") is None:
            return blob.answer()
        start, stop = span(blob, seen)
        return part_of(blob, start, min(stop, start + cap) if closed(seen) else stop, rate=20e6)

    blob = Cold(origin, 16 * MIB, script)
    reply = talk(start_proxy(origin), origin).get(blob.path, {"Range": "bytes=0-"})
    assert reply.body == blob.body


def test_less_than_a_block(origin: Origin, start_proxy: Start, talk: Talk) -> None:
    """They would never complete one: all of it is asked for instead."""

    def script(blob: Cold, seen: Seen) -> Answer:
        if seen.get("Range") is None:
            return blob.answer()
        start, stop = span(blob, seen)
        return part_of(blob, start, min(stop, start + 32_768) if closed(seen) else stop)

    blob = Cold(origin, 32 * MIB, script)
    start = 16 * MIB
    asked = {"Range": f"bytes={start}-{start + MIB - 1}"}
    assert talk(start_proxy(origin), origin).get(blob.path, asked).body == blob.body[start : start + MIB]
    assert len(blob.requests) < 10


def test_wrong_bytes_within_a_block_that_broke(origin: Origin, start_proxy: Start, talk: Talk) -> None:
    """They are fetched again, right; whoever read ahead has not been given the first ones."""
    start, wrong = 16 * MIB, threading.Event()

    def script(blob: Cold, seen: Seen) -> Answer:
        if seen.get("Range") is None:
            return blob.answer()
        first, stop = span(blob, seen)
        if first != start or wrong.is_set():
            return part_of(blob, first, stop)
        wrong.set()
        body = blob.body[first : first + 65_536] + b"\0" * 34_464
        fields = {"Content-Range": f"bytes {first}-{stop - 1}/{len(blob.body)}"}
        return Answer(body + blob.body[first + 100_000 : stop], 206, fields, cut_at=100_000)

    blob = Cold(origin, 32 * MIB, script)
    proxy = start_proxy(origin)
    assert talk(proxy, origin).get(blob.path, {"Range": f"bytes={start}-"}).body == blob.body[start:]
    proxy.wait_kept(blob.digest)


def test_a_length_and_then_none(origin: Origin, start_proxy: Start, talk: Talk) -> None:
    def script(blob: Cold, seen: Seen) -> Answer:
        if len(blob.requests) <= 1:
            return blob.answer(cut_at=0)
        return blob.answer(framing="chunked", ranges=False)

    blob = Cold(origin, 32 * MIB, script)
    assert talk(start_proxy(origin), origin).get(blob.path).body == blob.body
    assert len(blob.requests) < 10


@pytest.mark.parametrize("then", ["200", "416"])
def test_left_and_then(then: str, origin: Origin, start_proxy: Start, talk: Talk) -> None:
    """A part that was left, of more than the cache has room for, goes on; in memory, as it has to."""
    broken = threading.Event()
    broken.set()

    def script(blob: Cold, seen: Seen) -> Answer:
        if broken.is_set():
            return Answer(cut_at=-1) if seen.get("Range") else blob.answer(cut_at=10 * MIB)
        return Answer(status=416) if then == "416" and seen.get("Range") else blob.answer(ranges=False)

    blob = Cold(origin, 30 * MIB, script)
    proxy = start_proxy(origin, CACHE_MAX_SIZE="64m", REGPROXY_RESUME_TIME="500ms")
    assert not talk(proxy, origin).get(blob.path).complete
    broken.clear()
    assert talk(proxy, origin).get(blob.path).body == blob.body


def test_left_by_another_registry(
    origin: Origin, start_origin: Callable[..., Origin], start_proxy: Start, talk: Talk
) -> None:
    """What it has sent is not what this one's clients are given."""
    other = start_origin("other.test")
    blob = Cold(origin, 32 * MIB)
    path = f"/v2/x/blobs/{blob.digest}"
    other.on(path, lambda seen: Answer(b"z" * 32 * MIB, cut_at=-1 if seen.get("Range") else 8 * MIB))
    proxy = start_proxy(origin, other, REGPROXY_RESUME_TIME="500ms")
    reply: Reply = talk(proxy, other).get(path)
    assert not reply.complete
    assert talk(proxy, origin).get(blob.path).body == blob.body


def test_killed_behind_the_head(origin: Origin, start_proxy: Start) -> None:
    """Nothing is there yet, but all is known: who follows goes on with it."""
    hold = threading.Event()

    def script(blob: Cold, seen: Seen) -> Answer:
        return blob.answer(hold_at=0, hold=hold) if len(blob.requests) <= 1 else blob.answer()

    proxy, blob = start_proxy(origin, REGPROXY_WORKERS="2"), Cold(origin, 32 * MIB, script)
    pair = Pair(proxy, origin.authority)
    first, second = pair.pids()
    with pair.client(first) as one, pair.client(second) as two:
        for client in (one, two):
            client.ask("GET", blob.path)
            assert client.read_head().status == 200
        os.kill(first, signal.SIGKILL)
        assert two.read(len(blob.body)) == blob.body
        hold.set()
