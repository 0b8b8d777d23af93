"""A disk that takes no more: what has been written stays readable, the rest goes through memory, bounded."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import random
import socket
from pathlib import Path

import pytest

from regproxy.cache.parts import memory_part
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.sources import FileSource
from tests.support.plane import LIMIT, Plane, Run, Told, nothing, plane, run

__all__ = ["plane", "run"]  # fixtures

WINDOW = 16 * 1024 * 1024
HOLD_BACK = 16_384
DATA = random.Random("spill").randbytes(WINDOW // 8) * 24  # three windows


def growth_on(plane: Plane, size: int) -> GrowingFile:
    """A growth whose file takes `size` bytes and no more: a sealed memfd, where more is EPERM."""
    fd = os.memfd_create("disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return GrowingFile(File(fd, -1, plane.loop))


class Origin:
    """A stream that a growth receives from; `sent` is what it has taken so far."""

    def __init__(self, plane: Plane, growth: GrowingFile, data: bytes) -> None:
        self.stream, self.told, self._far = plane.stream()
        growth.expect(len(data))
        self.stream.receive(growth, "length", len(data), LIMIT)
        self.task = plane.loop.create_task(plane.loop.sock_sendall(self._far, data))

    async def over(self) -> tuple[bool, str]:
        name, complete, reason = await self.told.next()
        assert name == "body"
        self.stream.abort()
        if complete:
            await self.task
        else:
            self.task.cancel()
        return complete, reason


def reader(
    plane: Plane, growth: GrowingFile, start: int = 0, stop: int = len(DATA)
) -> tuple[socket.socket, Told]:
    stream, told, far = plane.stream()
    stream.send(b"", b"", FileSource(growth.file, start, stop, growth))
    return far, told


async def grown(plane: Plane, growth: GrowingFile, size: int) -> None:
    async with asyncio.timeout(LIMIT):
        while growth.written < size:
            await plane.turns(1)


@pytest.mark.parametrize("room", [0, 1, 100_000, WINDOW + 5, len(DATA) - 1])
def test_readers_get_all_of_it(room: int, plane: Plane, run: Run) -> None:
    async def test() -> None:
        growth = growth_on(plane, room)
        told = []
        growth.on_spill = lambda: told.append(growth.disk_errno)
        readers = [reader(plane, growth) for _ in range(3)]
        origin = Origin(plane, growth, DATA)
        reading = [plane.loop.create_task(plane.read(far, len(DATA))) for far, _ in readers]
        assert await origin.over() == (True, "")
        assert told == [errno.EPERM]
        assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()
        assert growth.disk_end == (0 if room <= WINDOW else growth.disk_end)
        assert growth.floor > WINDOW  # what all have read is given back
        growth.finish()
        for data in await asyncio.gather(*reading):
            assert data == DATA

    run(test())


def test_the_slowest_reader_holds_the_origin(plane: Plane, run: Run) -> None:
    async def test() -> None:
        growth = growth_on(plane, 0)
        (slow, _), (fast, _) = reader(plane, growth), reader(plane, growth)
        origin = Origin(plane, growth, DATA)
        going = plane.loop.create_task(plane.read(fast, len(DATA)))
        await grown(plane, growth, WINDOW)
        await plane.turns(20)
        held = growth.written
        assert WINDOW <= held < WINDOW + 2_000_000
        memory = os.fstat(growth.memory.fd).st_blocks * 512  # type: ignore[union-attr]
        assert memory <= WINDOW + 2_000_000
        begun = await plane.read(slow, WINDOW)
        await grown(plane, growth, held + 1)
        rest = plane.loop.create_task(plane.read(slow, len(DATA) - WINDOW))
        assert await origin.over() == (True, "")
        growth.finish()
        assert begun + await rest == DATA
        assert await going == DATA
        assert os.fstat(growth.memory.fd).st_blocks * 512 <= WINDOW + 2_000_000  # type: ignore[union-attr]

    run(test())


def test_who_hardly_moves_does_not_hold_the_others(plane: Plane, run: Run) -> None:
    """After a while it is given up, and cut; who takes his share is not."""

    async def test() -> None:
        growth = growth_on(plane, 100)
        (stuck, told), (fast, _) = reader(plane, growth), reader(plane, growth)
        origin = Origin(plane, growth, DATA)
        going = plane.loop.create_task(plane.read(fast, len(DATA)))
        assert await origin.over() == (True, "")
        growth.finish()
        assert await going == DATA
        while told.quiet:
            if not nothing(stuck):
                stuck.recv(65_536)
            await plane.turns(1)
        assert await told.next() == ("source_failed", "the bytes are not in memory any more")

    run(test())


def test_what_is_too_large_is_not_stored(plane: Plane, run: Run, tmp_path: Path) -> None:
    """Also where its length was not known when it began."""

    async def test() -> None:
        growth = plane.growth(tmp_path / "part")
        growth.largest = 1_000_000
        far, _ = reader(plane, growth, 0, 5_000_000)
        origin = Origin(plane, growth, DATA[:5_000_000])
        going = plane.loop.create_task(plane.read(far, 5_000_000))
        assert await origin.over() == (True, "")
        assert growth.disk_errno == errno.EFBIG
        assert (tmp_path / "part").stat().st_size <= 1_000_000
        growth.finish()
        assert await going == DATA[:5_000_000]

    run(test())


def test_a_slow_reader_that_leaves_lets_it_go_on(plane: Plane, run: Run) -> None:
    async def test() -> None:
        growth = growth_on(plane, 0)
        stream, _, _slow = plane.stream()
        stream.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
        fast, _ = reader(plane, growth)
        origin = Origin(plane, growth, DATA)
        going = plane.loop.create_task(plane.read(fast, len(DATA)))
        await grown(plane, growth, WINDOW)
        await plane.turns(20)
        stream.abort()
        assert await origin.over() == (True, "")
        growth.finish()
        assert await going == DATA

    run(test())


def test_without_readers_it_ends(plane: Plane, run: Run) -> None:
    async def test() -> None:
        growth = growth_on(plane, 0)
        stream, _, _far = plane.stream()
        stream.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
        origin = Origin(plane, growth, DATA)
        await grown(plane, growth, WINDOW)
        await plane.turns(20)
        stream.abort()
        complete, reason = await origin.over()
        assert (complete, reason) == (
            False,
            "not stored (Operation not permitted), and nobody reads it any more",
        )

    run(test())


def test_a_short_body_needs_no_reader(plane: Plane, run: Run) -> None:
    async def test() -> None:
        growth = growth_on(plane, 1000)
        data = DATA[: WINDOW - 1]
        origin = Origin(plane, growth, data)
        assert await origin.over() == (True, "")
        growth.finish()
        assert growth.whole
        late, _ = reader(plane, growth, 5, len(data))
        assert await plane.read(late, len(data) - 5) == data[5:]

    run(test())


def test_who_comes_late_to_a_long_body_is_not_given_half_of_it(plane: Plane, run: Run) -> None:
    async def test() -> None:
        growth = growth_on(plane, WINDOW + 5)
        first, _ = reader(plane, growth)
        origin = Origin(plane, growth, DATA)
        going = plane.loop.create_task(plane.read(first, len(DATA)))
        assert await origin.over() == (True, "")
        assert not growth.whole
        growth.finish()
        assert await going == DATA
        late, told = reader(plane, growth)
        data = await plane.read(late, growth.disk_end)
        assert data == DATA[: growth.disk_end]
        assert await told.next() == ("source_failed", "the bytes are not in memory any more")
        assert nothing(late)

    run(test())


def test_memory_from_the_start(plane: Plane, run: Run) -> None:
    async def test() -> None:
        part = memory_part(0, NO_SPACE, plane.loop)
        growth = part.growth
        far, _ = reader(plane, growth, 0, 5_000_000)
        origin = Origin(plane, growth, DATA[:5_000_000])
        going = plane.loop.create_task(plane.read(far, 5_000_000))
        assert await origin.over() == (True, "")
        assert (growth.disk_errno, growth.disk_end, growth.whole) == (NO_SPACE, 0, True)
        growth.finish()
        assert await going == DATA[:5_000_000]

    run(test())


NO_SPACE = errno.ENOSPC


class TestWhatAnotherProcessWrote:
    """A part that is taken over: the bytes that are there are hashed, and the body goes on behind them."""

    @pytest.mark.parametrize("there", [1, 1_048_576, 3_000_000])
    def test_is_hashed_and_gone_on_with(self, there: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        data = DATA[:4_000_000]

        async def test() -> None:
            path = tmp_path / "part"
            path.write_bytes(data[:there])
            growth = plane.growth(path)
            growth.follow(there)
            with pytest.raises(ValueError, match="catch_up"):
                growth.hexdigest()
            await plane.loop.run_in_executor(None, growth.catch_up)
            await plane.write(growth, data[there:])
            assert growth.hexdigest() == hashlib.sha256(data).hexdigest()
            assert path.read_bytes() == data

        run(test())

    def test_an_origin_that_sends_all_of_it_again(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        data = DATA[:4_000_000]

        async def test() -> None:
            path = tmp_path / "part"
            path.write_bytes(data[:1_500_000])
            growth = plane.growth(path)
            growth.follow(1_500_000)
            await plane.loop.run_in_executor(None, growth.catch_up)
            growth.pass_over(1_500_000)
            await plane.write(growth, data)
            assert growth.hexdigest() == hashlib.sha256(data).hexdigest()
            assert path.read_bytes() == data

        run(test())

    def test_that_can_not_be_read(self, plane: Plane, tmp_path: Path) -> None:
        path = tmp_path / "part"
        path.write_bytes(b"short")
        growth = plane.growth(path)
        growth.follow(6)
        with pytest.raises(OSError, match="Input/output error"):
            growth.catch_up()
