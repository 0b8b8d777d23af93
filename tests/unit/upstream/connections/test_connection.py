"""Connections to origins that wait for a next request: one where anything has come unasked is closed."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import pytest

from regproxy.dataplane import stream as stream_module
from regproxy.dataplane.listener import Listener
from regproxy.dataplane.sinks import BytesSink
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tls_contexts import client_context
from regproxy.http.messages import parse_response
from regproxy.http.origin import Origin as Place
from regproxy.upstream.connections.connection import Connection
from regproxy.upstream.connections.pool import Idle
from tests.support.plane import LIMIT, Plane, Run, Told, plane, run
from tests.support.trust import Trust

__all__ = ["plane", "run"]  # fixtures

PLACE = Place("https", "reg.test", 443)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
OK = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "GET")


class Server:
    """An origin's side of TLS over a socket, as OpenSSL is: with TLS 1.3 two tickets follow its handshake."""

    def __init__(self, plane: Plane, trust: Trust, far: socket.socket, tickets: int = 2) -> None:
        self._loop, self._far = plane.loop, far
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = trust.server_context("reg.test")
        context.num_tickets = tickets
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.flush()
                self._in.write(await asyncio.wait_for(self._loop.sock_recv(self._far, 65_536), LIMIT))

    async def flush(self) -> None:
        await self._loop.sock_sendall(self._far, self._out.read())

    async def answer(self, data: bytes = ANSWER) -> None:
        self._tls.write(data)
        await self.flush()

    def say(self, data: bytes) -> None:
        """At once: the loop has no turn."""
        self._tls.write(data)
        self._far.send(self._out.read())


async def asked(stream: Stream, told: Told) -> None:
    """Read one answer, and wait for a next request."""
    stream.next_head(LIMIT, LIMIT)
    name, head = await told.next()
    assert (name, head) == ("head", ANSWER[:-2])
    stream.receive(BytesSink(10), "length", 2, LIMIT)
    assert await told.next() == ("body", True, "")


@pytest.mark.parametrize("what", ["nothing", "an answer", "a byte", "the end", "a reset", "closed"])
def test_plain(what: str, plane: Plane, run: Run) -> None:
    async def test() -> None:
        stream, told, far = plane.stream(tcp=True)
        await plane.loop.sock_sendall(far, ANSWER)
        await asked(stream, told)
        assert not stream.reusable()  # it does not wait yet
        assert stream.watch_idle(LIMIT)
        assert stream.reusable()
        if what in ("an answer", "a byte"):
            far.send(ANSWER if what == "an answer" else b"\n")
        elif what == "the end":
            far.shutdown(socket.SHUT_WR)
        elif what == "a reset":
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            far.close()
        elif what == "closed":
            stream.abort()
        assert stream.reusable() == (what == "nothing")
        await plane.turns()
        assert stream.open == (what == "nothing")
        stream.abort()

    run(test())


@pytest.mark.parametrize("ktls", [False, True])
@pytest.mark.parametrize("tickets", [0, 2])
@pytest.mark.parametrize("what", ["nothing", "an answer", "part of a record"])
def test_tls(what: str, tickets: int, ktls: bool, plane: Plane, run: Run, trust: Trust) -> None:
    """The tickets that follow a handshake are no reason to close it."""

    async def test() -> None:
        stream, told, far = plane.stream(tcp=True)
        server = Server(plane, trust, far, tickets)
        shaking = plane.loop.create_task(server.handshake())
        stream.start_tls(client_context(extra_ca_file=str(trust.path), ktls=ktls), b"reg.test", False, LIMIT)
        assert await told.next() == ("handshake",)
        await shaking
        for _ in range(2):
            await server.answer()
            await asked(stream, told)
            assert stream.watch_idle(LIMIT)
            assert stream.reusable()
        if what == "an answer":
            server.say(ANSWER)
        elif what == "part of a record":
            far.send(b"\x17\x03")
        assert stream.reusable() == (what == "nothing")
        stream.abort()

    run(test())


def test_the_pool(plane: Plane, run: Run) -> None:
    """A second answer that nobody asked for, in the moment between: it is never taken for the next one's."""

    async def test() -> None:
        idle, fars = Idle(), []
        connections = []
        for _ in range(3):
            stream, _, far = plane.stream(tcp=True)
            connections.append(Connection(stream, PLACE, "127.0.0.1", LIMIT))
            fars.append(far)
            idle.give(connections[-1], OK)
        fars[2].send(ANSWER)
        fars[1].shutdown(socket.SHUT_WR)
        assert idle.take(PLACE) is connections[0]
        assert [connection.stream.open for connection in connections] == [True, False, False]
        assert idle.take(PLACE) is None
        connections[0].abort()

    run(test())


# --- who owns the descriptor -------------------------------------------------------------------------------


def test_a_stream_that_can_not_be(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> None:
    """epoll refuses a plain file: nothing counts as open, and the descriptor is still the caller's."""
    before = stream_module.live(), plane.reactor.streams_open
    fd = os.open(tmp_path_factory.mktemp("x") / "file", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    for make in (
        lambda: Stream(plane.reactor, fd),
        lambda: Listener(plane.reactor, fd, lambda stream: None),
    ):
        with pytest.raises(OSError):
            make()
    assert (stream_module.live(), plane.reactor.streams_open) == before
    os.close(fd)
