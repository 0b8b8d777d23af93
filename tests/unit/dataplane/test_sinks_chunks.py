"""Chunked bodies as they come in: whatever their pieces, small ones go on together, and all in order."""

from __future__ import annotations

import asyncio
import random
import re
import socket

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regproxy.dataplane.body import Sink
from regproxy.dataplane.sinks import BytesSink, StreamSink
from regproxy.dataplane.sources import FileSource
from tests.support.plane import DATA, LIMIT, Plane, Run, dechunked, plane, run

__all__ = ["plane", "run"]  # fixtures

SIZES = st.lists(st.one_of(st.integers(1, 20), st.integers(1, 9000), st.sampled_from([4095, 4096, 4097])))
CUTS = st.lists(st.integers(1, 3000), max_size=20)


def chunked(sizes: list[int], extension: bytes = b"", trailer: bytes = b"") -> tuple[bytes, bytes]:
    """A body of chunks of these sizes, and what it says."""
    parts, at = [], 0
    for size in sizes:
        parts.append(b"%x%b\r\n%b\r\n" % (size, extension, DATA[at : at + size]))
        at += size
    return b"".join([*parts, b"0\r\n", trailer, b"\r\n"]), DATA[:at]


async def receive(plane: Plane, sink: Sink, body: bytes, cuts: list[int]) -> tuple[bool, str]:
    """Have the sink receive this, in pieces of these sizes and then the rest; how it ended."""
    stream, told, far = plane.stream()
    stream.receive(sink, "chunked", 0, LIMIT)
    at = 0
    for size in (*cuts, len(body)):
        await plane.loop.sock_sendall(far, body[at : at + size])
        at += size
        if told.quiet:
            await asyncio.sleep(0)
    name, complete, reason = await told.next()
    assert name == "body"
    stream.abort()
    return complete, reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=SIZES,
    cuts=CUTS,
    extension=st.sampled_from([b"", b";a=b", b"  ;x"]),
    trailer=st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]),
)
@example(sizes=[1, 5000, 1, 1, 4096, 4097, 3], cuts=[], extension=b"", trailer=b"")
def test_any_chunks(
    sizes: list[int], cuts: list[int], extension: bytes, trailer: bytes, plane: Plane, run: Run
) -> None:
    async def test() -> None:
        body, want = chunked(sizes, extension, trailer)
        sink = BytesSink(len(want))
        assert await receive(plane, sink, body, cuts) == (True, "")
        assert sink.data == want

    run(test())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES.filter(bool), cuts=CUTS, at=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_a_byte_that_is_wrong(
    sizes: list[int], cuts: list[int], at: int, byte: int, plane: Plane, run: Run
) -> None:
    """What came ahead of it has gone on; what it says is wrong is named."""

    async def test() -> None:
        body, want = chunked(sizes)
        # Of a chunk's framing: another digit makes another length, which shows at its end, or not at all.
        heads = [m.start() for m in re.finditer(rb"\r\n", body)]
        place = heads[at % len(heads)]
        sent = body[:place] + bytes([byte]) + body[place + 1 :]
        sink = BytesSink(len(body))
        stream, told, far = plane.stream()
        stream.receive(sink, "chunked", 0, LIMIT)
        await plane.loop.sock_sendall(far, sent)
        far.shutdown(socket.SHUT_WR)
        _, complete, reason = await told.next()
        stream.abort()
        if complete:
            return
        assert reason == "cut before the last chunk" or reason.startswith("malformed chunked body: ")
        sure = _sure(sizes, place)
        assert sink.data[:sure] == want[:sure]

    run(test())


def _sure(sizes: list[int], place: int) -> int:
    """How many bytes of content lie in whole chunks ahead of a place in the body."""
    at = content = 0
    for size in sizes:
        at += len(b"%x" % size) + 2 + size + 2
        if at > place:
            break
        content += size
    return content


@pytest.mark.parametrize("count", [1000, 200_000])
def test_small_ones_go_on_together(count: int, plane: Plane, run: Run) -> None:
    """A record, a write and a system call for what was read at once, not for each byte."""

    async def test() -> None:
        body, want = chunked([1] * count)
        target, _, far = plane.stream()
        reading = plane.loop.create_task(plane.read(far, 1 << 40))
        assert await receive(plane, StreamSink(target, True), body, []) == (True, "")
        target.end_chunks()
        target.close()
        relayed = await reading
        assert dechunked(relayed) == want
        # Reads are as large as the kernel's buffer, of which there may be less than asked for.
        assert relayed.count(b"\r\n") < count / 20

    run(test())


def test_large_ones_among_them(plane: Plane, run: Run) -> None:
    async def test() -> None:
        sizes = [1, 1, 50_000, 1, 4096, 4097, 1, 60_000, 2] * 3
        body, want = chunked(sizes)
        sink = BytesSink(len(want))
        assert await receive(plane, sink, body, []) == (True, "")
        assert sink.data == want

    run(test())


def test_to_a_slow_receiver(plane: Plane, run: Run) -> None:
    """It holds the sender back; nothing of what was read meanwhile is lost, or comes twice."""

    async def test() -> None:
        sizes = random.Random(3).choices([1, 7, 5000, 30_000], k=60)
        body, want = chunked(sizes)
        source, told, far_source = plane.stream()
        target, _, far = plane.stream(buffer=4096)
        source.receive(StreamSink(target), "chunked", 0, LIMIT)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, body))
        assert await plane.read(far, len(want)) == want
        await sending
        assert await told.next() == ("body", True, "")
        source.abort()
        target.abort()

    run(test())


def test_to_a_part_and_its_readers(plane: Plane, run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def test() -> None:
        body, want = chunked([1] * 100_000)
        growth = plane.growth(tmp_path_factory.mktemp("growth") / "part")
        stream, _, far = plane.stream()
        stream.send(b"", b"", FileSource(growth.file, 0, -1, growth), True)
        reading = plane.loop.create_task(plane.read(far, 1 << 40))
        assert await receive(plane, growth, body, []) == (True, "")
        growth.finish()
        await plane.turns()
        while stream.plain_sent < len(want):
            await plane.turns(1)
        stream.close()
        seen = await reading
        assert dechunked(seen) == want
        assert seen.count(b"\r\n") < 1000

    run(test())


def test_a_negative_length(plane: Plane) -> None:
    stream, _, _ = plane.stream()
    with pytest.raises(ValueError, match="can't have -1 bytes"):
        stream.receive(BytesSink(10), "length", -1, LIMIT)
    stream.abort()
