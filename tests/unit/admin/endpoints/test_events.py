"""Streams of events: what is told, once, and how they end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from regproxy.admin.endpoints import events as module
from regproxy.admin.endpoints.events import Events
from regproxy.telemetry.snapshots import LiveEvent, Snapshot

SOON = 1e12  # after any test has begun


class Parts:
    """What the endpoint asks: a status, and what all workers do, round after round."""

    def __init__(self, *rounds: list[Snapshot] | Exception) -> None:
        self._rounds = list(rounds)

    def current(self) -> str:
        return "well"

    async def all(self) -> list[Snapshot]:
        found = self._rounds.pop(0) if len(self._rounds) > 1 else self._rounds[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def knows(self, visitor: object) -> bool:
        return True


def worker(slot: int, *numbers: int, pid: int = 0, at: float = SOON, registry: str = "reg.test") -> Snapshot:
    told = [LiveEvent(each, at, "refused", {"registry": registry, "n": str(each)}) for each in numbers]
    return Snapshot(slot, pid or 100 + slot, 1.0, events=told)


def listen(
    parts: Parts, do: Callable[[Events, AsyncGenerator[bytes, None]], Any], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run `do` with the endpoint and a stream of it."""
    monkeypatch.setattr(module, "EVERY", 0.0)

    async def run() -> Any:
        with ThreadPoolExecutor(1) as threads:
            fakes: Any = parts, parts, parts, threads
            events = Events(*fakes)
            call: Any = type("Call", (), {"visitor": None})
            stream = (await events.events(call)).chunks
            try:
                async with asyncio.timeout(20):
                    return await do(events, stream)
            finally:
                await stream.aclose()

    return asyncio.run(run())


def told(parts: Parts, rounds: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the numbers of the events that are told in some rounds."""

    async def read(events: Events, stream: AsyncGenerator[bytes, None]) -> list[str]:
        await anext(stream)
        text = b"".join([await anext(stream) for _ in range(rounds)]).decode()
        return [
            json.loads(each.partition("data: ")[2])["n"]
            for each in text.split("\n\n")
            if each.startswith("event: refused")
        ]

    found: list[str] = listen(parts, read, monkeypatch)
    return found


def test_each_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a worker is missing in between, as one that is busy; its successor counts anew."""
    one, other = worker(0, 1, 2), worker(1, 1)
    rounds = [one, other], [other], [one, other], [worker(0, 1, 2, 3), other], [worker(0, 1, pid=9), other]
    assert told(Parts(*rounds), 6, monkeypatch) == ["1", "2", "1", "3", "1"]


def test_what_was_before_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a worker that is missing at first."""
    old = worker(0, 1, 2, at=time.time() - 60)
    assert told(Parts([old], [old, worker(1, 1, at=5.0)]), 3, monkeypatch) == []


def test_an_error_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps nobody waiting for ever."""
    assert told(Parts(OSError("a full disk"), [worker(0, 1)]), 3, monkeypatch) == ["1"]


def test_registries_have_the_names_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(events: Events, stream: AsyncGenerator[bytes, None]) -> bytes:
        await anext(stream)
        return await anext(stream)

    parts = Parts([worker(0, 1, registry="registry-1.docker.io")])
    assert b'"registry":"docker.io"' in listen(parts, read, monkeypatch)


def test_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams end, and one that begins later ends at once: it would keep a worker that retires."""

    async def close(events: Events, stream: AsyncGenerator[bytes, None]) -> list[bytes]:
        await anext(stream)
        events.close()
        async for _ in stream:
            pass
        call: Any = type("Call", (), {"visitor": None})
        return [chunk async for chunk in (await events.events(call)).chunks]

    assert listen(Parts([worker(0)]), close, monkeypatch) == [b"retry: 3000\n\n"]
