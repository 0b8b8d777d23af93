"""What each process does just now, for whichever is asked: a small file of each, merged by who is asked.

They are written once a second, and only while somebody has asked within ASKED_SECONDS, which a word on the
shared board tells. They stand beside the metrics' files, and are removed with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from regproxy.dataplane.board import Board

ASKED_SECONDS: Final = 10.0
FRESH_SECONDS: Final = 5.0  # a snapshot that is older is of a process that hangs, or of an earlier question
FILE_MAX: Final = 4 << 20  # bytes
ROWS_MAX: Final = 1000  # of each kind
_PREFIX: Final = "live_"


class LiveDownload(msgspec.Struct, frozen=True, array_like=True):
    """A download under way. `since`: epoch; `rate`: bytes/s; `total` -1: unknown; `waiters`: here.

    `follows`: another process does it, and is followed.
    """

    digest: str
    registry: str
    repository: str
    bytes: int
    total: int
    rate: float
    waiters: int
    since: float
    resumes: int
    follows: bool


class LiveClient(msgspec.Struct, frozen=True, array_like=True):
    """The connections of one client. `name`: a principal's, or an address; `requests`: that run now."""

    name: str
    kind: str
    connections: int
    requests: int


class LiveCircuit(msgspec.Struct, frozen=True, array_like=True):
    """A circuit of an origin that has failed. `until`: when it is tried again (epoch), 0: it is closed."""

    registry: str
    port: int
    failures: int
    until: float
    cause: str


class LiveFailure(msgspec.Struct, frozen=True, array_like=True):
    """The last failure of a registry. `at`: epoch."""

    registry: str
    count: int
    at: float
    message: str


class LiveEvent(msgspec.Struct, frozen=True, array_like=True):
    """Something that has happened. `number` counts in its process; `at`: epoch."""

    number: int
    at: float
    kind: str
    fields: dict[str, str]


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """What one process does. `at`: seconds since the epoch. `pid`: its id."""

    slot: int
    pid: int
    at: float
    downloads: list[LiveDownload] = []
    clients: list[LiveClient] = []
    circuits: list[LiveCircuit] = []
    failures: list[LiveFailure] = []
    events: list[LiveEvent] = []


class Snapshots:
    """The files of one supervisor's processes. May be used by any thread."""

    def __init__(self, directory: Path, slot: int, board: Board) -> None:
        self._directory = directory
        self._slot = slot
        self._board = board

    def ask(self) -> None:
        """Have all processes write theirs for a while."""
        self._board.ask(int(time.monotonic()))

    @property
    def wanted(self) -> bool:
        """Whether somebody has asked lately."""
        asked = self._board.asked
        return asked > 0 and time.monotonic() - asked <= ASKED_SECONDS

    def write(self, snapshot: Snapshot) -> None:
        """Replace the file of this process. Raises OSError."""
        path = self._directory / f"{_PREFIX}{self._slot}.msgpack"
        beside = path.with_suffix(".tmp")
        beside.write_bytes(msgspec.msgpack.encode(snapshot))
        beside.replace(path)

    def read(self) -> list[Snapshot]:
        """Return what all processes have written in the last seconds."""
        oldest = time.time() - FRESH_SECONDS
        return [found for found in self._read_all() if found.at >= oldest]

    def _read_all(self) -> Iterator[Snapshot]:
        for path in sorted(self._directory.glob(f"{_PREFIX}*.msgpack")):
            try:
                if os.stat(path).st_size <= FILE_MAX:  # noqa: PTH116
                    yield msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
            except (OSError, msgspec.MsgspecError):
                continue  # it has ended, say
