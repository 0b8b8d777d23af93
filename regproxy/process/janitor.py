"""The janitor: a process beside the workers that keeps the cache within its limits, and the index correct.

It handles no client traffic. Its work is cut into pieces of some milliseconds, and between two of them it
reads the supervisor's words. Disk errors are logged, and the work is tried again.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from regproxy.cache import layout
from regproxy.cache.eviction import CacheLimits, Complaints, Disk, Evictor, parts_disk
from regproxy.cache.index.index import Index
from regproxy.cache.part_sweep import sweep_parts
from regproxy.cache.reconcile import Reconciler
from regproxy.core.errors import StoreError
from regproxy.dataplane.board import Board
from regproxy.inventory.catalog import catalogue
from regproxy.process import boot
from regproxy.process.boot import Boot, ControlChannel
from regproxy.registry.descriptors import Named, named
from regproxy.registry.manifests import MANIFEST_MAX
from regproxy.telemetry.audit_log import AuditLog
from regproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_NICE: Final = 5
_TICK: Final = 0.25  # seconds between two ticks of the index, and the longest wait between two rounds
_LIMITS_EVERY: Final = 1.0  # seconds between two checks of the limits
_HURRY: Final = 0.05  # the same after a commit
_PARTS_EVERY: Final = 20.0
_READ_EVERY: Final = 5.0  # seconds between two looks for objects that nobody has read, at most
_TAGS_EVERY: Final = 600.0  # seconds between two sweeps of tags whose content was never fetched
_NOT_FETCHED: Final = 86_400.0  # seconds for which such a tag is remembered
_RETRY: Final = 5.0  # seconds until a comparison that a disk error ended is begun again
_RETRY_BROKEN: Final = 60.0  # the same where directories can't be read
_ENDINGS: Final = frozenset({boot.DRAIN, boot.RETIRE, boot.STOP, boot.GONE})


class Chores:
    """The janitor's work. `round()` does a piece of everything that is due, and never raises for the disk."""

    def __init__(
        self,
        root: Path,
        limits: CacheLimits,
        metrics: Metrics,
        board: Board | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._limits = limits
        self._metrics = metrics
        self._board = board
        self._clock = clock
        self._monotonic = monotonic
        self._complaints = Complaints(log, monotonic)
        self._index: Index | None = None
        self._evictor: Evictor | None = None
        # When each thing is due, monotonic.
        self._tick_at = self._limits_at = self._parts_at = self._tags_at = self._compare_at = monotonic()
        self._read_at = monotonic()
        self._sweep: Iterator[int] | None = None
        self._pass: Iterator[float] | None = None
        self._reconciler: Reconciler | None = None
        self._pass_began = 0.0
        self._wanted = True  # a comparison of blobs/ with the index

    def round(self) -> float:
        """Do a piece of everything that is due; return the seconds until something is due next."""
        now = self._monotonic()
        for due, work in ((self._tick_at, self._tick), (self._limits_at, self._keep_limits)):
            if now >= due:
                self._guarded(work)
        if self._sweep is not None or now >= self._parts_at:
            self._guarded(self._sweep_piece)
        if now >= self._tags_at:
            self._guarded(self._sweep_tags)
        if now >= self._read_at:
            self._guarded(self._read_piece)
        if self._comparing and now >= self._compare_at:
            self._guarded(self._compare_piece)
        due_at = [self._tick_at, self._limits_at, self._read_at]
        due_at += [self._compare_at] if self._comparing else []
        return 0.0 if self._sweep is not None else max(0.0, min(due_at) - self._monotonic())

    def compare(self) -> None:
        """Compare blobs/ with the index: soon, or once more after the comparison under way."""
        self._wanted = True
        if self._pass is None:
            self._compare_at = self._monotonic()

    def look_soon(self) -> None:
        """Check the limits soon, and read what is new, after a commit."""
        soon = self._monotonic() + _HURRY
        self._limits_at, self._read_at = min(self._limits_at, soon), min(self._read_at, soon)

    def close(self) -> None:
        """Release the index, and let other processes evict."""
        if self._evictor is not None:
            self._evictor.close()
        if self._index is not None:
            self._index.close()

    @property
    def _comparing(self) -> bool:
        return self._index is not None and (self._wanted or self._pass is not None)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            what = error.filename or self._root
            self._complaints.say(f"{error.errno}", "%s: %s", what, error.strerror or error)
        except StoreError as error:
            self._complaints.say("index", "%s", error)

    def _tick(self) -> None:
        # An index that can't be opened is tried less often.
        self._tick_at = self._monotonic() + (_TICK if self._index is not None else _LIMITS_EVERY)
        if self._index is None:
            self._open()
            return
        self._index.tick()
        if self._pass is None and not self._index.complete:
            self._wanted = True

    def _open(self) -> None:
        self._root.stat()  # a directory that was removed is made anew by workers that store, not by us
        self._index = index = Index.open(layout.index(self._root), board=self._board, clock=self._clock)
        self._evictor = Evictor(self._root, index, self._limits, self._clock, self._monotonic)

    def _keep_limits(self) -> None:
        self._limits_at = self._monotonic() + _LIMITS_EVERY
        if self._evictor is None:
            return
        freed = self._evictor.step()
        if freed.objects:
            self._metrics.evicted(freed.reason, freed.objects, freed.bytes)
        if freed.more:
            self._limits_at = self._monotonic()
        if self._evictor.astray:
            self._evictor.astray = False
            self._wanted = True
        self._publish()

    def _publish(self) -> None:
        if self._index is not None:
            totals = self._index.totals()
            disk = Disk.of(self._root)
            coming, _ = parts_disk(self._root, self._clock())
            size, floor = totals.disk + coming, disk.floor(self._limits.min_free)
            self._metrics.cache_holds(totals.objects, size, self._limits.max_size, disk.free, floor)
            self._metrics.index_is_complete(self._index.complete)
        self._metrics.publish()

    def _sweep_piece(self) -> None:
        if self._sweep is None:
            self._parts_at = self._monotonic() + _PARTS_EVERY
            self._sweep = sweep_parts(self._root, self._clock)
        try:
            removed = next(self._sweep, None)
        except OSError:
            self._sweep = None
            raise
        if removed is None:
            self._sweep = None
        elif removed:
            log.info("removed %d files that fills and tags had left", removed)

    def _read_piece(self) -> None:
        """Enter which of the new objects are manifests; then pause as long as it took."""
        began = self._monotonic()
        self._read_at = began + _READ_EVERY
        if self._index is not None and catalogue(self._root, self._index):
            self._read_at = 2 * self._monotonic() - began

    def _sweep_tags(self) -> None:
        """Forget tags that clients have asked for by HEAD, but never fetched."""
        self._tags_at = self._monotonic() + _TAGS_EVERY
        if self._index is None or not self._index.complete:
            return
        if self._index.sweep_tags(self._clock() - _NOT_FETCHED):
            self._tags_at = self._monotonic() + _HURRY

    def _compare_piece(self) -> None:
        """Do a piece of a comparison; then pause as long as it took, since others use this disk."""
        began = self._monotonic()
        if self._pass is None:
            self._begin_pass()
        assert self._pass is not None
        try:
            rest = next(self._pass, None)
        except (OSError, StoreError):
            self._end_pass(_RETRY)
            raise
        now = self._monotonic()
        if rest is None:
            self._passed()
        else:
            self._compare_at = now + max(rest, now - began)

    def _begin_pass(self) -> None:
        assert self._index is not None
        self._wanted, self._pass_began = False, self._monotonic()
        self._reconciler = Reconciler(self._root, self._index, self._clock, self._monotonic)
        self._pass = self._reconciler.steps()

    def _end_pass(self, pause: float) -> None:
        self._pass = self._reconciler = None
        self._wanted = self._wanted or pause > 0
        self._compare_at = self._monotonic() + pause

    def _passed(self) -> None:
        done, found = (self._reconciler.done, self._reconciler.found) if self._reconciler else (False, None)
        if done:
            self._metrics.reconciled(self._monotonic() - self._pass_began)
            self._end_pass(0.0)
        else:
            self._end_pass(_RETRY_BROKEN if found is not None and found.failures else _RETRY)


class Janitor:
    """The process. `control` and `commits` (an eventfd, or -1) tell it of events in other processes.

    `audit`: what writes the audit log beside it, None without one.
    """

    def __init__(
        self, chores: Chores, control: ControlChannel, commits: int = -1, audit: AuditLog | None = None
    ) -> None:
        self._chores = chores
        self._control = control
        self._commits = commits
        self._audit = audit
        self._ended = self._retires = False

    def run(self) -> int:
        """Work until the supervisor or end() ends it; return the exit code. In the main thread."""
        bell, button = socket.socketpair()
        with bell, button, selectors.DefaultSelector() as selector:
            for end in (bell, button):
                end.setblocking(False)
            # A wakeup fd interrupts select(), which a signal's handler alone does not.
            before = signal.set_wakeup_fd(button.fileno(), warn_on_full_buffer=False)
            selector.register(bell, selectors.EVENT_READ)
            selector.register(self._control, selectors.EVENT_READ)
            if self._commits >= 0:
                selector.register(self._commits, selectors.EVENT_READ)
            try:
                self._control.say(boot.READY)
                self._loop(selector, bell)
            finally:
                signal.set_wakeup_fd(before)
                if self._audit is not None:
                    self._audit.close(hands_over=self._retires)
                self._chores.close()
        self._control.say(boot.CUT, 0)
        return 0

    def end(self) -> None:
        """End after the current piece of work. For signal handlers."""
        self._ended = True

    def _loop(self, selector: selectors.BaseSelector, bell: socket.socket) -> None:
        while not self._ended:
            self._control.beat(time.monotonic())
            wait = self._chores.round()
            for key, _ in selector.select(min(wait, _TICK)):
                if key.fileobj is self._control:
                    self._obey(self._control.receive())
                elif key.fileobj is bell:
                    with suppress(BlockingIOError):
                        bell.recv(4096)
                else:
                    with suppress(BlockingIOError):
                        os.eventfd_read(self._commits)
                    self._chores.look_soon()

    def _obey(self, words: list[str]) -> None:
        for word in words:
            if word in _ENDINGS:
                self._ended, self._retires = True, word == boot.RETIRE
            elif word == boot.RECONCILE:
                self._chores.compare()


def _audit_log(start: Boot) -> AuditLog | None:
    config, ends, root = start.config, start.record.audit, start.directories.cache
    if len(ends) != 2:
        return None
    try:
        return AuditLog((ends[0], ends[1]), config.audit_log, partial(_named_by, root), config.audit_idle)
    except OSError as error:
        log.error("no audit log: %s: %s", config.audit_log, error.strerror)
        return None


def _named_by(root: Path, digest: str) -> Named | None:
    """Return what a manifest in the cache names, None for one that is not there."""
    try:
        with Path(layout.blob(root, digest)).open("rb") as file:
            return named(file.read(MANIFEST_MAX))
    except OSError:
        return None


def serve(start: Boot) -> int:
    """Run a janitor, and return its exit code."""
    os.nice(_NICE)
    record = start.record
    board = Board(record.board) if record.board >= 0 else None
    limits, metrics = CacheLimits.of(start.config), Metrics(CollectorRegistry())
    chores = Chores(start.directories.cache, limits, metrics, board)
    audit = _audit_log(start)
    if audit is not None:
        metrics.watch(audit)
    janitor = Janitor(chores, start.control, record.commits, audit)
    signal.signal(signal.SIGTERM, lambda *_: janitor.end())
    boot.open_to_sigterm()
    return janitor.run()
