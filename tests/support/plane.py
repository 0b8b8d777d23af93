"""The data plane in a test's own event loop: streams over socket pairs, files, and what handlers are told."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import socket
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from regproxy.dataplane import file as file_module
from regproxy.dataplane import splice
from regproxy.dataplane import stream as stream_module
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.reactor import Reactor
from regproxy.dataplane.stream import Stream

DATA = random.Random("relay").randbytes(700_000)
LIMIT = 20.0  # seconds until a test gives up

Event = tuple[Any, ...]


class Told:
    """A stream's handler: what it is told, in order."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """What the stream tells next: its name without `on_`, and the arguments."""
        return await asyncio.wait_for(self._events.get(), LIMIT)

    @property
    def quiet(self) -> bool:
        return self._events.empty()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args: self._events.put_nowait((name[3:], *args))


class Plane:
    """A reactor in a uvloop; `errors` is what went wrong in a handler or a callback."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.errors: list[dict[str, Any]] = []
        self.jobs = 0  # done by threads
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.reactor = Reactor(self.loop, debug=True)
        self.reactor.start()
        self._far: list[socket.socket] = []

    def stream(self, *, buffer: int | None = None, tcp: bool = False) -> tuple[Stream, Told, socket.socket]:
        """A stream over a socketpair, its handler, and the other end. `buffer`: of the kernel, in bytes."""
        near, far = tcp_pair() if tcp else socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        if buffer is not None:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self._far.append(far)
        stream, told = Stream(self.reactor, near.detach()), Told()
        stream.handler = told
        return stream, told, far

    def run_in_executor(self, executor: Executor | None, work: Callable[..., Any], *args: Any) -> Any:
        """The loop's own, counted: a File takes this object for its loop."""
        self.jobs += 1
        return self.loop.run_in_executor(executor, work, *args)

    def file(self, path: Path, size: int = -1, flags: int = os.O_RDONLY) -> File:
        fd = os.open(path, flags | os.O_CLOEXEC)
        return File(fd, os.fstat(fd).st_size if size < 0 else size, self)  # type: ignore[arg-type]

    def growth(self, path: Path, limit: int = 0) -> GrowingFile:
        return GrowingFile(File(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), -1, self.loop), limit)

    async def write(self, growth: GrowingFile, data: bytes, *, complete: bool = True) -> str:
        """Have the growth receive this as an origin's body; what the stream said of its end."""
        stream, told, far = self.stream()
        stream.receive(growth, "length", len(data), LIMIT)
        sending = self.loop.create_task(self.loop.sock_sendall(far, data))
        name, *event = await told.next()
        assert (name, event[0]) == ("body", complete)
        stream.abort()
        with suppress(ConnectionError):  # what was not taken
            await sending
        return str(event[1])

    async def read(self, far: socket.socket, size: int) -> bytes:
        """Exactly so many bytes; fewer where the stream ends."""
        parts: list[bytes] = []
        while size > 0:
            data = await asyncio.wait_for(self.loop.sock_recv(far, min(size, 65_536)), LIMIT)
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    async def turns(self, count: int = 5) -> None:
        """Let the loop go round, so that whatever could happen has happened."""
        for _ in range(count):
            await asyncio.sleep(0)
            await self.loop.run_in_executor(None, lambda: None)

    def close(self) -> None:
        for item in self.reactor.items():
            if isinstance(item, Stream):
                item.abort()
        for far in self._far:
            far.close()
        self.reactor.stop()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


@pytest.fixture
def plane() -> Iterator[Plane]:
    """A reactor; nothing may have gone wrong in it, and nothing be left open, in the end."""
    before = (file_module.live(), stream_module.live(), splice.live())
    plane = Plane()
    try:
        yield plane
    finally:
        plane.close()
    assert plane.errors == []
    del plane
    gc.collect()
    assert (file_module.live(), stream_module.live(), splice.live()) <= before


@pytest.fixture
def run(plane: Plane) -> Callable[[Coroutine[Any, Any, None]], None]:
    return lambda test: plane.loop.run_until_complete(asyncio.wait_for(test, 2 * LIMIT))


Run = Callable[[Coroutine[Any, Any, None]], None]


def nothing(far: socket.socket) -> bool:
    """Tell whether no byte waits there."""
    try:
        return not far.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True


def dechunked(data: bytes) -> bytes:
    """Decode a whole body in the chunked coding."""
    parts, at = [], 0
    while True:
        match = re.compile(rb"([0-9a-f]+)\r\n").match(data, at)
        assert match is not None, data[at : at + 30]
        size = int(match[1], 16)
        parts.append(data[match.end() : match.end() + size])
        at = match.end() + size + 2
        assert data[at - 2 : at] == b"\r\n"
        if size == 0:
            assert at == len(data)
            return b"".join(parts)
