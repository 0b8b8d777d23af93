"""Bodies that the kernel moves from one stream to another."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from regproxy.dataplane import splice
from regproxy.dataplane.splice import SpliceSink
from regproxy.dataplane.stream import Stream
from tests.support import syscall_faults
from tests.support.plane import DATA, LIMIT, Plane, Run, nothing, plane, run

__all__ = ["plane", "run"]  # fixtures

PIPE = 524_288
SPARE = 8


async def held_back(plane: Plane, source: Stream) -> int:
    """Wait until nothing moves any more; how much has come."""
    moved = -1
    while moved != source.plain_received:
        moved = source.plain_received
        await plane.turns()
    return moved


@pytest.mark.parametrize("tcp", [False, True])
def test_relayed(tcp: bool, plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream(tcp=tcp)
        target, target_told, far_target = plane.stream(tcp=tcp)
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 10))
        assert await plane.read(far_target, len(DATA) * 10) == DATA * 10
        await sending
        assert source.plain_received == target.plain_sent == len(DATA) * 10
        assert plane.reactor.wire_bytes_in == plane.reactor.wire_bytes_out == len(DATA) * 10
        far_source.shutdown(socket.SHUT_WR)
        assert await told.next() == ("body", True, "")
        assert nothing(far_target)
        assert target_told.quiet

    run(test())


@pytest.mark.parametrize("early", [1, 20_000])
def test_what_was_read_or_waits_already_goes_first(early: int, plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream()
        target, _, far_target = plane.stream(buffer=4_608)
        head = b"GET / HTTP/1.1\r\n\r\n"
        await plane.loop.sock_sendall(far_source, head + DATA[:early])
        source.next_head(LIMIT, LIMIT)
        assert await told.next() == ("head", head)
        target.send(DATA[:100_000])
        assert target.waiting
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA[early:]))
        assert await plane.read(far_target, 100_000 + len(DATA)) == DATA[:100_000] + DATA
        await sending

    run(test())


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_what_is_framed_is_copied(framing: str, plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream()
        target, _, far_target = plane.stream()
        source.receive(SpliceSink(target), framing, 5, LIMIT)
        await plane.loop.sock_sendall(
            far_source, b"hello" if framing == "length" else b"5\r\nhello\r\n0\r\n\r\n"
        )
        assert await told.next() == ("body", True, "")
        await plane.loop.sock_sendall(far_source, b"more")
        await plane.turns()
        assert await plane.read(far_target, 5) == b"hello"
        assert nothing(far_target)

    run(test())


def test_a_slow_receiver_holds_the_sender_back(plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream()
        target, _, far_target = plane.stream(buffer=65_536)
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 10))
        moved = await held_back(plane, source)
        assert 0 < moved - target.plain_sent <= PIPE
        assert not sending.done()
        assert target.waiting == 0  # no memory of ours
        assert await plane.read(far_target, 10 * len(DATA)) == DATA * 10
        await sending
        far_source.close()
        assert await told.next() == ("body", True, "")

    run(test())


def test_the_end_of_a_sender_while_the_pipe_is_full(plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream(tcp=True)
        target, _, far_target = plane.stream(buffer=65_536)
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        source.shut_write()
        assert await plane.read(far_source, 1) == b""
        await plane.loop.sock_sendall(far_source, DATA)
        far_source.close()
        assert await held_back(plane, source) > target.plain_sent
        assert told.quiet
        assert await plane.read(far_target, len(DATA)) == DATA
        assert await told.next() == ("body", True, "")

    run(test())


@pytest.mark.parametrize("when", ["before", "while it is held"])
def test_a_receiver_that_leaves(when: str, plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream()
        target, target_told, far_target = plane.stream(buffer=65_536)
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 20))
        if when == "while it is held":
            await held_back(plane, source)
        far_target.close()
        assert (await target_told.next())[0] == "closed"
        assert await told.next() == ("body", False, "the receiver is gone")
        source.abort()
        with pytest.raises(OSError):
            await sending

    run(test())


@pytest.mark.parametrize("how", ["close", "send"])
def test_a_receiver_whose_handler_does_something_else(how: str, plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream()
        target, _, far_target = plane.stream(buffer=65_536)
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA))
        await held_back(plane, source)
        if how == "close":
            target.close()
        else:
            target.send(b"x")
            reading = plane.loop.create_task(plane.read(far_target, len(DATA)))
        assert await told.next() == ("body", False, "the receiver is gone")
        source.abort()
        target.abort()
        if how == "send":
            assert (await reading)[-1:] == b"x"
        with pytest.raises(OSError):
            await sending

    run(test())


def test_a_sender_that_resets(plane: Plane, run: Run) -> None:
    async def test() -> None:
        source, told, far_source = plane.stream(tcp=True)
        target, _, far_target = plane.stream(tcp=True)
        source.receive(SpliceSink(target), "eof", 0, LIMIT)
        await plane.loop.sock_sendall(far_source, b"x")
        assert await plane.read(far_target, 1) == b"x"
        far_source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far_source.close()
        assert await told.next() == ("closed", "Connection reset by peer")

    run(test())


def test_pipes_are_for_bytes(plane: Plane, run: Run) -> None:
    """Directions in which nothing waits have none, a few are kept between, and none in the end."""

    async def test() -> None:
        assert splice.live() == 0
        pairs = [(plane.stream(), plane.stream(buffer=65_536)) for _ in range(3 * SPARE)]
        for (source, _, _), (target, _, _) in pairs:
            source.receive(SpliceSink(target), "eof", 0, LIMIT)
        assert splice.live() == 0
        for (_, _, far_source), (_, _, far_target) in pairs:
            await plane.loop.sock_sendall(far_source, b"x")
            assert await plane.read(far_target, 1) == b"x"
        assert splice.live() == 1
        jobs = [plane.loop.create_task(plane.loop.sock_sendall(far, DATA)) for (_, _, far), _ in pairs]
        for (source, _, _), _ in pairs:
            await held_back(plane, source)
        assert splice.live() == len(pairs)
        for _, (_, _, far_target) in pairs:
            assert await plane.read(far_target, len(DATA)) == DATA
        await asyncio.gather(*jobs)
        assert splice.live() == SPARE
        for (source, _, _), (target, _, _) in pairs:
            source.abort()
            target.abort()
        assert splice.live() == 0

    run(test())


COPIES = """
import os
from pathlib import Path
from regproxy.dataplane.splice import SpliceSink, live
from tests.support.plane import DATA, LIMIT, Plane

plane = Plane()
Path(os.environ["KERNEL_FULL"]).touch()

async def test():
    source, told, far_source = plane.stream()
    target, _, far_target = plane.stream(buffer=65_536)
    source.receive(SpliceSink(target), "eof", 0, LIMIT)
    sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 5))
    await plane.turns()
    assert target.waiting > 0  # in memory of ours
    assert await plane.read(far_target, len(DATA) * 5) == DATA * 5
    await sending
    assert source.plain_received == target.plain_sent == len(DATA) * 5
    far_source.close()
    assert await told.next() == ("body", True, "")
    target.abort()
    assert live() == 0
    print("copied")
plane.loop.run_until_complete(test())
assert not plane.errors, plane.errors
"""


@pytest.mark.skipif(syscall_faults.MISSING is not None, reason=str(syscall_faults.MISSING))
@pytest.mark.parametrize("refused", ["splice in", "splice out", "pipes", "pipe sizes"])
def test_where_it_can_not_be_done_it_is_copied(refused: str, tmp_path: Path) -> None:
    said = syscall_faults.run_with(tmp_path, refused, COPIES, KERNEL_FULL=str(tmp_path / "full"))
    assert said == "copied\n"
