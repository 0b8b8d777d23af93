"""Write the audit log: one JSON object a line for each pull or push, from a thread of its own.

One process at a time reads what all workers tell. The next one takes over where the former has left: that
one sends back what it has not finished.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf
from pathlib import Path
from time import gmtime, monotonic, strftime, time
from typing import Any, Final

from regproxy.telemetry.audit_events import DATAGRAM_MAX, AuditEvent
from regproxy.telemetry.audit_pulls import NamedBy, Pull, Pulls
from regproxy.telemetry.log_sink import LineSink

logger = logging.getLogger(__name__)

_TURN: Final = 0.25  # seconds between two looks at the pulls that are open
_LOCK_EVERY: Final = 0.05  # seconds between two trials to take over
# Bytes of a text as it is written: with that a line is less than a pipe takes at once (PIPE_BUF, 4096), so
# that no other process's line comes between its parts.
_TEXT_MAX: Final = 256
_SEND_SECONDS: Final = 1.0
_HAND_OVER: Final = 5.0  # seconds for leaving all to the next process
_AT_THE_END: Final = 0.4  # the janitor is given 1.5 s


def line_of(pull: Pull, platform: str, wall: float) -> str:
    """Return a pull's line. `wall`: what to add to its times for seconds since the epoch."""
    began = pull.began + wall
    at = strftime("%Y-%m-%dT%H:%M:%S", gmtime(began)) + f".{int(began % 1 * 1000):03d}Z"
    texts: dict[str, Any] = {
        "time": at,
        "action": pull.action,
        "principal": pull.key.principal,
        "proven_by": pull.key.proven,
        "client": pull.key.client,
        "way": pull.key.way,
        "registry": pull.key.registry,
        "repository": pull.key.repository,
        "reference": pull.reference,
        "digest": pull.digest,
        "manifest": pull.manifests[0] if pull.manifests else "",
        "platform": platform,
        "from": pull.source,
        "decision": pull.decision,
        "rule": pull.rule,
        "ended_by": pull.closed,
    }
    cut = {name: _cut(text) for name, text in texts.items()}
    counts = {
        "status": pull.answer,
        "requests": pull.requests,
        "blobs": len(pull.blobs),
        "bytes": pull.sent,
        "bytes_cached": pull.cached,
        "bytes_received": pull.received,
        "seconds": round(max(0.0, pull.ended - pull.began), 3),
    }
    # Escapes everything but printable ASCII: no request can forge a line.
    return json.dumps(cut | counts, separators=(",", ":")) + "\n"


def _cut(text: str) -> str:
    """Return the beginning of a text that JSON has in _TEXT_MAX bytes."""
    text = text[:_TEXT_MAX]
    while len(json.dumps(text)) - 2 > _TEXT_MAX:
        # A character takes 12 bytes at most.
        text = text[: -max(1, (len(json.dumps(text)) - 2 - _TEXT_MAX) // 12)]
    return text


class AuditLog:
    """The audit log's reader and writer. `lines_lost`: lines that could not be written.

    `events_lost`: what workers have told and was not taken in.
    """

    def __init__(self, ends: tuple[int, int], where: str, named_by: NamedBy, idle: float) -> None:
        """Take over both `ends` of a pair of datagram sockets: the one that workers send by, the other.

        `where`: "-" is standard output, else a path to append to. `idle`, `named_by`: see Pulls. Raises
        OSError if the log can't be opened.
        """
        self._sink = LineSink(None if where == "-" else Path(where), "audit log")
        self._back, self._socket = (socket.socket(fileno=fd) for fd in ends)
        self._pulls = Pulls(named_by, idle)
        self._untaken = 0
        self._ending = threading.Event()
        self._hands_over = False
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()

    @property
    def lines_lost(self) -> int:
        return self._sink.dropped

    @property
    def events_lost(self) -> int:
        return self._untaken + self._pulls.lost

    def close(self, *, hands_over: bool) -> None:
        """End: write a line for every pull that is open, or leave these to the process that comes next.

        What takes longer than some seconds, or half of one at the end of all processes, is lost.
        """
        self._hands_over = hands_over
        self._ending.set()
        self._thread.join(_HAND_OVER if hands_over else _AT_THE_END)
        self._sink.close(_AT_THE_END)

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._take_lock():
                self._read_all(self._ending.is_set)
                self._finish()
        except Exception:
            logger.exception("the audit log has ended")
        finally:
            self._back.close()
            self._socket.close()

    def _take_lock(self) -> bool:
        """Wait until no other process reads; False: this one has to end before."""
        while True:
            try:
                lockf(self._socket, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if self._ending.wait(_LOCK_EVERY):
                    return False
            else:
                return True

    def _read_all(self, is_over: Callable[[], bool]) -> None:
        self._socket.settimeout(_TURN)
        looked = monotonic()
        while not is_over():
            if self._read_one() and monotonic() - looked < _TURN:
                continue
            looked = monotonic()
            self._write(self._pulls.tick(looked))

    def _read_one(self) -> bool:
        """Take in a datagram; False: there is none."""
        try:
            text = self._socket.recv(DATAGRAM_MAX)
        except (TimeoutError, BlockingIOError):
            return False
        try:
            self._take(json.loads(text))
        except (ValueError, TypeError, KeyError):
            self._untaken += 1
        return True

    def _take(self, told: Any) -> None:
        now = monotonic()
        if isinstance(told, dict):
            self._pulls.adopt(Pull.load(told))
            return
        for item in told:
            self._pulls.take(AuditEvent(*item), now)

    def _finish(self) -> None:
        self._socket.setblocking(False)
        if not self._hands_over:
            while self._read_one():
                pass
            self._write(self._pulls.end())
            return
        self._write(self._pulls.tick(monotonic()))
        events, pulls = self._pulls.leave()
        lockf(self._socket, LOCK_UN)  # the next process reads what is sent from here on
        told = [*(pull.dump() for pull in pulls), *([event] for event in events)]
        self._back.settimeout(_SEND_SECONDS)
        for number, what in enumerate(told):
            try:
                self._back.send(json.dumps(what).encode())
            except OSError:  # nobody reads
                self._untaken += len(told) - number
                return

    def _write(self, pulls: list[Pull]) -> None:
        if pulls:
            wall = time() - monotonic()
            self._sink.put([line_of(pull, self._pulls.platforms(pull), wall) for pull in pulls])
