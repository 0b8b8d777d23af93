"""Run the jobs of one worker: on threads, or as tasks of its event loop.

At most a few run at a time, the others wait. One that is cancelled, or cut because the worker ends, is told,
and says what it has done until then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from regproxy.core.errors import RegproxyError
from regproxy.core.tasks import cancel_all
from regproxy.jobs.history import History
from regproxy.jobs.records import Job, State

log = logging.getLogger(__name__)

AT_A_TIME: Final = 2
QUEUED_MAX: Final = 32
_TICK: Final = 0.5  # seconds between two records of a job that runs, and looks for its cancellation
_CUT: Final = "the worker that had it has ended"

Result = Mapping[str, Any]


class TooMany(RegproxyError):
    """Too many jobs wait already, or the worker is about to end."""


class Stopped(Exception):
    """A job was told to end. `result`: of what it has done until then."""

    def __init__(self, result: Result | None = None) -> None:
        super().__init__()
        self.result = result


class Running:
    """A job as its work sees it. For any thread."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ends: State | None = None  # what it has to become, once it stops
        self.told = asyncio.Event()  # for the event loop alone

    def stops(self) -> bool:
        """Return whether it was told to end."""
        return self.ends is not None

    def check(self, result: Result | None = None) -> None:
        """Raise Stopped where it was told to end."""
        if self.ends is not None:
            raise Stopped(result)

    def progress(self, done: int, total: int = 0, unit: str = "") -> None:
        """Tell how much is done. It is recorded a moment later."""
        self.job.done, self.job.total, self.job.unit = done, total, unit or self.job.unit


OnThread = Callable[[Running], Result]
AsTask = Callable[[Running], Awaitable[Result]]


class Jobs:
    """The jobs of one worker. Use from its event loop's thread."""

    def __init__(self, history: History, at_a_time: int = AT_A_TIME) -> None:
        self.history = history
        self._turns = asyncio.Semaphore(at_a_time)
        self._threads = ThreadPoolExecutor(at_a_time, "job")
        self._records = ThreadPoolExecutor(1, "jobs")
        self._running: dict[str, Running] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._beginning = 0  # of which the record is being written
        self._ends = False

    @property
    def active(self) -> int:
        """How many have not ended."""
        return len(self._tasks) + self._beginning

    async def on_thread(self, kind: str, by: str, what: Mapping[str, Any], work: OnThread) -> Job:
        """Begin a job on a thread, which ends soon after `stops()`. Raises TooMany, StoreError."""

        async def run(running: Running) -> Result:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, running)

        return await self._begin(kind, by, what, run, cancels=False)

    async def as_task(self, kind: str, by: str, what: Mapping[str, Any], work: AsTask) -> Job:
        """Begin a job whose work is a coroutine, cancelled if it has to end. Raises as on_thread()."""
        return await self._begin(kind, by, what, work, cancels=True)

    async def cancel(self, identity: str) -> Job | None:
        """Tell a job to end, whichever worker has it; return it as it is now, None where there is none."""
        loop = asyncio.get_running_loop()
        running = self._running.get(identity)
        if running is not None:
            self._stop(running, "cancelled")
        job = await loop.run_in_executor(self._records, self.history.get, identity)
        if job is not None and job.is_open and running is None:
            await loop.run_in_executor(self._records, self.history.ask_cancel, identity)
        return job

    def cut(self) -> list[str]:
        """Tell all jobs to end, as the worker does, and begin no other one; return what they are."""
        self._ends = True
        told = [running for running in self._running.values() if not running.stops()]
        for running in told:
            self._stop(running, "cut")
        return [f"job {running.job.id}, {running.job.kind}" for running in told]

    async def finish(self, timeout: float) -> list[str]:
        """Cut what still runs, wait for it some seconds, and return what was cut."""
        cut = self.cut()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()), timeout=timeout)
        await cancel_all(tuple(self._tasks.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._records.shutdown(wait=True)
        return cut

    async def _begin(
        self, kind: str, by: str, what: Mapping[str, Any], work: AsTask, *, cancels: bool
    ) -> Job:
        if self._ends:
            raise TooMany("this process is about to end, and begins no job any more")
        if self.active >= QUEUED_MAX:
            raise TooMany(f"{QUEUED_MAX} jobs wait already; try again when some have ended")
        loop = asyncio.get_running_loop()
        self._beginning += 1
        try:
            job, fd = await loop.run_in_executor(self._records, self.history.begin, kind, by, dict(what))
        finally:
            self._beginning -= 1
        running = Running(job)
        self._running[job.id] = running
        if self._ends:
            self._stop(running, "cut")
        task = loop.create_task(self._run(running, fd, work, cancels=cancels))
        self._tasks[job.id] = task
        return job

    @staticmethod
    def _stop(running: Running, state: State) -> None:
        running.ends = running.ends or state
        running.told.set()

    async def _run(self, running: Running, fd: int, work: AsTask, *, cancels: bool) -> None:
        """Wait for a turn, do the work, and record its end."""
        job, loop = running.job, asyncio.get_running_loop()
        ticker = loop.create_task(self._tick(running))
        try:
            await _first(loop.create_task(self._turns.acquire()), running)
            try:
                job.move("running", time.time())
                log.info("job %s: %s has begun", job.id, job.kind)
                doing = asyncio.ensure_future(work(running))
                result = await (_first(doing, running) if cancels else doing)
            finally:
                self._turns.release()
            job.result = dict(result)
            job.move(running.ends or "done", time.time())
        except Stopped as stopped:
            job.result = dict(stopped.result) if stopped.result is not None else job.result
            job.move(running.ends or "cancelled", time.time())
        except RegproxyError as error:
            job.error = str(error)
            job.move("failed", time.time())
        except OSError as error:
            job.error = f"{error.filename or 'the cache'}: {error.strerror or error}"
            job.move("failed", time.time())
        except asyncio.CancelledError:
            job.move("cut", time.time())
            raise
        except Exception as error:
            log.exception("job %s: %s", job.id, job.kind)
            job.error = f"internal error: {type(error).__name__}; the log has more"
            job.move("failed", time.time())
        finally:
            await cancel_all((ticker,))
            if job.state == "cut":
                job.error = _CUT
            log.info("job %s: %s is %s", job.id, job.kind, job.state)
            self._running.pop(job.id, None)
            self._records.submit(self.history.end, job, fd)
            self._tasks.pop(job.id, None)

    async def _tick(self, running: Running) -> None:
        """Record the progress now and then, and look for a cancellation from elsewhere."""
        loop, job = asyncio.get_running_loop(), running.job
        while True:
            await asyncio.sleep(_TICK)
            if await loop.run_in_executor(self._records, self.history.is_cancelled, job.id):
                self._stop(running, "cancelled")
            await loop.run_in_executor(self._records, self.history.write, job)


async def _first(doing: asyncio.Future[Any], running: Running) -> Any:
    """Return the result of what is under way, which is cancelled if the job has to end. Raises Stopped."""
    told = asyncio.ensure_future(running.told.wait())
    try:
        await asyncio.wait((doing, told), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise Stopped
    finally:
        await cancel_all([each for each in (doing, told) if not each.done()])
