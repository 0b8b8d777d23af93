"""Follow a part that another process fills: its growth, its end, and taking over where its filler died."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from regproxy.cache.parts import FAILED, OPEN, VERIFIED, Meta, Part
from regproxy.core.errors import BadResponse, StoreError
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.inotify import Followed, Watch

# The kernel reports a close before it releases the lock: look again soon after each event.
SOON: Final = 0.01  # seconds
# How long a lost event (inotify(7): the queue may overflow) can go unnoticed.
_LATE: Final = 0.5
_POLL: Final = 0.05  # without inotify events
_LOOKS: Final = 5  # looks at intervals of SOON after each event


class FollowOutcome(Enum):
    """How following a part ended."""

    STORED = auto()  # it is in the store
    UNSTORED = auto()  # it is complete and verified, but not in the store
    OURS = auto()  # its filler has gone: this process has the lock, and may go on from the part's bytes
    ALONE = auto()  # the disk has failed its filler: the part's bytes can be read, but no more will come
    FAILED = auto()  # given up by its filler: `Following.meta` says why
    STALLED = auto()  # its filler neither makes progress nor exits (a paused container)


class PartChanges:
    """Awaitable events of the open file `fd`."""

    def __init__(self, watch: Watch | None, fd: int) -> None:
        self._happened = asyncio.Event()
        self._looks = 0
        self._followed: Followed | None = None
        if watch is not None:
            with suppress(OSError):  # the kernel's limit on watches: then the file is polled
                self._followed = watch.follow(fd, self._happened.set)

    @property
    def told(self) -> bool:
        """Whether the kernel reports events; otherwise the file has to be polled."""
        return self._followed is not None

    def grows(self, growth: GrowingFile) -> None:
        """Report growth events to `growth` from now on, and no longer to next()."""
        if self._followed is not None:
            self._followed.growth = growth
            self._followed.eager = False

    def ends(self) -> None:
        """Stop reporting growth events."""
        if self._followed is not None:
            self._followed.eager = False

    async def next(self) -> None:
        """Wait for the next change, or until it is time to look anyway."""
        late = _LATE if self._followed is not None else _POLL
        try:
            async with asyncio.timeout(SOON if self._looks else late):
                await self._happened.wait()
            self._looks = _LOOKS
        except TimeoutError:
            self._looks = max(0, self._looks - 1)
        self._happened.clear()

    def close(self) -> None:
        if self._followed is not None:
            self._followed.close()


class Following:
    """A part that another process fills. `meta`: the last one that its filler has written.

    `patience`: seconds without any progress after which the part is STALLED.
    """

    def __init__(self, part: Part, watch: Watch | None, patience: float = 300.0) -> None:
        self.part = part
        self.meta: Meta | None = None
        self._patience = patience
        self._opened = False
        self._at: tuple[object, ...] = ()
        self._since = 0.0
        self._watch = watch
        self._changes = PartChanges(watch, part.fd)
        self._map: Followed | None = None

    async def run(
        self,
        on_open: Callable[[Meta], None],
        stored: Callable[[], int | None],
        check: Callable[[Meta], None] = lambda meta: None,
    ) -> FollowOutcome:
        """Follow the part to its end. `on_open` is called once, when the origin's head is known.

        `stored()` returns the descriptor of the content in the store, None where the store lacks it. `check`
        is called with each meta, and raises where the part must not be followed.
        """
        try:
            while True:
                outcome = self._look(stored)
                meta = self.meta
                if meta is not None and outcome is None:
                    check(meta)
                if self._can_open(meta) and meta is not None and not self._opened:
                    self._opened = True
                    self._follow_growth()
                    on_open(meta)
                if outcome is None and self._stalls():
                    outcome = FollowOutcome.STALLED
                if outcome is not None:
                    return outcome
                await self._changes.next()
        finally:
            self._changes.close()
            if self._map is not None:
                self._map.close()
            self.part.growth.on_wait = None

    def _can_open(self, meta: Meta | None) -> bool:
        """Return whether it is known which bytes there are to read."""
        if meta is None or meta.state not in (OPEN, VERIFIED):
            return False
        growth = self.part.growth
        if growth.extents is None:
            return not meta.mapped or growth.done
        return growth.extents.total == meta.total

    def _follow_growth(self) -> None:
        """Have growth events reach the part's readers directly."""
        growth = self.part.growth
        extents = growth.extents
        if extents is None:
            self._changes.grows(growth)
            return
        growth.on_wait = lambda: self.part.ask_for(growth.wanted())
        self._changes.ends()
        if self._watch is not None:
            with suppress(OSError):  # then it is polled
                self._map = self._watch.follow(extents.fd, _nothing, growth)
                self._map.eager = False
        # Take in blocks that were marked before the watch began.
        growth.refresh()

    def _stalls(self) -> bool:
        growth, now = self.part.growth, time.monotonic()
        at: tuple[object, ...] = (growth.written, os.fstat(self.part.fd).st_mtime_ns, self.meta)
        if at != self._at:
            self._at, self._since = at, now
        return now - self._since > self._patience

    def _know(self, meta: Meta, size: int) -> None:
        """Tell the growth which bytes are present, where that is known."""
        if not meta.mapped:
            self.part.growth.follow(size)
        elif self.part.take_map(meta.total):
            self.part.growth.refresh()

    def _complete(self, size: int) -> None:
        """Finish the growth: all `size` bytes are present and verified.

        Raises BadResponse where readers were told another length.
        """
        growth = self.part.growth
        said = growth.total if self._opened or self.meta is None else self.meta.total
        if said not in (-1, size):
            raise BadResponse(f"the process that fetched it declared {said} bytes, and has {size}")
        growth.gather()
        growth.follow(size)
        growth.finish()

    def _look(self, stored: Callable[[], int | None]) -> FollowOutcome | None:
        part, growth = self.part, self.part.growth
        # In this order: a filler writes the meta first, then acts on it, then releases the lock.
        free = part.take()
        named = part.named
        self.meta = meta = part.read()
        size = part.size
        if meta is not None and meta.state == VERIFIED and meta.size == size:
            if not growth.done:
                self._complete(size)
        elif meta is not None:
            self._know(meta, size)
        if named:
            # A filler removes the name last, also where it has failed.
            return FollowOutcome.OURS if free else None
        part.release()
        if meta is not None and meta.state == FAILED:
            return FollowOutcome.FAILED
        fd = stored()
        if fd is not None and os.path.samestat(os.fstat(fd), os.fstat(part.fd)):
            self._complete(size)
            return FollowOutcome.STORED
        if growth.done:
            return FollowOutcome.UNSTORED
        # The stored copy was fetched by a third process: our readers can't be told that they have all of it.
        return FollowOutcome.STORED if fd is not None and not self._opened else FollowOutcome.ALONE


def _nothing() -> None:
    """Ignore the event: only the growth has to hear of it."""


def alone(part: Part) -> None:
    """Go on with a part that has lost its name, with the rest in memory. Raises StoreError."""
    part.path = None
    part.mine = True
    if part.growth.extents is None:
        part.growth.follow(part.size)
    else:
        part.growth.refresh()
        part.growth.gather()
    try:
        part.growth.relay(errno.ENOSPC)
    except OSError as error:
        raise StoreError(error.strerror) from None
