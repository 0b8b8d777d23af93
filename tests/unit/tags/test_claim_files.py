"""Claims on tags: who asks the origin for all, and how the others hear of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from regproxy.dataplane.inotify import Watch
from regproxy.tags.claim_files import FileClaims
from tests.support.plane import LIMIT, Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures


@pytest.fixture
def watch(plane: Plane) -> Iterator[Watch]:
    watch = Watch(plane.reactor)
    yield watch
    watch.close()


def asked() -> Callable[[], float]:
    """When a request came: now."""
    now = time.monotonic()
    return lambda: now


class TestFileClaims:
    """One fetch at a time for equal requests."""

    @pytest.fixture
    def claims(self, tmp_path: Path, watch: Watch) -> tuple[FileClaims, FileClaims]:
        return FileClaims(tmp_path, b"key", watch), FileClaims(tmp_path, b"key", None)

    def test_who_waited_gets_the_answer(
        self, claims: tuple[FileClaims, FileClaims], plane: Plane, run: Run
    ) -> None:
        async def test() -> None:
            one, two = claims
            first = await one.take("a", asked())
            waiting = plane.loop.create_task(two.take("a", asked()))
            other = await two.take("b", asked())
            assert other.answer is None
            await plane.turns()
            assert not waiting.done()
            first.publish({"digest": "x"}, time.monotonic())
            first.close()
            second = await asyncio.wait_for(waiting, LIMIT)
            assert second.answer == {"digest": "x"}
            second.close()
            other.close()

        run(test())

    def test_who_asks_afterwards_does_not(
        self, claims: tuple[FileClaims, FileClaims], plane: Plane, run: Run
    ) -> None:
        async def test() -> None:
            one, two = claims
            first = await one.take("a", asked())
            first.publish({"digest": "x"}, time.monotonic())
            first.close()
            second = await two.take("a", asked())
            assert second.answer is None
            second.close()

        run(test())

    def test_who_dies_leaves_the_right_to_the_next(
        self, claims: tuple[FileClaims, FileClaims], plane: Plane, run: Run
    ) -> None:
        async def test() -> None:
            one, two = claims
            first = await one.take("a", asked())
            waiting = plane.loop.create_task(two.take("a", asked()))
            await plane.turns()
            first.close()
            second = await asyncio.wait_for(waiting, LIMIT)
            assert second.answer is None
            second.close()

        run(test())

    def test_a_file_that_was_removed_is_nobodys_claim(
        self, claims: tuple[FileClaims, FileClaims], plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            one, two = claims
            first = await one.take("a", asked())
            waiting = plane.loop.create_task(two.take("a", asked()))
            await plane.turns()
            (path,) = tmp_path.glob("*.tag")
            path.unlink()
            first.close()
            second = await asyncio.wait_for(waiting, LIMIT)
            assert path.exists()
            second.close()

        run(test())

    def test_a_directory_that_is_gone_is_no_reason_not_to_fetch(
        self, plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            claim = await FileClaims(tmp_path / "none", b"key", None).take("a", lambda: 0.0)
            assert claim.answer is None
            claim.publish({}, time.monotonic())
            claim.close()

        run(test())

    def test_names_say_nothing_without_the_key(
        self, claims: tuple[FileClaims, FileClaims], plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            for key in (b"key", b"other"):
                (await FileClaims(tmp_path, key, None).take("secret", lambda: 0.0)).close()
            assert len(names := [path.name for path in tmp_path.glob("*.tag")]) == 2
            assert all("secret" not in name for name in names)

        run(test())
