"""Bodies that are received: from stream to stream, and into memory."""

from __future__ import annotations

import socket

import pytest

from regproxy.dataplane.sinks import BytesSink, StreamSink
from tests.support.plane import DATA, LIMIT, Plane, Run, dechunked, plane, run

__all__ = ["plane", "run"]  # fixtures


class TestStreamSink:
    """A body from one stream to another."""

    @pytest.mark.parametrize("framing", ["length", "eof"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_relayed(self, chunked: bool, framing: str, plane: Plane, run: Run) -> None:
        async def test() -> None:
            source, told, far_source = plane.stream()
            target, _, far_target = plane.stream()
            source.receive(StreamSink(target, chunked), framing, len(DATA), LIMIT)
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA))
            reading = plane.loop.create_task(self.drain(plane, far_target))
            await sending
            far_source.shutdown(socket.SHUT_WR)
            assert await told.next() == ("body", True, "")
            if chunked:
                target.end_chunks()
            target.close()
            data = await reading
            assert (dechunked(data) if chunked else data) == DATA

        run(test())

    @staticmethod
    async def drain(plane: Plane, far: socket.socket, size: int = 1 << 40) -> bytes:
        return await plane.read(far, size)

    def test_a_slow_receiver_holds_the_sender_back(self, plane: Plane, run: Run) -> None:
        size = 16_000_000

        async def test() -> None:
            source, told, far_source = plane.stream()
            target, _, far_target = plane.stream()
            source.receive(StreamSink(target), "length", size, LIMIT)
            data = (DATA * 23)[:size]
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, data))
            moved = -1
            while moved != source.plain_received:
                moved = source.plain_received
                await plane.turns()
            assert moved < 2_000_000
            assert not sending.done()
            assert await plane.read(far_target, size) == data
            await sending
            assert await told.next() == ("body", True, "")

        run(test())

    def test_the_end_of_a_sender_that_is_held_back(self, plane: Plane, run: Run) -> None:
        """Both directions have ended, but not all of it is read: a half-closed tunnel to a slow client."""

        async def test() -> None:
            source, told, far_source = plane.stream(tcp=True)
            target, _, far_target = plane.stream()
            source.receive(StreamSink(target), "eof", 0, LIMIT)
            source.shut_write()
            assert await plane.read(far_source, 1) == b""
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 2))
            await sending
            far_source.close()
            await plane.turns()
            reading = plane.loop.create_task(self.drain(plane, far_target, 2 * len(DATA)))
            assert await told.next() == ("body", True, "")
            assert await reading == DATA * 2

        run(test())

    @pytest.mark.parametrize("when", ["before", "while it is held"])
    def test_a_receiver_that_leaves(self, when: str, plane: Plane, run: Run) -> None:
        async def test() -> None:
            source, told, far_source = plane.stream()
            target, target_told, far_target = plane.stream()
            source.receive(StreamSink(target), "length", 1 << 30, LIMIT)
            sending = plane.loop.create_task(plane.loop.sock_sendall(far_source, DATA * 20))
            if when == "while it is held":
                while source.plain_received < 300_000:
                    await plane.turns(1)
            far_target.close()
            assert (await target_told.next())[0] == "closed"
            assert await told.next() == ("body", False, "the receiver is gone")
            source.abort()
            with pytest.raises(OSError):
                await sending

        run(test())


class TestBytesSink:
    """Small bodies, in memory."""

    @pytest.mark.parametrize(
        "size, fits", [(0, True), (99, True), (100, True), (101, False), (70_000, False)]
    )
    def test_limit(self, size: int, fits: bool, plane: Plane, run: Run) -> None:
        async def test() -> None:
            stream, told, far = plane.stream()
            sink = BytesSink(100)
            stream.receive(sink, "length", size, LIMIT)
            await plane.loop.sock_sendall(far, DATA[:size])
            reason = "" if fits else "the body is larger than 100 bytes"
            assert await told.next() == ("body", fits, reason)
            if fits:
                assert bytes(sink.data) == DATA[:size]

        run(test())
