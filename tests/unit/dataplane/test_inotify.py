"""inotify: what the kernel tells of a file that another process fills."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.dataplane.inotify import Watch
from tests.support.plane import LIMIT, Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures

BODY = random.Random("follow").randbytes(300_000)


@pytest.fixture
def watch(plane: Plane) -> Iterator[Watch]:
    watch = Watch(plane.reactor)
    yield watch
    watch.close()


class Told:
    """Counts calls, and wakes who waits for the next."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def next(self) -> None:
        await asyncio.wait_for(self._event.wait(), LIMIT)
        self._event.clear()


class TestWatch:
    """What the kernel tells of a file."""

    def test_growth_is_told_without_python(
        self, plane: Plane, run: Run, watch: Watch, tmp_path: Path
    ) -> None:
        path = tmp_path / "part"

        async def test() -> None:
            growth, told = plane.growth(path), Told()
            followed = watch.follow(growth.file.fd, told, growth)
            with path.open("ab", buffering=0) as file:
                file.write(BODY[:1000])
                await told.next()
                assert growth.written == 1000
                followed.eager = False
                before = told.count
                file.write(BODY[1000:5000])
                async with asyncio.timeout(LIMIT):
                    while growth.written < 5000:
                        await plane.turns(1)
                assert told.count == before
            await told.next()  # it was closed
            followed.close()
            path.unlink()
            await plane.turns()
            assert told.count == before + 1

        run(test())

    @pytest.mark.parametrize("what", ["rename", "unlink", "close", "attributes"])
    def test_everything_else_is(
        self, what: str, plane: Plane, run: Run, watch: Watch, tmp_path: Path
    ) -> None:
        path = tmp_path / "part"

        async def test() -> None:
            growth, told = plane.growth(path), Told()
            followed = watch.follow(growth.file.fd, told, growth)
            followed.eager = False
            if what == "rename":
                path.rename(tmp_path / "blob")
            elif what == "unlink":
                path.unlink()
            elif what == "close":
                os.close(os.open(path, os.O_WRONLY))
            else:
                os.utime(path)
            await told.next()

        run(test())

    def test_a_file_without_a_name(self, plane: Plane, run: Run, watch: Watch, tmp_path: Path) -> None:
        path = tmp_path / "part"

        async def test() -> None:
            growth, told = plane.growth(path), Told()
            writer = os.open(path, os.O_WRONLY)
            path.unlink()
            watch.follow(growth.file.fd, told, growth)
            os.write(writer, b"x" * 10)
            os.close(writer)
            await told.next()
            assert growth.written == 10

        run(test())

    def test_many_at_once(self, plane: Plane, run: Run, watch: Watch, tmp_path: Path) -> None:
        """More events than one read of the kernel's queue takes."""

        async def test() -> None:
            growths = [plane.growth(tmp_path / f"part-{number}") for number in range(300)]
            for growth in growths:
                watch.follow(growth.file.fd, Told(), growth)
            for round_ in range(1, 6):
                for number in range(300):
                    with (tmp_path / f"part-{number}").open("ab") as file:
                        file.write(b"x" * round_)
            async with asyncio.timeout(LIMIT):
                while {growth.written for growth in growths} != {15}:
                    await plane.turns(1)

        run(test())
