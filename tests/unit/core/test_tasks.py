"""Tasks that are ended let go of what they had open."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from regproxy.core import tasks


class Open:
    """Something that a task has open."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What is freed here is freed at once, not by the garbage collector."""
    gc.disable()
    yield
    gc.enable()


async def wait_with(there: list[weakref.ref[Open]], until: asyncio.Event) -> None:
    """Hold an Open, in a frame that holds its task too, as an asyncio.Timeout does."""
    held = Open()
    there.append(weakref.ref(held))
    scope = asyncio.timeout(60)
    async with scope:
        await until.wait()
    assert held and scope


class TestCancelAll:
    def test_nothing_stays_open(self) -> None:
        async def run() -> list[Open | None]:
            there: list[weakref.ref[Open]] = []
            running = {asyncio.create_task(wait_with(there, asyncio.Event())) for _ in range(3)}
            await asyncio.sleep(0)
            await tasks.cancel_all(running)
            assert all(task.cancelled() for task in running)
            return [ref() for ref in there]

        assert asyncio.run(run()) == [None] * 3

    def test_what_they_raise_is_dropped(self) -> None:
        async def fail() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in the end")

        async def run() -> None:
            task = asyncio.create_task(fail())
            await asyncio.sleep(0)
            await tasks.cancel_all([task])
            assert task.done()

        asyncio.run(run())

    def test_of_none(self) -> None:
        asyncio.run(tasks.cancel_all([]))
