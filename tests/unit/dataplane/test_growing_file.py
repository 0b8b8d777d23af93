"""A file that grows, and its readers."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from regproxy.dataplane.sources import FileSource
from tests.support.plane import DATA, Plane, Run, nothing, plane, run

__all__ = ["plane", "run"]  # fixtures

HOLD_BACK = 16_384  # bytes at the end that wait for the digest


class TestGrowth:
    """What arrives is on disk and hashed; readers have all but its end until it has matched."""

    @pytest.mark.parametrize("size", [0, 1, HOLD_BACK, 100_000, len(DATA)])
    def test_written_and_hashed(self, size: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            for start in range(0, size, 300_000):
                await plane.write(growth, DATA[start : min(size, start + 300_000)])
            assert growth.written == size
            assert growth.hexdigest() == hashlib.sha256(DATA[:size]).hexdigest()
            assert (tmp_path / "part").read_bytes() == DATA[:size]
            assert (growth.done, growth.failed) == (False, False)
            growth.finish()
            assert (growth.done, growth.total) == (True, size)

        run(test())

    @pytest.mark.parametrize("size, fits", [(9_999, True), (10_000, True), (10_001, False), (500_000, False)])
    def test_limit(self, size: int, fits: bool, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part", 10_000)
            reason = await plane.write(growth, DATA[:size], complete=fits)
            assert reason == ("" if fits else "the body is larger than 10000 bytes")
            assert growth.written <= 10_000

        run(test())

    def test_a_full_disk(self, plane: Plane, run: Run) -> None:
        async def test() -> None:
            growth = plane.growth(Path("/dev/full"))
            await plane.write(growth, DATA[:1000])
            assert growth.disk_errno == errno.ENOSPC
            assert growth.hexdigest() == hashlib.sha256(DATA[:1000]).hexdigest()

        run(test())

    @pytest.mark.parametrize("total", [len(DATA), -1])
    def test_the_end_waits_for_finish(self, total: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(total)
            stream, told, far = plane.stream()
            assert not stream.send(b"head", b"", FileSource(growth.file, 0, total, growth), chunked=total < 0)
            assert await plane.read(far, 4) == b"head"
            assert growth.waiting == 1
            await plane.write(growth, DATA)
            if total >= 0:
                assert await plane.read(far, len(DATA) - HOLD_BACK) == DATA[:-HOLD_BACK]
            else:
                assert (
                    b"".join([part async for part in chunks(plane, far, waiting=True)]) == DATA[:-HOLD_BACK]
                )
            await plane.turns()
            assert nothing(far)
            assert told.quiet
            growth.finish()
            if total >= 0:
                assert await plane.read(far, HOLD_BACK) == DATA[-HOLD_BACK:]
            else:
                assert b"".join([part async for part in chunks(plane, far)]) == DATA[-HOLD_BACK:]
            assert await told.next() == ("sent",)

        run(test())

    @pytest.mark.parametrize("readers", [1, 2, 3, 20])
    def test_readers_of_any_part(self, readers: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        spans = [(0, len(DATA)), (100, 101), (5, 300_000), (650_000, len(DATA)), (0, 1)]

        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(len(DATA))
            ends = []
            for number in range(readers):
                start, stop = spans[number % len(spans)]
                stream, told, far = plane.stream()
                stream.send(b"", b"", FileSource(growth.file, start, stop, growth))
                ends.append((start, stop, told, plane.loop.create_task(plane.read(far, stop - start))))
            for at in range(0, len(DATA), 70_000):
                await plane.write(growth, DATA[at : at + 70_000])
            growth.finish()
            for start, stop, told, reading in ends:
                assert await reading == DATA[start:stop]
                assert await told.next() == ("sent",)
            assert growth.waiting == 0

        run(test())

    def test_a_part_that_is_there_need_not_wait(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(len(DATA))
            await plane.write(growth, DATA[:200_000])
            stream, _, far = plane.stream()
            stream.send(b"", b"", FileSource(growth.file, 1000, 150_000, growth))
            assert await plane.read(far, 149_000) == DATA[1000:150_000]
            assert growth.waiting == 0

        run(test())

    def test_failure(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(len(DATA))
            stream, told, far = plane.stream()
            stream.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
            await plane.write(growth, DATA)
            await plane.read(far, len(DATA) - HOLD_BACK)
            growth.fail("it is not the digest")
            assert await told.next() == ("source_failed", "it is not the digest")
            await plane.turns()
            assert nothing(far)
            assert growth.failed
            late, told, _ = plane.stream()
            late.send(b"", b"", FileSource(growth.file, 0, 10, growth))
            assert await told.next() == ("source_failed", "it is not the digest")

        run(test())

    def test_shorter_than_was_said(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(len(DATA))
            stream, told, far = plane.stream()
            stream.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
            await plane.write(growth, DATA[:-1])
            growth.finish()
            reading = plane.loop.create_task(plane.read(far, len(DATA)))
            assert await told.next() == ("source_failed", "the file is shorter than it should be")
            stream.abort()
            assert len(await reading) < len(DATA)

        run(test())

    @pytest.mark.parametrize("readers", [1, 5])
    def test_readers_that_leave(self, readers: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(len(DATA))
            left = []
            for number in range(readers):
                stream, told, far = plane.stream()
                stream.send(b"head", b"", FileSource(growth.file, 0, len(DATA), growth))
                if number % 2:
                    stream.abort()
                else:
                    far.close()
                    left.append(told)
            await plane.write(growth, DATA)
            growth.finish()
            for told in left:
                assert (await told.next())[0] == "closed"
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()

        run(test())

    def test_a_slow_reader_holds_neither_origin_nor_others(
        self, plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(len(DATA))
            slow, slow_told, slow_far = plane.stream(buffer=4096)
            slow.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
            quick, told, far = plane.stream()
            quick.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
            reading = plane.loop.create_task(plane.read(far, len(DATA)))
            await plane.write(growth, DATA)
            growth.finish()
            assert await reading == DATA
            assert await told.next() == ("sent",)
            assert slow_told.quiet
            assert await plane.read(slow_far, len(DATA)) == DATA
            assert await slow_told.next() == ("sent",)

        run(test())


async def chunks(plane: Plane, far: socket.socket, *, waiting: bool = False) -> AsyncIterator[bytes]:
    """The data of chunks: up to the last one, or with `waiting` as long as there is more."""
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            line += await plane.read(far, 1)
        size = int(line, 16)
        yield await plane.read(far, size)
        assert await plane.read(far, 2) == b"\r\n"
        await plane.turns(2)
        if size == 0 or (waiting and nothing(far)):
            return
