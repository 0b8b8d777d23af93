"""Which state of reading a stream may leave for which other: checked on a debug reactor, borne on any."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.sinks import BytesSink
from regproxy.dataplane.stream import Stream
from tests.support.plane import LIMIT, Plane, plane

__all__ = ["plane"]  # fixtures

ASK: dict[str, Callable[[Stream], object]] = {
    "paused": lambda stream: stream.pause(),
    "head": lambda stream: stream.next_head(LIMIT, LIMIT),
    "body": lambda stream: stream.receive(BytesSink(10), "length", 5, LIMIT),
    "idle": lambda stream: stream.watch_idle(LIMIT),
    # What it has to say is out at once, and it waits for the peer's end.
    "lingering": lambda stream: stream.close(linger=True),
}
ALLOWED = {
    "paused": {"paused", "head", "body", "idle", "lingering"},
    "head": {"paused", "head", "lingering"},
    "body": {"paused", "lingering"},
    "idle": {"paused", "head", "lingering"},
    "lingering": {"paused", "lingering"},
}
PAIRS = [(before, after) for before in ASK for after in ASK]


@contextmanager
def in_state(state: str, reactor: Reactor) -> Iterator[Stream]:
    near, far = socket.socketpair()
    near.setblocking(False)
    stream = Stream(reactor, near.detach())
    try:
        ASK[state](stream)
        assert stream.open
        yield stream
    finally:
        stream.abort()
        far.close()


@pytest.mark.parametrize("before, after", PAIRS)
def test_debug(before: str, after: str, plane: Plane) -> None:
    assert plane.reactor.debug
    with in_state(before, plane.reactor) as stream:
        if after in ALLOWED[before]:
            ASK[after](stream)
        else:
            with pytest.raises(AssertionError, match=f"^a stream can't go from {before} to {after}$"):
                ASK[after](stream)
        # And everything may follow the end.
        stream.abort()
        ASK["head"](stream)
        ASK["body"](stream)


@pytest.mark.parametrize("before, after", PAIRS)
def test_no_debug(before: str, after: str, plane: Plane) -> None:
    reactor = Reactor(plane.loop)
    assert not reactor.debug
    with in_state(before, reactor) as stream:
        ASK[after](stream)
        assert stream.open
