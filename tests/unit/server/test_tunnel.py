"""When a tunnel is idle, and what it counts."""

from __future__ import annotations

from regproxy.server.tunnel import Tunnel, TunnelEnd
from tests.support.plane import DATA, LIMIT, Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures

Counts = list[tuple[int, int]]


def end_of(handler: object) -> TunnelEnd:
    assert isinstance(handler, TunnelEnd)
    return handler


def test_what_a_slow_client_takes_is_no_silence(plane: Plane, run: Run) -> None:
    """Nothing comes from either side: the client says nothing, and the host is held back."""

    async def test() -> None:
        over: Counts = []
        client, _, far_client = plane.stream(buffer=16_384)
        origin, _, far_origin = plane.stream()
        client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        Tunnel(client, origin, LIMIT, LIMIT, lambda *counts: over.append(counts))
        end = end_of(client.handler)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far_origin, DATA * 5))
        taken = -1
        while taken != client.plain_sent:
            taken = client.plain_sent
            await plane.turns()
        end.on_timeout("read")  # it has moved since it was opened
        received = origin.plain_received
        for _ in range(2):
            while client.plain_sent == taken:
                await plane.read(far_client, 20_000)
                await plane.turns()
            assert origin.plain_received == received
            taken = client.plain_sent
            end.on_timeout("read")
            assert client.open
        end.on_timeout("read")
        assert not client.open
        assert not origin.open
        assert over == [(0, taken - 39)]
        sending.cancel()

    run(test())


def test_one_that_never_moved(plane: Plane, run: Run) -> None:
    async def test() -> None:
        over: Counts = []
        client, _, _ = plane.stream()
        origin, _, _ = plane.stream()
        client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        Tunnel(client, origin, LIMIT, LIMIT, lambda *counts: over.append(counts))
        end_of(origin.handler).on_timeout("read")
        assert not client.open
        assert over == [(0, 0)]

    run(test())
