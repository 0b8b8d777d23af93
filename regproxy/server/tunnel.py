"""Relay bytes both ways between two plain streams, for hosts that are not intercepted."""

from __future__ import annotations

from collections.abc import Callable

from regproxy.dataplane.splice import SpliceSink
from regproxy.dataplane.stream import Stream

# Called with the bytes that went up, to the host, and down, to the client.
Over = Callable[[int, int], None]


class Tunnel:
    """Relays until both sides have ended, one has broken, or nothing moved for `idle` seconds.

    The kernel moves the bytes (`SpliceSink`). An end of one side is passed on as a half-close. `over()` is
    called once, with both streams closed.
    """

    def __init__(self, client: Stream, origin: Stream, idle: float, send_timeout: float, over: Over) -> None:
        self._over: Over | None = over
        self._idle = idle
        self._sent_before = client.plain_sent  # the answer to its CONNECT
        self._ends = (TunnelEnd(self, client, origin), TunnelEnd(self, origin, client))
        for end in self._ends:
            end.stream.handler = end
            end.stream.set_send_timeout(send_timeout)
            end.moved = self._moved()
        for end in self._ends:
            if end.stream.open:
                end.stream.receive(SpliceSink(end.other), "eof", 0, idle)

    def ended(self, end: TunnelEnd, complete: bool) -> None:
        """Handle the end of one side: pass it on, or close both."""
        end.ended = True
        if not complete:
            self.stop()
            return
        end.other.shut_write()
        if all(e.ended for e in self._ends):
            self.stop(orderly=True)

    def idle(self, end: TunnelEnd) -> None:
        """Handle a side that sent nothing for a while: stop only if nothing else moved either."""
        moved = self._moved()
        if moved == end.moved:
            self.stop()
            return
        end.moved = moved
        end.stream.extend_read(self._idle)

    def stop(self, orderly: bool = False) -> None:
        """Close both sides."""
        for end in self._ends:
            if orderly:
                end.stream.close()
            else:
                end.stream.abort()
        over, self._over = self._over, None
        if over is not None:
            client, origin = (end.stream for end in self._ends)
            over(origin.plain_sent, client.plain_sent - self._sent_before)

    def _moved(self) -> int:
        """Return how many bytes have come in or gone out: what waits for a slow receiver moves too."""
        streams = [end.stream for end in self._ends]
        return sum(stream.plain_received + stream.plain_sent - stream.waiting for stream in streams)


class TunnelEnd:
    """The handler of one side."""

    def __init__(self, tunnel: Tunnel, stream: Stream, other: Stream) -> None:
        self.tunnel = tunnel
        self.stream = stream
        self.other = other
        self.ended = False
        self.moved = 0

    def on_body(self, complete: bool, reason: str) -> None:
        self.tunnel.ended(self, complete)

    def on_closed(self, reason: str) -> None:
        self.tunnel.stop()

    def on_timeout(self, what: str) -> None:
        if what == "read":
            self.tunnel.idle(self)
        else:
            self.tunnel.stop()

    def on_sent(self) -> None:
        """Do nothing: the answer to the CONNECT has been sent."""
