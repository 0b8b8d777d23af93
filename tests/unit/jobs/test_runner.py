"""Jobs begin, wait for their turn, end by themselves or are told to, and their records say how."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from regproxy.core.errors import StoreError
from regproxy.jobs.history import History
from regproxy.jobs.records import Job
from regproxy.jobs.runner import QUEUED_MAX, Jobs, Running, TooMany

WAIT = 20.0


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a test run in an event loop of its own."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "state" / "jobs")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What the work of a test waits for; set at its end at the latest."""
    event = threading.Event()
    yield event
    event.set()


async def ended(history: History, job: Job) -> Job:
    """Return a job as it is recorded, once it has ended."""
    async with asyncio.timeout(WAIT):
        while True:
            found = await asyncio.to_thread(history.get, job.id)
            if found is not None and not found.is_open:
                return found
            await asyncio.sleep(0.01)


def nothing(running: Running) -> dict[str, Any]:
    running.progress(3, 3, "things")
    return {"found": 3}


@in_a_loop
async def test_done(history: History) -> None:
    jobs = Jobs(history)
    job = await jobs.on_thread("purge", "token from 127.0.0.1", {"tag": "1"}, nothing)
    found = await ended(history, job)
    assert (found.state, found.result, found.done, found.total, found.unit) == (
        *("done", {"found": 3}, 3, 3),
        "things",
    )
    assert (found.kind, found.by, found.what, found.error) == (
        "purge",
        "token from 127.0.0.1",
        {"tag": "1"},
        "",
    )
    assert 0 < found.created_at <= found.started_at <= found.ended_at
    assert await jobs.finish(WAIT) == []
    assert jobs.active == 0


FAILURES: list[tuple[Callable[[], Exception], str]] = [
    (lambda: StoreError("index: it is closed"), "index: it is closed"),
    (lambda: OSError(28, "No space left on device", "/cache/x"), "/cache/x: No space left on device"),
    (lambda: KeyError("secret"), "internal error: KeyError; the log has more"),
]


@pytest.mark.parametrize("make, says", FAILURES)
@in_a_loop
async def test_failed(history: History, make: Callable[[], Exception], says: str) -> None:
    def work(running: Running) -> dict[str, Any]:
        raise make()

    jobs = Jobs(history)
    found = await ended(history, await jobs.on_thread("purge", "x", {}, work))
    assert (found.state, found.error, found.result) == ("failed", says, None)
    await jobs.finish(WAIT)


@in_a_loop
async def test_a_thread_is_cancelled_and_says_what_it_has_done(history: History) -> None:
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(running: Running) -> dict[str, Any]:
        loop.call_soon_threadsafe(began.set)
        while not running.stops():
            threading.Event().wait(0.01)
        return {"half": True}

    jobs = Jobs(history)
    job = await jobs.on_thread("purge", "x", {}, work)
    await began.wait()
    await jobs.cancel(job.id)
    found = await ended(history, job)
    assert (found.state, found.result) == ("cancelled", {"half": True})
    await jobs.finish(WAIT)


@in_a_loop
async def test_another_worker_cancels_it(history: History, tmp_path: Path) -> None:
    """By what is on disk alone."""

    async def work(running: Running) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    jobs, other = Jobs(history), Jobs(History(tmp_path / "state" / "jobs"))
    job = await jobs.as_task("warm", "x", {}, work)
    seen = await other.cancel(job.id)
    assert seen is not None and seen.is_open
    assert (await ended(history, job)).state == "cancelled"
    assert await other.cancel("0123456789ab-01234567") is None
    for each in (jobs, other):
        await each.finish(WAIT)


@in_a_loop
async def test_what_waits_is_cancelled_without_its_turn(history: History, gate: threading.Event) -> None:
    def work(running: Running) -> dict[str, Any]:
        gate.wait(WAIT)
        return {}

    jobs = Jobs(history, at_a_time=1)
    first = await jobs.on_thread("verify", "x", {}, work)
    second = await jobs.on_thread("purge", "x", {}, work)
    await jobs.cancel(second.id)
    found = await ended(history, second)
    assert (found.state, found.started_at) == ("cancelled", 0.0)
    gate.set()
    assert (await ended(history, first)).state == "done"
    third = await jobs.on_thread("purge", "x", {}, nothing)  # the turn was not lost
    assert (await ended(history, third)).state == "done"
    await jobs.finish(WAIT)


@in_a_loop
async def test_the_worker_ends(history: History, gate: threading.Event) -> None:
    async def work(running: Running) -> dict[str, Any]:
        running.job.result = {"so far": 1}
        await asyncio.Event().wait()
        return {}

    jobs = Jobs(history, at_a_time=1)
    first = await jobs.as_task("warm", "x", {}, work)
    second = await jobs.on_thread("purge", "x", {}, nothing)
    await asyncio.sleep(0)
    cut = await jobs.finish(WAIT)
    assert cut == [f"job {first.id}, warm", f"job {second.id}, purge"]
    for job in (first, second):
        found = history.get(job.id)
        assert found is not None
        assert (found.state, found.error) == ("cut", "the worker that had it has ended")
    with pytest.raises(TooMany, match="about to end"):
        await jobs.as_task("warm", "x", {}, work)


@in_a_loop
async def test_too_many(history: History, gate: threading.Event) -> None:
    def work(running: Running) -> dict[str, Any]:
        gate.wait(WAIT)
        return {}

    jobs = Jobs(history, at_a_time=1)
    for _ in range(QUEUED_MAX):
        await jobs.on_thread("purge", "x", {}, work)
    with pytest.raises(TooMany, match="32 jobs wait"):
        await jobs.on_thread("purge", "x", {}, work)
    gate.set()
    await jobs.finish(WAIT)


@in_a_loop
async def test_too_many_at_once(history: History, gate: threading.Event) -> None:
    """While their records are being written they count, too."""

    def work(running: Running) -> dict[str, Any]:
        gate.wait(WAIT)
        return {}

    jobs = Jobs(history, at_a_time=1)
    begun = (jobs.on_thread("purge", "x", {}, work) for _ in range(QUEUED_MAX + 3))
    found = await asyncio.gather(*begun, return_exceptions=True)
    assert sum(isinstance(each, Job) for each in found) == QUEUED_MAX
    assert sum(isinstance(each, TooMany) for each in found) == 3
    gate.set()
    await jobs.finish(WAIT)


@in_a_loop
async def test_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    jobs = Jobs(History(tmp_path / "state" / "jobs"))
    with pytest.raises(StoreError, match="jobs"):
        await jobs.on_thread("purge", "x", {}, nothing)
    await jobs.finish(WAIT)
