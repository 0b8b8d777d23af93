"""Events as they happen: server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from typing import Any, Final

import msgspec

from regproxy.admin.endpoints.status import StatusReport
from regproxy.admin.gatekeeper import Gatekeeper
from regproxy.admin.live import Live
from regproxy.admin.operations import Call, get
from regproxy.admin.replies import Problem, Streamed
from regproxy.admin.visitors import Visitor
from regproxy.telemetry.snapshots import Snapshot

log = logging.getLogger(__name__)

SUBSCRIBERS_MAX: Final = 16  # of a worker
EVERY: Final = 1.0  # seconds
_QUEUE: Final = 32  # chunks that wait for a slow client; then the oldest is left out
_RETRY_MS: Final = 3000
_MEDIA: Final = b"text/event-stream"


class Events:
    """The endpoint of events. One object for each worker; what others do comes by their snapshots."""

    def __init__(self, status: StatusReport, live: Live, gatekeeper: Gatekeeper, threads: Executor) -> None:
        self._gatekeeper = gatekeeper
        self._threads = threads
        self._status = status
        self._live = live
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._seen: dict[tuple[int, int], int] = {}

    @get("/api/v1/events", media=_MEDIA.decode(), problems={503: "too many listen already"})
    async def events(self, call: Call[None, None]) -> Streamed:
        """Return events as they happen: `status` once a second, `tag-moved`, `refused`.

        The data of each is JSON, that of `status` the answer of GET /api/v1/status. It ends when the proxy's
        process ends, or takes a new configuration, or the token is none any more; whoever listens connects
        again.
        """
        if len(self._queues) >= SUBSCRIBERS_MAX:
            raise Problem(503, f"{SUBSCRIBERS_MAX} listen already", ((b"retry-after", b"10"),))
        return Streamed(_MEDIA, self._chunks(call.visitor))

    def close(self) -> None:
        """End all streams: this worker ends."""
        for queue in self._queues:
            _put(queue, None)

    async def _chunks(self, visitor: Visitor) -> AsyncGenerator[bytes, None]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)
        self._queues.add(queue)
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            yield b"retry: %d\n\n" % _RETRY_MS
            while (chunk := await queue.get()) is not None and await self._gatekeeper.knows(visitor):
                yield chunk
        finally:
            self._queues.discard(queue)
            if not self._queues and self._ticker is not None:
                self._ticker.cancel()
                self._ticker = None

    async def _tick(self) -> None:
        """Make the events of each second, for all who listen."""
        loop = asyncio.get_running_loop()
        self._seen = {(each.slot, each.pid): _last(each) for each in await self._live.all()}
        while True:
            try:
                status = await loop.run_in_executor(self._threads, self._status.current)
                chunks = [_event("status", status), *self._news(await self._live.all())]
            except Exception:
                log.exception("events")
                chunks = [b": nothing to tell\n\n"]
            for queue in self._queues:
                _put(queue, b"".join(chunks))
            await asyncio.sleep(EVERY)

    def _news(self, snapshots: list[Snapshot]) -> list[bytes]:
        """Return what has happened since the last time, in all workers."""
        news = [
            each
            for snapshot in snapshots
            for each in snapshot.events
            if each.number > self._seen.get((snapshot.slot, snapshot.pid), 0)
        ]
        self._seen = {(each.slot, each.pid): _last(each) for each in snapshots}
        news.sort(key=lambda each: each.at)
        return [_event(each.kind, {"at": each.at} | each.fields) for each in news]


def _last(snapshot: Snapshot) -> int:
    return snapshot.events[-1].number if snapshot.events else 0


def _event(kind: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(data))


def _put(queue: asyncio.Queue[bytes | None], chunk: bytes | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(chunk)
