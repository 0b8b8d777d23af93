"""Look up names with the system's resolver, on threads of our own: an answer may take half a minute.

Each kind of names has a lane, so that none waits for names that others have made up. A thread that hangs
delays neither another lane nor the end of the process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import aiohappyeyeballs
from msgspec import Struct

from regproxy.core.addresses import as_address
from regproxy.core.errors import Busy
from regproxy.policy.sites import same_site

log = logging.getLogger(__name__)

AddrInfo = aiohappyeyeballs.AddrInfoType

EACH_MAX: Final = 8  # lookups of one asker at a time
SITE_MAX: Final = 4  # of these for names of one registrable domain
TURN_SECONDS: Final = 1.5  # longer than a name server that is up takes
TURNS_MAX: Final = 1024  # lookups that wait for their turn; more are refused at once
IDLE_SECONDS: Final = 10.0  # for which a thread waits for another name
SLOW_SECONDS: Final = 5.0  # as long as resolv.conf's own timeout: a name server does not answer
QUIET_SECONDS: Final = 60.0

# The client on whose behalf the current task runs, "" where there is none.
CLIENT: Final[ContextVar[str]] = ContextVar("client", default="")


class LookupLane(Enum):
    """The source of names. The value is that of the metric's label."""

    WRITTEN = "written"  # the configuration: a known number of names
    ANSWER = "answer"  # the answers of registries that the configuration names
    CLIENT = "client"  # clients, which name a registry that a mask matches; and such a registry's answers
    TUNNEL = "tunnel"  # clients, for tunnels

    @property
    def threads(self) -> int:
        """The most lookups at a time."""
        return 64 if self is LookupLane.TUNNEL else 32

    @property
    def bounded(self) -> bool:
        """Whether lookups are limited for each asker."""
        return self is not LookupLane.WRITTEN


class LookupCounters(Protocol):
    """The counters of lookups."""

    def lookup(self, lane: str, outcome: str) -> None:
        """Count one: "found", "missing" (no such name), "failed", or "refused" (not asked: too many)."""


class _Job(Struct, eq=False):
    name: str
    asker: str
    done: asyncio.Future[list[AddrInfo]]
    slow: asyncio.TimerHandle | None = None


class Lookups:
    """The lookups of a lane. Use from the event loop's thread.

    `getaddrinfo(name)` does the lookup, on a thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: LookupLane,
        counters: LookupCounters | None = None,
        *,
        ipv4_only: bool = False,
        getaddrinfo: Callable[[str], Sequence[AddrInfo]] | None = None,
    ) -> None:
        self.lane: Final = lane
        self._loop = loop
        self._counters = counters
        self._family = socket.AF_INET if ipv4_only else socket.AF_UNSPEC
        self._getaddrinfo = getaddrinfo or self._system
        self._running: set[_Job] = set()
        self._waiting: deque[_Job] = deque()
        self._turns: set[asyncio.Future[None]] = set()
        self._said = -QUIET_SECONDS
        # Shared with the threads.
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    async def admit(self, name: str, asker: str) -> None:
        """Wait for this asker's turn, TURN_SECONDS at most: a burst passes, names that hang do not.

        Raises Busy where the turn does not come.
        """
        text = self._reason(name, asker)
        if text and len(self._turns) < TURNS_MAX:
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN_SECONDS):
                    while text:
                        await self._next_turn()
                        text = self._reason(name, asker)
        if text:
            self._count("refused")
            raise Busy(f"{name} is not looked up: {text}; are the name servers answering?")

    def _reason(self, name: str, asker: str) -> str:
        """Return why this asker has to wait; "" where it need not."""
        if not self.lane.bounded:
            return ""
        own = [job.name for job in self._running if job.asker == asker]
        if len(own) >= self._share:
            return f"{len(own)} other names that {asker or 'the proxy'} has asked for are not resolved yet"
        # The list of public suffixes is large: it is used only for askers with many lookups.
        if len(own) >= SITE_MAX and sum(same_site(name, each) for each in own) >= SITE_MAX:
            return f"{SITE_MAX} other names of its domain are not resolved yet"
        return "too many names are not resolved yet" if len(self._running) >= self.lane.threads else ""

    @property
    def _share(self) -> int:
        """The most lookups that an asker may have: fewer where threads are scarce, so that some are left."""
        taken = len(self._running) / self.lane.threads
        return EACH_MAX if taken < 0.5 else 2 if taken < 0.75 else 1

    async def _next_turn(self) -> None:
        """Wait until another lookup has ended."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.add(turn)
        try:
            await turn
        finally:
            self._turns.discard(turn)

    def begin(self, name: str, asker: str) -> asyncio.Future[list[AddrInfo]]:
        """Look up all addresses of a name, port 0; OSError, UnicodeError (no such name). Right after admit().

        An abandoned lookup goes on: there is no way to end it.
        """
        job = _Job(name, asker, self._loop.create_future())
        job.slow = self._loop.call_later(SLOW_SECONDS, self._say_slow, job)
        if len(self._running) < self.lane.threads:
            self._run(job)
        else:
            self._waiting.append(job)
        return job.done

    def _run(self, job: _Job) -> None:
        self._running.add(job)
        with self._lock:
            if self._threads < len(self._running):
                name = f"names-{self.lane.value}"
                # As a daemon, so that the process ends without it.
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                try:
                    thread.start()
                    self._threads += 1
                except RuntimeError as error:
                    if not self._threads:
                        self._loop.call_soon(self._over, job, _no_thread(error))
                        return
            self._jobs.put(job)

    def _over(self, job: _Job, result: list[AddrInfo] | OSError | UnicodeError) -> None:
        self._running.discard(job)
        if job.slow is not None:
            job.slow.cancel()
        self._count(_outcome(result))
        if not job.done.done():
            if isinstance(result, list):
                job.done.set_result(result)
            else:
                job.done.set_exception(result)
        self._run_next()
        for turn in tuple(self._turns):
            if not turn.done():
                turn.set_result(None)

    def _run_next(self) -> None:
        """Start the waiting lookup whose asker has the fewest under way; among equals the oldest."""
        if not self._waiting or len(self._running) >= self.lane.threads:
            return
        running = [job.asker for job in self._running]
        job = min(self._waiting, key=lambda each: running.count(each.asker))
        self._waiting.remove(job)
        self._run(job)

    def _count(self, outcome: str) -> None:
        if self._counters is not None:
            self._counters.lookup(self.lane.value, outcome)

    def _say_slow(self, job: _Job) -> None:
        now = time.monotonic()
        if now < self._said + QUIET_SECONDS:
            return
        self._said = now
        log.warning(
            "no answer for the name %s within %g s; lookups of this kind (%s) under way: %d, waiting: %d",
            *(job.name, SLOW_SECONDS, self.lane.value, len(self._running), len(self._waiting)),
        )

    # --- on a thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._threads -= 1
                        return
                continue
            result = self._answer(job.name)
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._over, job, result)
            del job, result

    def _answer(self, name: str) -> list[AddrInfo] | OSError | UnicodeError:
        try:
            return list(self._getaddrinfo(name))
        except (OSError, UnicodeError) as error:
            return error.with_traceback(None)
        except Exception as error:
            log.exception("looking up a name")
            return OSError(f"internal error: {type(error).__name__}")

    def _system(self, name: str) -> Sequence[AddrInfo]:
        return socket.getaddrinfo(name, 0, family=self._family, type=socket.SOCK_STREAM)


def literal(host: str, *, ipv4_only: bool = False) -> list[AddrInfo] | None:
    """Return the address of an IP literal in any spelling, port 0; None for a name. No server is asked.

    Raises OSError for IPv6 where `ipv4_only`.
    """
    ip = as_address(host)
    if ip is None:
        return None
    # A zone is left to the system.
    text = host.strip("[]") if "%" in host else str(ip)
    family = socket.AF_INET if ipv4_only else socket.AF_UNSPEC
    return list(
        socket.getaddrinfo(text, 0, family=family, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    )


def _outcome(result: list[AddrInfo] | OSError | UnicodeError) -> str:
    if isinstance(result, list):
        return "found"
    none = (socket.EAI_NONAME, socket.EAI_NODATA)
    no_such_name = isinstance(result, socket.gaierror) and result.errno in none
    return "missing" if no_such_name or isinstance(result, UnicodeError) else "failed"


def _no_thread(error: RuntimeError) -> OSError:
    return socket.gaierror(socket.EAI_AGAIN, f"no thread to ask the system: {error}")
