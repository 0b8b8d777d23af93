"""Events as they happen: server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import logging
import time
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
from regproxy.cache.pins import name_of_logged
from regproxy.telemetry.snapshots import LiveEvent, Snapshot

log = logging.getLogger(__name__)

SUBSCRIBERS_MAX: Final = 16  # of a worker
EVERY: Final = 1.0  # seconds
_QUEUE: Final = 32  # chunks that wait for a slow client; then the oldest is left out
_RETRY_MS: Final = 3000
_GONE_SECONDS: Final = 600.0  # after which a worker that has not been seen is forgotten
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
        self._seen: dict[tuple[int, int], tuple[int, float]] = {}
        self._closed = False

    @get("/api/v1/events", media=_MEDIA.decode(), problems={503: "too many listen already"})
    async def events(self, call: Call[None, None]) -> Streamed:
        """Return events as they happen: `status` once a second, `tag-moved`, `refused`.

        The data of each is JSON, that of `status` the answer of GET /api/v1/status. It ends when the proxy's
        process ends, or takes a new configuration, or the token is revoked; listeners connect again.
        """
        if len(self._queues) >= SUBSCRIBERS_MAX:
            raise Problem(503, f"{SUBSCRIBERS_MAX} listen already", ((b"retry-after", b"10"),))
        if self._closed:
            # A connection that is idle while a worker retires may still bring one: it would never end.
            return Streamed(_MEDIA, _nothing())
        return Streamed(_MEDIA, self._chunks(call.visitor))

    def close(self) -> None:
        """End all streams, and begin none any more: this worker ends."""
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
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
        loop, began = asyncio.get_running_loop(), time.time()
        self._seen.clear()
        while True:
            try:
                status = await loop.run_in_executor(self._threads, self._status.current)
                chunks = [_event("status", status), *self._news(await self._live.all(), began)]
            except Exception:
                log.exception("events")
                chunks = [b": nothing to tell\n\n"]
            for queue in self._queues:
                _put(queue, b"".join(chunks))
            await asyncio.sleep(EVERY)

    def _news(self, snapshots: list[Snapshot], began: float) -> list[bytes]:
        """Return what has happened in all workers since the last time, or since `began` (epoch)."""
        now, news = time.monotonic(), list[LiveEvent]()
        for snapshot in snapshots:
            key = (snapshot.slot, snapshot.pid)
            last, _ = self._seen.get(key, (0, now))
            news += [each for each in snapshot.events if each.number > last and each.at >= began]
            if snapshot.events:
                last = max(last, snapshot.events[-1].number)
            self._seen[key] = (last, now)
        # A worker may be missing for a while, and is not to tell everything again.
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen[1] < _GONE_SECONDS}
        news.sort(key=lambda each: each.at)
        return [_event(each.kind, {"at": each.at} | _named(each.fields)) for each in news]


async def _nothing() -> AsyncGenerator[bytes, None]:
    yield b"retry: %d\n\n" % _RETRY_MS


def _named(fields: dict[str, str]) -> dict[str, str]:
    registry = fields.get("registry")
    return fields if registry is None else fields | {"registry": name_of_logged(registry)}


def _event(kind: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(data))


def _put(queue: asyncio.Queue[bytes | None], chunk: bytes | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(chunk)
