"""Count and note in a worker what becomes of requests, and add it to the file every few seconds.

Counting is a dictionary access and additions in C; what the data plane answers by itself it counts in the
same objects. The file is written by a thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

from regproxy.core.errors import StoreError
from regproxy.http.origin import named
from regproxy.telemetry.usage.counts import NAMES_MAX, Uses, add, most
from regproxy.telemetry.usage.records import Batch, Client, Image, Refusal, TagMove
from regproxy.telemetry.usage.usage_file import EVENTS_MAX, UsageFile

log = logging.getLogger(__name__)

# Registry, port, repository, tag, and the digests that it was and is.
OnMoved = Callable[[str, int, str, str, str, str], None]
EVERY: Final = 5.0  # seconds between two batches
_TEXT_MAX: Final = 256  # characters of a name that nobody has checked
_MESSAGE_MAX: Final = 500


class UsageCounters(Protocol):
    """The metrics of what is noted here."""

    def tag_moved(self, registry: str) -> None:
        """Count a tag that has become another digest."""


class Recorder:
    """What one worker counts. Use from one thread. `clock`: seconds since the epoch.

    `images`, `clients`: the use of each. Times are pulls of an image, or requests for a repository's layers;
    of a client all requests. `moved` is told of each tag that has become another digest, at once.
    """

    def __init__(
        self,
        file: UsageFile,
        counters: UsageCounters,
        clock: Callable[[], float],
        moved: OnMoved | None = None,
    ) -> None:
        self._file = file
        self._counters = counters
        self._clock = clock
        self._moved = moved
        self.images: Uses[Image] = Uses()
        self.clients: Uses[Client] = Uses()
        self._moves: deque[TagMove] = deque(maxlen=EVENTS_MAX)
        self._refusals: deque[Refusal] = deque(maxlen=EVENTS_MAX)
        # Not on disk yet, and what is being written of it.
        self._left: Batch | None = None
        self._writing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "usage")
        self._next = 0.0
        self._said = ""

    # --- counting ----------------------------------------------------------------------------------------

    def tag_moved(self, registry: str, port: int, repository: str, tag: str, old: str, new: str) -> None:
        """Note that a tag has become another digest."""
        self._counters.tag_moved(named(registry, port))
        if self._moved is not None:
            self._moved(registry, port, repository, tag, old, new)
        self._moves.append(TagMove(self._clock(), registry, port, repository, tag, old, new))

    def refused(
        self,
        kind: str,
        who: tuple[str, str, str],
        image: tuple[str, int, str, str],
        rule: str,
        message: str,
    ) -> None:
        """Note a refusal by a rule, by access or for want of a login (`kind`: rule, access, login).

        `who`: the principal's kind and name, and the client's address. `image`: registry, port, repository,
        reference. `message`: what the client is told, which names no secret.
        """
        client = (who[0], who[1][:_TEXT_MAX] or who[2])
        registry, port, repository, reference = image
        where = (registry, port, repository[:_TEXT_MAX], reference[:_TEXT_MAX])
        told = (kind, rule, message[:_MESSAGE_MAX])
        self._refusals.append(Refusal._make((self._clock(), *client, who[2], *where, *told)))

    # --- the file ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Have a batch written, if that is due; to be called several times a second. `now`: monotonic."""
        if now < self._next or (self._writing is not None and not self._writing.done()):
            return
        self._next = now + EVERY
        batch = self._batch()
        if batch:
            self._left = batch
            self._writing = self._thread.submit(self._file.add, batch)

    def close(self) -> None:
        """Write what is left."""
        if self._writing is not None:
            self._writing.exception()  # waits
        batch = self._batch()
        self._thread.shutdown()
        if batch:
            try:
                self._file.add(batch)
            except StoreError as error:
                log.warning("usage: what was counted last is lost: %s", error)

    def _batch(self) -> Batch:
        """Return what was counted and noted, with what could not be written before."""
        batch = Batch(self._clock())
        before, writing = self._left, self._writing
        self._left = self._writing = None
        if writing is not None and before is not None:
            self._note_fault(writing.exception())
            if writing.exception() is not None:
                batch.images, batch.clients = before.images, before.clients
                batch.moves, batch.refusals = before.moves, before.refusals
        add(batch.images, self.images.take().items())
        add(batch.clients, self.clients.take().items())
        batch.images = most(batch.images, NAMES_MAX)
        batch.clients = most(batch.clients, NAMES_MAX)
        batch.moves = [*batch.moves, *self._moves][-EVENTS_MAX:]
        batch.refusals = [*batch.refusals, *self._refusals][-EVENTS_MAX:]
        self._moves.clear()
        self._refusals.clear()
        return batch

    def _note_fault(self, error: BaseException | None) -> None:
        """Say once that the file can't be written, and again when something else is wrong."""
        text = "" if error is None else str(error)
        if text and text != self._said:
            log.warning("usage: can't be written, will go on trying: %s", text)
        self._said = text
