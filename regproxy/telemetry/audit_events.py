"""Tell the process that writes the audit log which requests a worker has answered.

A worker keeps what it tells in a list and sends it at intervals, as datagrams that hold JSON. Sending never
waits: what the other side does not take is tried again, and dropped and counted once too much has piled up.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final, NamedTuple

EVENTS_MAX: Final = 16_384  # that wait in a worker, or in whoever reads them; about 10 MB
DATAGRAM_MAX: Final = 131_072  # bytes; less than the least buffer of a socket on Linux
_A_TIME: Final = 128  # events in a datagram


class AuditEvent(NamedTuple):
    """One answered request for a manifest or a blob, or a sign that it is still being answered.

    `started` (CLOCK_MONOTONIC, the same for all processes) and `seconds`: when the head came, and how long
    the answer took. `client`: its address. `principal`, `proven`: who the client is, and how that is known.
    `way`: connect, mirror or transparent. `what`: manifest, blob, upload, or alive for a request that is
    still being answered. `digest`: of the manifest that was answered, "" where that is not known. `status`:
    the answer's, 0 while there is none. `sent`, `received`: bytes of the bodies. `cache`: nginx's word.
    `decision`, `rule`: of the rules for images, "" without.
    """

    started: float
    seconds: float
    client: str
    principal: str
    proven: str
    way: str
    registry: str
    repository: str
    method: str
    what: str
    reference: str
    digest: str
    status: int
    sent: int
    received: int
    cache: str
    decision: str
    rule: str


class Teller:
    """Sends events. `tell` buffers one; it is a list's own method, as a request has no time to lose.

    `events_lost`: events that were dropped.
    """

    def __init__(self, fd: int) -> None:
        """Take over `fd`, a datagram socket that is connected."""
        self._socket = socket.socket(fileno=fd)
        self._waiting: list[tuple[Any, ...]] = []
        self.tell = self._waiting.append
        self.events_lost = 0

    def flush(self) -> bool:
        """Send what is buffered, as far as it is taken; return whether all of it was. Never waits."""
        waiting, done = self._waiting, 0
        try:
            while done < len(waiting):
                done += self._send(waiting[done : done + _A_TIME])
        except OSError:  # not read fast enough, or by nobody for the moment
            excess = len(waiting) - done - EVENTS_MAX
            if excess > 0:
                self.events_lost += excess
                done += excess
        del waiting[:done]
        return not waiting

    def _send(self, events: list[tuple[Any, ...]]) -> int:
        """Send some events; return how many are done with."""
        text = json.dumps(events, separators=(",", ":")).encode()
        while len(text) > DATAGRAM_MAX and len(events) > 1:
            events = events[: len(events) // 2]
            text = json.dumps(events, separators=(",", ":")).encode()
        if len(text) > DATAGRAM_MAX:
            # It would be tried again for ever, and all others would wait behind it.
            self.events_lost += 1
        else:
            self._socket.send(text, socket.MSG_DONTWAIT)
        return len(events)

    def close(self) -> None:
        """Send what can be sent, and close the socket; the rest is lost."""
        self.flush()
        self.events_lost += len(self._waiting)
        self._waiting.clear()
        self._socket.close()
