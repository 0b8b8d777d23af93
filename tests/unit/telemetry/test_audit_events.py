"""What a worker tells the writer of the audit log: nothing waits, and one event holds up no other."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from regproxy.telemetry.audit_events import DATAGRAM_MAX, EVENTS_MAX, Teller

Ends = tuple[Teller, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    sends, reads = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    teller = Teller(sends.detach())
    reads.setblocking(False)
    with reads:
        yield teller, reads
        teller.close()


def read(reads: socket.socket) -> list[list[Any]]:
    """Return the events that have come."""
    found: list[list[Any]] = []
    while True:
        try:
            found += json.loads(reads.recv(DATAGRAM_MAX))
        except BlockingIOError:
            return found


def test_events_arrive_in_order_whatever_their_size(ends: Ends) -> None:
    teller, reads = ends
    events = [[number, "x" * (1000 * (number % 5))] for number in range(300)]
    found = []
    for each in events:
        teller.tell(tuple(each))
    while not teller.flush():
        found += read(reads)
    assert found + read(reads) == events
    assert teller.events_lost == 0


def test_one_that_fits_into_no_datagram_holds_up_no_other(ends: Ends) -> None:
    teller, reads = ends
    for text in ("a", "\U0001f600" * (DATAGRAM_MAX // 6), "b"):
        teller.tell((text,))
    assert teller.flush()
    assert read(reads) == [["a"], ["b"]]
    assert teller.events_lost == 1


def test_what_is_not_read_is_kept_up_to_a_limit(ends: Ends) -> None:
    teller, reads = ends
    for number in range(EVENTS_MAX * 2):
        teller.tell((number, "x" * 100))
    assert not teller.flush()
    lost = teller.events_lost
    assert 0 < lost <= EVENTS_MAX
    found = read(reads)
    while not teller.flush():
        found += read(reads)
    found += read(reads)
    assert len(found) == EVENTS_MAX * 2 - lost
    assert [each[0] for each in found] == sorted(each[0] for each in found)
