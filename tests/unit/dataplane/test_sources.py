"""Bodies in the data plane: a file that grows and its readers, files that are cold, stream to stream."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from regproxy.dataplane.file import File
from regproxy.dataplane.sinks import BytesSink, StreamSink
from regproxy.dataplane.sources import FileSource
from tests.support.plane import DATA, LIMIT, Plane, Run, dechunked, nothing, plane, run

__all__ = ["plane", "run"]  # fixtures

HOLD_BACK = 16_384  # bytes at the end that wait for the digest
SHM = Path("/dev/shm")


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


class TestFiles:
    """Files that are complete: warm, cold, on a file system that can't tell, and damaged."""

    @staticmethod
    def serve(plane: Plane, file: File, start: int, stop: int) -> Coroutine[Any, Any, bytes]:
        async def serve() -> bytes:
            stream, told, far = plane.stream()
            sent = stream.send(b"", b"", FileSource(file, start, stop))
            data = await plane.read(far, stop - start)
            if not sent:
                assert await told.next() == ("sent",)
            assert nothing(far)
            return data

        return serve()

    @pytest.mark.parametrize(
        "start, stop", [(0, len(DATA)), (0, 1), (5, 300_005), (len(DATA) - 1, len(DATA))]
    )
    def test_warm(self, start: int, stop: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(DATA)
        if not tells(path):
            pytest.skip("this file system has no RWF_NOWAIT")

        async def test() -> None:
            assert await self.serve(plane, plane.file(path), start, stop) == DATA[start:stop]
            assert plane.jobs == 0

        run(test())

    @pytest.mark.parametrize("start, stop", [(0, 5_000_000), (4_999_999, 5_000_000), (1_234_567, 3_456_789)])
    def test_cold(self, start: int, stop: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        """The pages are not in memory: threads read them, the loop never does."""
        data = DATA * 8
        files = []
        for name in ("blob", "probe"):  # a look at a file warms it
            path = tmp_path / name
            path.write_bytes(data)
            files.append(plane.file(path))
            os.fdatasync(files[-1].fd)
            os.posix_fadvise(files[-1].fd, 0, 0, os.POSIX_FADV_DONTNEED)
        file, probe = files
        if not cold(probe.fd, start):
            pytest.skip("this file system keeps the pages, or has no RWF_NOWAIT")

        async def test() -> None:
            assert await self.serve(plane, file, start, stop) == data[start:stop]
            assert plane.jobs > 0

        run(test())

    @pytest.mark.parametrize("start, stop", [(0, 5_000_000), (4_999_999, 5_000_000), (1_234_567, 3_456_789)])
    def test_in_memory(self, start: int, stop: int, plane: Plane, run: Run) -> None:
        """tmpfs has no RWF_NOWAIT on most kernels."""
        if not SHM.is_dir():
            pytest.skip("there is no /dev/shm")
        data = DATA * 8

        async def test(path: Path) -> None:
            file = plane.file(path)
            readings = [self.serve(plane, file, start, stop) for _ in range(3)]
            assert set(await asyncio.gather(*readings)) == {data[start:stop]}
            assert (plane.jobs == 0) == tells(path)

        with TemporaryDirectory(dir=SHM) as directory:
            path = Path(directory, "blob")
            path.write_bytes(data)
            run(test(path))

    def test_growing_in_memory(self, plane: Plane, run: Run) -> None:
        if not SHM.is_dir():
            pytest.skip("there is no /dev/shm")

        async def test(directory: str) -> None:
            growth = plane.growth(Path(directory, "part"))
            growth.expect(len(DATA))
            readings = []
            for _ in range(5):
                stream, _, far = plane.stream()
                stream.send(b"", b"", FileSource(growth.file, 0, len(DATA), growth))
                readings.append(plane.loop.create_task(plane.read(far, len(DATA))))
            for at in range(0, len(DATA), 50_000):
                await plane.write(growth, DATA[at : at + 50_000])
            growth.finish()
            assert {hashlib.sha256(data).digest() for data in await asyncio.gather(*readings)} == {
                hashlib.sha256(DATA).digest()
            }

        with TemporaryDirectory(dir=SHM) as directory:
            run(test(directory))

    def test_a_reader_that_leaves_while_a_thread_reads(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(DATA)
        file = plane.file(path)
        os.fdatasync(file.fd)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)

        async def test() -> None:
            stream, _, far = plane.stream()
            stream.send(b"", b"", FileSource(file, 0, len(DATA)))
            stream.abort()
            far.close()
            await plane.turns()

        run(test())

    @pytest.mark.parametrize("size", [0, 1, 300_000, len(DATA) - 1])
    def test_cut(self, size: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Somebody has taken bytes away since it was opened."""
        path = tmp_path / "blob"
        path.write_bytes(DATA)

        async def test() -> None:
            file = plane.file(path)
            os.truncate(path, size)
            stream, told, far = plane.stream()
            stream.send(b"", b"", FileSource(file, 0, len(DATA)))
            assert await plane.read(far, size) == DATA[:size]
            assert await told.next() == ("source_failed", "the file was cut")
            await plane.turns()
            assert nothing(far)

        run(test())

    def test_unreadable(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(DATA)

        async def test() -> None:
            file = plane.file(path, flags=os.O_WRONLY)
            stream, told, _ = plane.stream()
            stream.send(b"", b"", FileSource(file, 0, len(DATA)))
            assert await told.next() == ("source_failed", "reading the cache failed: Bad file descriptor")

        run(test())

    def test_touch(self, plane: Plane, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(DATA)
        file = plane.file(path)
        assert [file.touch(offset, 1000) for offset in (0, len(DATA) - 10, len(DATA))] == [1000, 10, 0]
        assert plane.file(path, flags=os.O_WRONLY).touch(0, 10) == -1


def tells(path: Path) -> bool:
    """Whether reads on this file system can be told not to block."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) >= 0
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def cold(fd: int, offset: int) -> bool:
    """Whether a read there would wait for the disk."""
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:  # it can't tell
        return False
    return False


class TestStreamSink:
    """A body from one stream to another."""

    @pytest.mark.parametrize("framing", ["length", "eof"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_relayed(self, chunked: bool, framing: str, plane: Plane, run: Run) -> None:
        async def test() -> None:
            source, told, far_source = plane.stream()
            target, _, far_target = plane.stream()
            source.receive(StreamSink(target, chunked), framing, len(DATA), LIMIT)
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA))
            reading = plane.loop.create_task(self.drain(plane, far_target))
            await sending
            far_source.shutdown(socket.SHUT_WR)
            assert await told.next() == ("body", True, "")
            if chunked:
                target.end_chunks()
            target.close()
            data = await reading
            assert (dechunked(data) if chunked else data) == DATA

        run(test())

    @staticmethod
    async def drain(plane: Plane, far: socket.socket, size: int = 1 << 40) -> bytes:
        return await plane.read(far, size)

    def test_a_slow_receiver_holds_the_sender_back(self, plane: Plane, run: Run) -> None:
        size = 16_000_000

        async def test() -> None:
            source, told, far_source = plane.stream()
            target, _, far_target = plane.stream()
            source.receive(StreamSink(target), "length", size, LIMIT)
            data = (DATA * 23)[:size]
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, data))
            moved = -1
            while moved != source.plain_received:
                moved = source.plain_received
                await plane.turns()
            assert moved < 2_000_000
            assert not sending.done()
            assert await plane.read(far_target, size) == data
            await sending
            assert await told.next() == ("body", True, "")

        run(test())

    def test_the_end_of_a_sender_that_is_held_back(self, plane: Plane, run: Run) -> None:
        """Both directions have ended, but not all of it is read: a half-closed tunnel to a slow client."""

        async def test() -> None:
            source, told, far_source = plane.stream(tcp=True)
            target, _, far_target = plane.stream()
            source.receive(StreamSink(target), "eof", 0, LIMIT)
            source.shut_write()
            assert await plane.read(far_source, 1) == b""
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 2))
            await sending
            far_source.close()
            await plane.turns()
            reading = plane.loop.create_task(self.drain(plane, far_target, 2 * len(DATA)))
            assert await told.next() == ("body", True, "")
            assert await reading == DATA * 2

        run(test())

    @pytest.mark.parametrize("when", ["before", "while it is held"])
    def test_a_receiver_that_leaves(self, when: str, plane: Plane, run: Run) -> None:
        async def test() -> None:
            source, told, far_source = plane.stream()
            target, target_told, far_target = plane.stream()
            source.receive(StreamSink(target), "length", 1 << 30, LIMIT)
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 20))
            if when == "while it is held":
                while source.plain_received < 300_000:
                    await plane.turns(1)
            far_target.close()
            assert (await target_told.next())[0] == "closed"
            assert await told.next() == ("body", False, "the receiver is gone")
            source.abort()
            with pytest.raises(OSError):
                await sending

        run(test())


class TestBytesSink:
    """Small bodies, in memory."""

    @pytest.mark.parametrize(
        "size, fits", [(0, True), (99, True), (100, True), (101, False), (70_000, False)]
    )
    def test_limit(self, size: int, fits: bool, plane: Plane, run: Run) -> None:
        async def test() -> None:
            stream, told, far = plane.stream()
            sink = BytesSink(100)
            stream.receive(sink, "length", size, LIMIT)
            await plane.loop.sock_sendall(far, DATA[:size])
            reason = "" if fits else "the body is larger than 100 bytes"
            assert await told.next() == ("body", fits, reason)
            if fits:
                assert bytes(sink.data) == DATA[:size]

        run(test())
