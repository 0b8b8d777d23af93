"""Following a part that another process fills; here two stores on one directory stand for two processes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from regproxy.cache.blobs import Store
from regproxy.cache.parts import OPEN, VERIFIED, Meta, Part
from regproxy.core.errors import BadResponse
from regproxy.dataplane.inotify import Watch
from regproxy.fill.follower import Following, FollowOutcome, alone
from tests.support.images import digest_of
from tests.support.plane import LIMIT, Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures

BODY = random.Random("follow").randbytes(300_000)
DIGEST = digest_of(BODY)


@pytest.fixture
def stores(plane: Plane, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    pair = Store(tmp_path / "cache", plane.loop), Store(tmp_path / "cache", plane.loop)
    yield pair
    for store in pair:
        store.close()


class Case:
    """A filler and a follower of one part. `opened` is what the follower was told."""

    def __init__(self, plane: Plane, stores: tuple[Store, Store], watch: Watch | None) -> None:
        self.filler, self.other = stores
        self.part = self.filler.claim(DIGEST)
        self.followed = self.other.claim(DIGEST)
        assert (self.part.mine, self.followed.mine) == (True, False)
        self.following = Following(self.followed, watch)
        self.opened: list[Meta] = []
        self.task = plane.loop.create_task(self.following.run(self.opened.append, self._stored))
        self._plane = plane

    def _stored(self) -> int | None:
        blob = self.other.lookup(DIGEST)
        return blob.file.fd if blob is not None else None

    async def outcome(self) -> FollowOutcome:
        return await asyncio.wait_for(self.task, LIMIT)

    async def write(self, data: bytes) -> None:
        await self._plane.write(self.part.growth, data)

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not check():
                await self._plane.turns(1)

    def close(self) -> None:
        for part in (self.followed, self.part):
            part.close()
            part.growth.file.close()
            if part.growth.memory is not None:
                part.growth.memory.close()


@pytest.fixture(params=["inotify", "polling"])
def case(request: pytest.FixtureRequest, plane: Plane, stores: tuple[Store, Store]) -> Iterator[Case]:
    """With the kernel's events, and where it gives none."""
    watch = Watch(plane.reactor) if request.param == "inotify" else None
    case = Case(plane, stores, watch)
    yield case
    case.close()
    if watch is not None:
        watch.close()


OPENED = Meta(OPEN, len(BODY), "text/plain", "127.0.0.9", 0.5, host="reg.test")


class TestFollowing:
    """How it ends."""

    def test_stored(self, case: Case, run: Run) -> None:
        async def test() -> None:
            case.part.write(OPENED)
            await case.write(BODY[:100_000])
            await case.until(lambda: case.opened == [OPENED])
            await case.write(BODY[100_000:])
            case.part.write(Meta(VERIFIED, size=len(BODY)))
            await case.until(lambda: case.followed.growth.done)
            await case.filler.commit(case.part, DIGEST)
            assert await case.outcome() is FollowOutcome.STORED
            assert case.followed.growth.written == len(BODY)

        run(test())

    def test_stored_before_anything_was_said(self, case: Case, run: Run) -> None:
        async def test() -> None:
            await case.write(BODY)
            await case.filler.commit(case.part, DIGEST)
            assert await case.outcome() is FollowOutcome.STORED
            assert case.followed.growth.done

        run(test())

    def test_verified_and_not_kept(self, case: Case, run: Run) -> None:
        async def test() -> None:
            case.part.write(OPENED)
            await case.write(BODY)
            case.part.write(Meta(VERIFIED, size=len(BODY)))
            await case.until(lambda: case.followed.growth.done)
            case.part.disown()
            assert await case.outcome() is FollowOutcome.UNSTORED
            blob = case.other.unstored(case.followed, DIGEST)
            assert os.pread(blob.file.fd, len(BODY) + 1, 0) == BODY

        run(test())

    @pytest.mark.parametrize("total", [len(BODY) - 1, len(BODY) + 1, 0])
    @pytest.mark.parametrize("early", [True, False])
    def test_another_length_than_it_said(self, early: bool, total: int, case: Case, run: Run) -> None:
        """Its readers were told where it ends: they are cut there, and do not take it for complete."""

        async def test() -> None:
            if early:
                case.part.write(replace(OPENED, total=total))
                await case.until(lambda: len(case.opened) == 1)
                case.followed.growth.expect(total)
            await case.write(BODY)
            case.part.write(Meta(VERIFIED, total=-1 if early else total, size=len(BODY)))
            with pytest.raises(BadResponse, match=rf"declared {total} bytes, and has {len(BODY)}"):
                await case.outcome()
            assert not case.followed.growth.done
            case.other.leave(case.followed)

        run(test())

    @pytest.mark.parametrize("said", [True, False])
    def test_its_filler_dies(self, said: bool, case: Case, run: Run) -> None:
        async def test() -> None:
            if said:
                case.part.write(OPENED)
                await case.write(BODY[:1000])
            case.part.growth.file.close()  # as the end of the process does
            assert await case.outcome() is FollowOutcome.OURS
            assert (case.followed.mine, case.followed.growth.written) == (True, 1000 if said else 0)
            case.other.abort(case.followed)

        run(test())

    def test_two_followers_and_one_heir(self, case: Case, plane: Plane, run: Run) -> None:
        async def test() -> None:
            third = Store(case.other.root, plane.loop)
            part = third.claim(DIGEST)
            second = plane.loop.create_task(Following(part, None).run(case.opened.append, lambda: None))
            case.part.write(OPENED)
            await case.write(BODY[:1000])
            case.part.growth.file.close()
            done, waiting = await asyncio.wait(
                {case.task, second}, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT
            )
            assert [task.result() for task in done] == [FollowOutcome.OURS]
            for task in waiting:
                task.cancel()
            assert case.followed.mine != part.mine
            part.close()

        run(test())

    def test_given_up(self, case: Case, run: Run) -> None:
        async def test() -> None:
            case.part.write(OPENED)
            await case.until(lambda: case.opened == [OPENED])
            case.part.write(OPENED.failed("digest", "it was wrong"))
            case.filler.abort(case.part)
            assert await case.outcome() is FollowOutcome.FAILED
            assert case.following.meta == OPENED.failed("digest", "it was wrong")

        run(test())

    def test_the_disk_is_full(self, case: Case, run: Run) -> None:
        async def test() -> None:
            case.part.write(OPENED)
            await case.write(BODY[:1000])
            await case.until(lambda: case.opened == [OPENED])
            case.part.disown()
            assert await case.outcome() is FollowOutcome.ALONE
            alone(case.followed)
            growth = case.followed.growth
            assert (growth.written, growth.memory is not None, growth.whole) == (1000, True, True)

        run(test())

    def test_somebody_else_has_stored_it(self, case: Case, run: Run) -> None:
        """What is there of this part is not all of it, whatever is in the store."""

        async def test() -> None:
            case.part.write(OPENED)
            await case.write(BODY[:1000])
            await case.until(lambda: case.opened == [OPENED])
            place = Path(case.other.path(DIGEST))
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(BODY)
            case.part.disown()
            assert await case.outcome() is FollowOutcome.ALONE
            assert not case.followed.growth.done

        run(test())

    def test_it_failed_and_has_its_name_still(self, case: Case, run: Run, plane: Plane) -> None:
        async def test() -> None:
            case.part.write(OPENED.failed("timeout", "sent nothing"))
            await case.until(lambda: case.following.meta is not None)
            await plane.turns(20)
            assert not case.task.done()
            case.filler.abort(case.part)
            assert await case.outcome() is FollowOutcome.FAILED

        run(test())

    def test_nothing_happens(self, plane: Plane, run: Run, stores: tuple[Store, Store]) -> None:
        """Its filler may be in a container that is paused: nobody waits for it for ever."""

        async def test() -> None:
            part, followed = (store.claim(DIGEST) for store in stores)
            following = Following(followed, None, patience=0.2)
            told: list[Meta] = []
            task = plane.loop.create_task(following.run(told.append, lambda: None))
            assert await asyncio.wait_for(task, LIMIT) is FollowOutcome.STALLED
            followed.close()
            stores[0].abort(part)

        run(test())

    def test_is_given_up_itself(self, case: Case, plane: Plane, run: Run) -> None:
        async def test() -> None:
            case.part.write(OPENED)
            await case.until(lambda: case.opened == [OPENED])
            case.task.cancel()
            await asyncio.wait({case.task})
            assert case.part.mine
            assert case.part.named

        run(test())


def test_a_part_without_disk_is_nobodys_to_follow(stores: tuple[Store, Store]) -> None:
    part: Part = stores[0].in_memory()
    assert (part.path, part.mine, part.named, part.read()) == (None, True, False, None)
