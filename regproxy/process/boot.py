"""What a child of the supervisor starts with, and the control channel between both.

The channel carries words, one per line, in both directions.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

from msgspec import Struct

from regproxy.config.directories import Directories
from regproxy.config.settings import Config
from regproxy.core.errors import RegproxyError
from regproxy.debug import views
from regproxy.debug.views import HubView
from regproxy.telemetry import log_format, metrics

log = logging.getLogger(__name__)

Role = Literal["worker", "janitor", "debug_view", "debug_hub"]

# Words from a child. CUT is followed by how many connections and fills it had to cut at its end.
READY: Final = "ready"
BEAT: Final = "beat"
CUT: Final = "cut"
RELOAD: Final = "reload"  # with a number: as SIGHUP, and RELOADED is to say what became of it
# Words to a child.
DRAIN: Final = "drain"  # end; connections and fills have Config.drain_timeout
RETIRE: Final = "retire"  # end; connections and fills have all the time they need
STOP: Final = "stop"  # end at once
RECONCILE: Final = "reconcile"  # to the janitor: a worker died, and may have left files without index rows
RELOADED: Final = "reloaded"  # to a worker: the number, what became of it, and why as a JSON text
GONE: Final = "gone"  # never sent: the supervisor has died

# Exit codes, besides 0.
CUT_EXIT: Final = 1  # something had to be cut
USAGE_EXIT: Final = 2  # the configuration can't be used
LEAK_EXIT: Final = 3  # a debug run left something open at its end

_BEAT_SECONDS: Final = 1.0
_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>
_HELD_BACK: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Record:
    """What a child is told besides its configuration.

    `slot` is the lowest number that no other child has: log and metrics name the child by it. `metrics`: the
    directory that they are kept in. `workers`: how many share the listening sockets. `claim_key`: a secret
    that all children of a supervisor know. `started`: when the supervisor began, in seconds of the epoch.

    From `control` to `tls` these are descriptors, -1 for one that the child has no use for. `transparent`,
    `tls`: of any number of sockets. `audit`: by which workers tell of pulls, and for the janitor also by
    which that is read. `views`: the directory of the debug views. `inner_port`: where workers listen behind
    one. `hub`: where Docker Hub is asked through.
    """

    role: Role
    slot: int
    metrics: str
    workers: int
    claim_key: str = field(repr=False)
    debug: bool
    control: int
    board: int
    commits: int
    proxy: int = -1
    admin: int = -1
    audit: tuple[int, ...] = ()
    transparent: tuple[int, ...] = ()
    tls: tuple[int, ...] = ()
    started: float = 0.0
    views: str = ""
    inner_port: int = 0
    hub: HubView | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that there are."""
        single = (self.control, self.board, self.commits, self.proxy, self.admin)
        every = (*single, *self.audit, *self.transparent, *self.tls)
        return tuple(fd for fd in every if fd >= 0)


class ControlChannel:
    """The child's end of the channel. Nothing here blocks; use from one thread."""

    def __init__(self, fd: int, beat_seconds: float = _BEAT_SECONDS) -> None:
        """Take over `fd`. `beat_seconds`: the least time between two beats that are sent."""
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._partial = b""
        self._beat_seconds = beat_seconds
        self._beaten = 0.0

    def fileno(self) -> int:
        """Return the descriptor, for select() and add_reader()."""
        return self._socket.fileno()

    def say(self, *words: object) -> None:
        """Send a line. A supervisor that does not read, or is gone, misses it."""
        line = " ".join(map(str, words)) + "\n"
        try:
            self._socket.send(line.encode())
        except OSError:
            return

    def beat(self, now: float) -> None:
        """Tell the supervisor that the main loop runs, when that is due. `now`: time.monotonic(), in seconds.

        Only the main loop may call it, several times a second.
        """
        if now - self._beaten >= self._beat_seconds:
            self._beaten = now
            self.say(BEAT)

    def receive(self) -> list[str]:
        """Return the words that have come. After GONE, the last one, nothing more will come."""
        words = []
        try:
            while data := self._socket.recv(4096):
                *lines, self._partial = (self._partial + data).split(b"\n")
                words += [line.decode() for line in lines]
        except BlockingIOError:
            return words
        except OSError:
            pass
        return [*words, GONE]

    def close(self) -> None:
        self._socket.close()


class Boot(Struct, frozen=True):
    """All that a child starts with."""

    record: Record
    config: Config
    directories: Directories
    control: ControlChannel


Program = Callable[[Boot], int]  # what a child runs; it returns the exit code


def run(record: Record, config: Config, directories: Directories, serve: Program) -> int:
    """Run a child, and return its exit code. A RegproxyError is printed, and gives exit code 2.

    SIGINT and SIGHUP are for the supervisor alone, though a terminal sends them to all. SIGTERM is blocked
    until open_to_sigterm().
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
    log_format.log_to_stderr(config.log_level, config.log_format, record.role, record.slot)
    if record.hub is not None and record.role == "worker":
        config = views.through(config, record.hub)
    metrics.share(record.metrics, str(record.slot))
    beat_seconds = min(_BEAT_SECONDS, config.hang_timeout / 4)
    try:
        with closing(ControlChannel(record.control, beat_seconds)) as control:
            return _serve(Boot(record, config, directories, control), serve)
    except RegproxyError as error:
        log_format.say_end(error, config.log_format, record.role, record.slot)
        return USAGE_EXIT
    finally:
        metrics.unshare()


def _serve(start: Boot, serve: Program) -> int:
    try:
        return serve(start)
    except FileNotFoundError:
        # The next supervisor removes what a killed one has left, also for children that had only begun.
        if GONE not in start.control.receive():
            raise
        log.warning("the supervisor is gone: ended before it was ready")
        return CUT_EXIT


def hold_signals_back() -> set[signal.Signals | int]:
    """Block signals that would end a child before it has its handlers; it inherits that. The old mask."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)


def keep_memory_private() -> None:
    """Have no core dump made of this process, and no other process of its user trace it.

    Nor can such a process read its environment. Its memory has keys and logins. PR_SET_DUMPABLE of prctl(2):
    forked children inherit it, an exec takes it back. RLIMIT_CORE is not enough: core(5) has it ignored where
    the kernel pipes dumps to a program.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        # A seccomp profile of the user's own may forbid it: that is no reason not to serve.
        log.warning("core dumps of this process can't be ruled out: %s", os.strerror(ctypes.get_errno()))


def open_to_sigterm() -> None:
    """Unblock SIGTERM: the child has its handler now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def leave(code: int) -> NoReturn:
    """End this process with that exit code. All that it had to close is closed.

    Python would free each of its objects first: 50 ms of CPU, and nobody is served by that.
    """
    logging.shutdown()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
