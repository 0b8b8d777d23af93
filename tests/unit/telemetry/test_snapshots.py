"""What processes write of themselves, and who reads it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.dataplane.board import SIZE, Board
from regproxy.telemetry.metrics_dir import Shelf
from regproxy.telemetry.snapshots import FRESH_SECONDS, LiveEvent, Snapshot, Snapshots


@pytest.fixture
def board() -> Iterator[Board]:
    fd = os.memfd_create("board")
    os.ftruncate(fd, SIZE)
    try:
        yield Board(fd)
    finally:
        os.close(fd)


def test_of_several(tmp_path: Path, board: Board) -> None:
    shelf = Shelf.make([tmp_path])
    now = time.time()
    written = [
        Snapshot(slot, 10 + slot, now, events=[LiveEvent(1, now, "refused", {"a": "b"})]) for slot in range(3)
    ]
    places = [Snapshots(shelf.path, slot, board) for slot in range(3)]
    for place, snapshot in zip(places, written, strict=True):
        place.write(snapshot)
    assert places[0].read() == written
    # One that has not been written for a while, one that is no snapshot, one whose process has ended.
    places[0].write(Snapshot(0, 10, now - FRESH_SECONDS - 1))
    (shelf.path / "live_1.msgpack").write_bytes(b"nonsense")
    assert places[0].read() == [written[2]]
    shelf.forget("2")
    assert places[0].read() == []
    shelf.remove()
    assert list(tmp_path.iterdir()) == []


def test_who_asks(tmp_path: Path, board: Board) -> None:
    one, other = Snapshots(tmp_path, 0, board), Snapshots(tmp_path, 1, board)
    assert not one.wanted
    other.ask()
    assert one.wanted
    board.ask(int(time.monotonic()) - 20)
    assert not one.wanted
