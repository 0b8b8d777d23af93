"""Files that are sent: cold ones, shortened ones, slices of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from regproxy.dataplane.file import File
from regproxy.dataplane.sources import FileSource
from tests.support.plane import DATA, Plane, Run, nothing, plane, run

__all__ = ["plane", "run"]  # fixtures
SHM = Path("/dev/shm")


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
