"""A child of the supervisor: a worker, the janitor or a debug view, from its start to its end."""

from __future__ import annotations

import math
import os
import signal
import socket
from contextlib import suppress
from typing import Final

from msgspec import Struct

from regproxy.config.directories import Directories
from regproxy.config.settings import Config
from regproxy.debug.views import HubView
from regproxy.process import boot, forking
from regproxy.process.boot import Program, Record, Role
from regproxy.process.listeners import Listeners
from regproxy.telemetry.metrics_dir import Shelf

_BOOT_SECONDS: Final = 30.0  # from the start to ready
_SILENCE_MIN: Final = 1.0  # seconds without a beat that are normal on a busy machine


class ProxySetup(Struct, frozen=True, eq=False):
    """A configuration that was read, and the resources opened for it, with which children are started."""

    config: Config
    directories: Directories
    listeners: Listeners
    workers: int


class Commons(Struct, frozen=True):
    """The resources that all children of a supervisor share, with any setup. `board`, `commits`: fds.

    `audit`: a pair of datagram sockets, by which workers tell of pulls, and by which that is read.
    `hub`: where Docker Hub is asked through, with DEBUG_HUB.
    """

    shelf: Shelf
    board: int
    commits: int
    audit: tuple[socket.socket, socket.socket]
    claim_key: str
    debug: bool
    started: float
    hub: HubView | None = None


class Child:
    """A child process. `ready`: it has said so. `leaving`: it was told to end, or `killed`, or also `hung`.

    `cut`: how much it had to cut, which it says at its end. `reloads`: the numbers of reloads that it asks
    for. `heard`: when it last said something. All times are of time.monotonic().
    """

    def __init__(
        self, role: Role, slot: int, setup: ProxySetup, commons: Commons, serve: Program, now: float
    ) -> None:
        """Start it; `serve` is what it runs. Raises OSError."""
        self.role, self.slot, self.setup = role, slot, setup
        self._channel, other = socket.socketpair()
        with other:
            self._channel.setblocking(False)
            self.pid = _start(_record(role, slot, setup, commons, other.fileno()), setup, serve)
        self.ready = self.leaving = self.killed = self.hung = False
        self.cut = 0
        self.reloads: list[str] = []
        self.heard = now
        self.ready_at = math.inf
        self._kill_at = math.inf
        self._partial = b""

    def __str__(self) -> str:
        return f"{self.role} {self.slot} (pid {self.pid})"

    def fileno(self) -> int:
        """Return the channel's descriptor, for select()."""
        return self._channel.fileno()

    def hear(self, now: float) -> bool:
        """Read the words that it has sent. False: the channel has ended."""
        try:
            while data := self._channel.recv(4096):
                self.heard = now
                *lines, self._partial = (self._partial + data).split(b"\n")
                for line in lines:
                    self._take(line.decode().split(), now)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _take(self, words: list[str], now: float) -> None:
        match words:
            case [boot.READY]:
                self.ready, self.ready_at = True, now
            case [boot.CUT, count]:
                self.cut = int(count)
            case [boot.RELOAD, number]:
                self.reloads.append(number)

    def tell(self, word: str, kill_at: float = math.inf) -> None:
        """Send a word. `kill_at`: when the child is killed if it has not ended by then."""
        self._kill_at = kill_at
        self.leaving = self.leaving or word != boot.RECONCILE
        self.say(word)

    def say(self, *words: str) -> None:
        """Send a line that tells it something, and has nothing to do with its end."""
        with suppress(OSError):  # it is dying
            self._channel.send((" ".join(words) + "\n").encode())

    @property
    def deadline(self) -> float:
        """When it has to be killed, unless it says something before."""
        timeout = self.setup.config.hang_timeout
        silence = max(timeout, _SILENCE_MIN if self.ready else _BOOT_SECONDS)
        return min(self.heard + silence, self._kill_at)

    def overdue(self, now: float) -> bool:
        """Kill it if its time has come."""
        if now < self.deadline:
            return False
        self.hung = now < self._kill_at
        self.kill()
        return True

    def kill(self) -> None:
        """Send SIGKILL, and wait for nothing more that it says. The supervisor reaps it."""
        self.leaving = self.killed = True
        self.heard = self._kill_at = math.inf
        os.kill(self.pid, signal.SIGKILL)

    def unexpected(self, code: int) -> bool:
        """Return whether an end with this exit code (negative: the signal) was not asked for."""
        return not self.leaving or self.hung or (code < 0 and not self.killed)

    def close(self) -> None:
        """Close the channel, whereupon a child that still runs ends."""
        self._channel.close()


def _record(role: Role, slot: int, setup: ProxySetup, commons: Commons, control: int) -> Record:
    listeners = setup.listeners
    proxy, admin = (sock.fileno() for sock in listeners.sockets[:2])
    is_worker = role == "worker"
    return Record(
        role=role,
        slot=slot,
        metrics=str(commons.shelf.path),
        workers=setup.workers,
        claim_key=commons.claim_key,
        debug=commons.debug,
        started=commons.started,
        control=control,
        board=commons.board,
        commits=commons.commits,
        # A child that does not accept must not keep the ports open either.
        proxy=proxy if is_worker else -1,
        admin=admin if is_worker else -1,
        audit=_audit_ends(is_worker, setup, commons),
        transparent=listeners.of("REGPROXY_TRANSPARENT_LISTEN") if is_worker else (),
        tls=listeners.of("REGPROXY_TLS_LISTEN") if is_worker else (),
        views=str(commons.shelf.path),
        inner_port=listeners.sockets[0].getsockname()[1] if role == "debug_view" else 0,
        hub=commons.hub if role in ("worker", "debug_hub") else None,
    )


def _audit_ends(is_worker: bool, setup: ProxySetup, commons: Commons) -> tuple[int, ...]:
    if setup.config.audit_log == "off":
        return ()
    sends, reads = (each.fileno() for each in commons.audit)
    return (sends,) if is_worker else (sends, reads)


def _start(record: Record, setup: ProxySetup, serve: Program) -> int:
    def run() -> int:
        return boot.run(record, setup.config, setup.directories, serve)

    # The role comes first: `pkill regproxy` matches the first 15 bytes of a title, and means the supervisor.
    return forking.start(f"{record.role}-{record.slot} of regproxy", record.descriptors, run)
