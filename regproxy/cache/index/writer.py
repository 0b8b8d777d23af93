"""Write the index in a thread: pending changes in batches, and jobs that a caller waits for one by one.

It also opens the file again when needed, as that takes longer than an event loop can wait.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Final, Protocol, TypeVar

from regproxy.cache.index.database import OpenedIndex, is_damage, renew
from regproxy.cache.index.rows import TagKey
from regproxy.cache.index.transactions import Changes, ObjectChange, Pending, TagChange, transaction
from regproxy.core.errors import StoreError

logger = logging.getLogger(__name__)

_LINGER: Final = 0.05  # seconds that a change waits for others to share its transaction
_TOUCH_EVERY: Final = 5.0  # seconds between two writes of last uses
_RETRY: Final = 1.0  # seconds after a failed transaction, and after the file could not be opened again
_BATCH: Final = 2000  # changes in one transaction
_BACKLOG: Final = 100_000  # pending changes while the disk takes none

T = TypeVar("T")


class Generation(Protocol):
    """A number shared by all processes (regproxy.dataplane.board.Board)."""

    @property
    def generation(self) -> int:
        """The number, which rises whenever a process changes something that others may have in memory."""

    @property
    def purges(self) -> int:
        """A number that rises with it when it is unknown what has changed."""

    def purge(self) -> None:
        """Tell the others to drop everything from memory."""

    def bump(self) -> int:
        """Tell the others to read the journal; return the new generation."""


class Writer:
    """The writer thread and its queues. `tags`, `objects`, `touched`: changes that are not on disk yet.

    `me`: this process's name in the journal. `suspicion`: an error that may come from a damaged file.
    """

    def __init__(
        self, opened: OpenedIndex, me: int, board: Generation, commits_fd: int, clock: Callable[[], float]
    ) -> None:
        self.tags: Pending[TagKey, TagChange] = Pending()
        self.objects: Pending[str, ObjectChange] = Pending()
        # Used by both threads without a lock: add(), copy() and difference_update() of strings are one step
        # each under the GIL. A digest stays in it until its use is on disk.
        self.touched: set[str] = set()
        # Counted by the caller's thread, and taken by the writer's as a whole: a count that is under way at
        # that moment is lost. In `_hits` are those taken that are not on disk yet.
        self.hits: dict[str, int] = {}
        self._hits: dict[str, int] = {}
        self.suspicion: sqlite3.Error | None = None
        self._opened = opened
        self._renewed: OpenedIndex | None = None
        self._me = me
        self._board = board
        self._commits_fd = commits_fd
        self._clock = clock
        self._changed = threading.Condition()
        self._dirty = self._urgent = False
        self._failing = False
        self._closing = False
        self._asked = self._done = 0  # flushes
        self._jobs: list[Callable[[], None]] = []
        self._look = False
        self._look_at = 0.0
        self._cannot_renew = ""
        self._touch_at = time.monotonic() + _TOUCH_EVERY
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    # For other threads

    def tags_naming(self, place: tuple[str, int, str], digest: str) -> set[str]:
        """Return the tags of a repository (host, port, name) that pending rows say to be this content."""
        return {
            key[3]
            for key, change in self.tags.items()
            if key[:3] == place and any(row.digest == digest for row in change.rows.values())
        }

    def registries_naming(self, digest: str, variant: str) -> set[tuple[str, int]]:
        """Return the registries (host, port) that pending rows of this variant say to have this content."""
        changes = [(key, change.rows.get(variant)) for key, change in self.tags.items() if key[3] == digest]
        return {key[:2] for key, row in changes if row is not None and row.named}

    def wake(self, *, urgent: bool = False) -> None:
        """Tell the thread that there are changes. `urgent`: until they are written, others go on using
        removed data.
        """
        if not self._dirty or urgent:
            with self._changed:
                self._dirty = True
                self._urgent = self._urgent or urgent
                self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until the pending changes are written; False: they are not, after `timeout` seconds."""
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._done >= mine, timeout) and not self._failing

    def run(self, job: Callable[[Changes], T], on: OpenedIndex) -> T:
        """Run `job` in a transaction of its own, after pending changes. Raises StoreError; then nothing is
        done.

        `on` is the file that the caller knows: no other one is changed.
        """
        future: Future[T] = Future()

        def carry_out() -> None:
            try:
                self._ensure(on)
                future.set_result(self._transact(job))
            except Exception as error:
                future.set_exception(error)

        with self._changed:
            if self._closing:
                raise StoreError("index: it is closed")
            self._jobs.append(carry_out)
            self._changed.notify_all()
        try:
            return future.result()
        except sqlite3.Error as error:
            raise StoreError(f"index: {error}") from error

    def look(self) -> None:
        """Have the thread check the file; see renewed()."""
        with self._changed:
            if time.monotonic() >= self._look_at:
                self._look = True
                self._changed.notify_all()

    def renewed(self) -> OpenedIndex | None:
        """Return the file that was opened since the last call, for the reader to switch to; None: the
        same.
        """
        with self._changed:
            renewed, self._renewed = self._renewed, None
            return renewed

    def suspect(self, error: sqlite3.Error) -> None:
        """Remember an error if it may come from a damaged file."""
        if is_damage(error):
            self.suspicion = error

    def close(self) -> list[sqlite3.Connection]:
        """Write pending changes and end the thread; return the connections to close now."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        renewed = self.renewed()
        return [self._opened.writer, *([renewed.reader] if renewed is not None else [])]

    # The thread

    def _hurried(self) -> bool:
        return self._flushing() or self._look or bool(self._jobs)

    def _flushing(self) -> bool:
        return self._closing or self._asked > self._done

    def _run(self) -> None:
        closing_now = False
        while not closing_now:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._hurried(), _TOUCH_EVERY)
                if self._failing:
                    self._changed.wait_for(self._hurried, _RETRY)
                elif self._dirty:
                    self._changed.wait_for(lambda: self._hurried() or self._urgent, _LINGER)
                asked, closing_now, flushing = self._asked, self._closing, self._flushing()
                jobs, self._jobs = self._jobs, []
                look, self._look = self._look, False
                self._dirty = self._urgent = False
            if look:
                self._renew()
            written = self._write_all(uses=flushing or time.monotonic() >= self._touch_at)
            for job in jobs:
                job()
            with self._changed:
                self._done = asked
                self._failing = not written
                self._dirty = self._dirty or self._failing
                self._changed.notify_all()

    def _write_all(self, *, uses: bool) -> bool:
        """Write all pending changes, in batches; False: SQLite failed, and they stay pending."""
        if self._opened.inodes is None:
            self._bound()
            return not (self.tags or self.objects)
        try:
            while self.tags or self.objects:
                tags, objects = self.tags.take(_BATCH), self.objects.take(_BATCH)
                self._write(tags, objects)
                self.tags.settle(tags)
                self.objects.settle(objects)
            if uses:
                self._write_uses()
        except sqlite3.Error as error:
            if not self._failing:
                logger.warning("index: can't write, will go on trying: %s", error)
            self.suspect(error)
            self._bound()
            return False
        if uses:
            self._touch_at = time.monotonic() + _TOUCH_EVERY
        return True

    def _write(self, tags: dict[TagKey, TagChange], objects: dict[str, ObjectChange]) -> None:
        self._transact(lambda changes: changes.pending(tags, objects))

    def _write_uses(self) -> None:
        taken, self.hits = self.hits, {}
        for digest, hits in taken.copy().items():
            self._hits[digest] = self._hits.get(digest, 0) + hits
        left = iter(self.touched.copy().union(self._hits))
        while digests := list(islice(left, _BATCH)):
            self._transact(self._touching({digest: self._hits.get(digest, 0) for digest in digests}))
            self.touched.difference_update(digests)
            for digest in digests:
                self._hits.pop(digest, None)

    def _touching(self, uses: dict[str, int]) -> Callable[[Changes], None]:
        return lambda changes: changes.touch(uses, self._clock())

    def _bound(self) -> None:
        """Keep pending changes from growing for ever."""
        self.tags.trim(_BACKLOG)
        self.objects.trim(_BACKLOG)
        if len(self.touched) > _BACKLOG:
            self.touched.clear()
        if len(self.hits) + len(self._hits) > _BACKLOG:
            self.hits = {}
            self._hits.clear()

    def _transact(self, job: Callable[[Changes], T]) -> T:
        try:
            with transaction(self._opened.writer, self._me) as changes:
                result = job(changes)
        except sqlite3.Error as error:
            self.suspect(error)
            raise
        if changes.told:
            self._board.bump()
        if changes.stored:
            self.announce()
        return result

    def announce(self) -> None:
        """Tell the janitor that the cache grows."""
        if self._commits_fd >= 0:
            with suppress(OSError):  # full: the reader has enough to do
                os.eventfd_write(self._commits_fd, 1)

    def _ensure(self, on: OpenedIndex) -> None:
        """Raise StoreError unless `on` is the file that is open here and that others would open."""
        if self._opened is on and on.is_current():
            return
        self._renew()
        raise StoreError(f"{on.path}: it is another file now, and is opened anew")

    def _renew(self) -> None:
        try:
            renewed = renew(self._opened, self.suspicion)
        except StoreError as error:
            if str(error) != self._cannot_renew:
                logger.warning("index: can't be opened anew, will go on trying: %s", error)
            self._cannot_renew = str(error)
            self._look_at = time.monotonic() + _RETRY
            return
        self.suspicion, self._cannot_renew = None, ""
        if renewed is None:
            return
        self._opened = renewed
        with self._changed:
            missed, self._renewed = self._renewed, renewed
        if missed is not None:
            missed.reader.close()
