"""A listening socket that others wait at, too: one of them is woken, and need not be the one that accepts."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from regproxy.dataplane.exclusive import ExclusiveWatch
from regproxy.dataplane.listener import Listener
from regproxy.dataplane.stream import Stream
from tests.support.plane import Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def listener(plane: Plane, server: socket.socket, taken: list[Stream]) -> Listener:
    return Listener(plane.reactor, os.dup(server.fileno()), taken.append, shared=True)


async def until_taken(plane: Plane, taken: list[Stream], count: int) -> None:
    while len(taken) < count:
        await plane.turns(1)


def test_a_connection_is_taken(plane: Plane, run: Run, server: socket.socket) -> None:
    taken: list[Stream] = []
    ours = listener(plane, server, taken)
    assert ours.exclusive, "uvloop or the kernel has changed: all workers would be woken"

    async def test() -> None:
        for count in range(1, 4):
            with socket.create_connection(server.getsockname()):
                await until_taken(plane, taken, count)
        assert (plane.reactor.accepted, plane.reactor.woken_in_vain) == (3, 0)

    run(test())
    ours.close()


def test_who_was_woken_does_not_look(plane: Plane, run: Run, server: socket.socket) -> None:
    """Somebody who waits ahead of us is woken for a connection and leaves it: we take it nevertheless."""
    taken: list[Stream] = []
    with select.epoll() as other:
        other.register(server, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        ours = listener(plane, server, taken)

        async def test() -> None:
            woken = plane.loop.run_in_executor(None, other.poll, 20)
            await plane.turns()
            with socket.create_connection(server.getsockname()):
                await woken
                await until_taken(plane, taken, 1)

        run(test())
        ours.close()


def test_several_that_wait_at_once_are_taken_one_by_one(
    plane: Plane,
    run: Run,
    server: socket.socket,
) -> None:
    taken: list[Stream] = []
    ours = listener(plane, server, taken)
    far = [socket.create_connection(server.getsockname()) for _ in range(20)]
    run(until_taken(plane, taken, 20))
    ours.close()
    for each in far:
        each.close()


def test_a_closed_one_is_not_woken(plane: Plane, run: Run, server: socket.socket) -> None:
    """The socket itself stays open elsewhere."""
    taken: list[Stream] = []
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    ours = listener(plane, server, taken)
    ours.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors

    async def test() -> None:
        with socket.create_connection(server.getsockname()):
            await plane.turns()

    run(test())
    assert (taken, plane.reactor.woken_in_vain) == ([], 0)


def test_a_loop_that_does_not_tell_its_epoll_set(server: socket.socket) -> None:
    with pytest.raises(OSError, match="epoll set"):
        ExclusiveWatch(object(), server.fileno(), print)  # type: ignore[arg-type]


def test_what_can_not_be_watched(tmp_path: Path) -> None:
    """epoll(7) takes no files."""
    loop = uvloop.new_event_loop()
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="EPOLLEXCLUSIVE"):
        ExclusiveWatch(loop, file.fileno(), print)
    loop.close()
