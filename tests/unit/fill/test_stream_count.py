"""How many streams fetch a part: more where one is slow or several places are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.fill.origin_bodies import Bodies, FillLimits
from regproxy.fill.range_leases import Leases
from regproxy.fill.stream_count import StreamCount

MB = 10**6
LEASE = object()


class Loop:
    """A clock that is set, and what was to be called at which time."""

    now = 100.0

    def __init__(self) -> None:
        self.calls: list[float] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[[], object]) -> None:
        self.calls.append(at)


class NotingLeases:
    """Leases that note what is asked of them; `waited` places are waited for."""

    look_at = float("inf")
    shared = crowded = False

    def __init__(self) -> None:
        self.waited = 0
        self.widened = self.narrowed = 0
        self.asked: list[int] = []
        self.wanted: list[tuple[int, bool]] = []

    def ask_for(self, offsets: list[int]) -> None:
        self.asked = offsets

    def places(self) -> int:
        return self.waited

    def widen(self) -> None:
        self.widened += 1

    def narrow(self) -> None:
        self.narrowed += 1

    def next(self, streams: int, *, behind: bool, now: float) -> RangeWriter | None:
        self.wanted.append((streams, behind))
        return cast(RangeWriter, LEASE)


class Part:
    """A part of a gigabyte, and what has come of it."""

    total, written, received = 1000 * MB, 0, 0


class Bench:
    """A count for up to `streams`, whose first stream has begun."""

    def __init__(self, streams: int = 4) -> None:
        self.loop, self.leases, self.part = Loop(), NotingLeases(), Part()
        self.count = StreamCount(
            cast(Leases, self.leases),
            cast(GrowingFile, self.part),
            cast(Bodies, self.part),
            FillLimits(streams=streams, slow=30.0),
            cast(asyncio.AbstractEventLoop, self.loop),
            lambda: None,
        )
        self.count.begin()

    def after(self, seconds: float, received: int = 0) -> None:
        self.loop.now += seconds
        self.part.received = self.part.written = received
        self.count.review(self.loop.now, [])

    def width(self) -> int:
        self.count.next(0)
        return self.leases.wanted[-1][0]


@pytest.mark.parametrize("streams, most", [(1, 2), (4, 8), (8, 16), (16, 16)])
def test_at_most(streams: int, most: int) -> None:
    assert Bench(streams).count.most == most


def test_one_stream_goes_on_alone_until_it_was_looked_at() -> None:
    it = Bench()
    it.after(0.2, 1 * MB)
    assert it.width() == 1 and it.leases.widened == 0
    assert it.loop.calls == [pytest.approx(it.loop.now + 0.5)]  # when to look again


def test_a_slow_one_gets_company() -> None:
    it = Bench()
    it.after(0.6, 6 * MB)
    assert it.width() == 4 and it.leases.widened == 1
    it.after(0.6, 12 * MB)
    assert it.leases.widened == 1


@pytest.mark.parametrize("received", [90 * MB, 990 * MB], ids=["quick", "nearly done"])
def test_one_that_does_stays_alone(received: int) -> None:
    it = Bench()
    it.after(0.6, received)
    assert it.width() == 1


def test_as_many_as_places_are_waited_for() -> None:
    it = Bench()
    it.leases.waited = 3
    it.after(0.01)
    assert it.width() == 3 and it.leases.shared and it.leases.crowded
    it.leases.waited = 1
    it.after(0.5, 60 * MB)  # the next place may come in a moment
    assert it.width() == 3
    it.after(0.6, 120 * MB)
    assert it.width() == 1 and not it.leases.crowded


def test_where_one_stream_is_all_there_may_be_no_place_counts() -> None:
    it = Bench(streams=1)
    it.leases.waited = 3
    it.after(1.0, 1 * MB)
    assert it.width() == 1 and not it.leases.shared


def test_what_nobody_waits_for_is_for_as_many() -> None:
    it = Bench()
    it.after(0.6, 6 * MB)
    for busy in (0, 3, 4):
        it.count.next(busy)
    assert it.leases.wanted == [(4, True), (4, True), (4, False)]


def test_after_a_failure_there_are_fewer_for_a_while() -> None:
    it = Bench()
    it.after(0.6, 6 * MB)
    it.count.failed(2)
    assert it.width() == 2 and it.leases.narrowed == 1
    assert it.count.rests(it.loop.now + 29.9) and not it.count.rests(it.loop.now + 30.1)
    assert it.loop.calls[-1] == it.loop.now + 30.0
    it.after(1.0, 12 * MB)
    assert it.width() == 2
    it.count.try_again()
    assert not it.count.rests(it.loop.now)
    it.after(0.1, 13 * MB)
    assert it.width() == 4


def test_the_leases_say_when_to_look() -> None:
    it = Bench()
    it.count.look(it.loop.now)
    assert it.loop.calls == []
    it.leases.look_at = it.loop.now + 2
    it.count.look(it.loop.now)
    it.count.look(it.loop.now)
    assert it.loop.calls == [it.loop.now + 2]  # once
    it.leases.look_at = it.loop.now + 1
    it.count.look(it.loop.now)
    assert it.loop.calls == [it.loop.now + 2, it.loop.now + 1]


def test_what_other_processes_wait_for_is_passed_on() -> None:
    it = Bench()
    it.count.review(it.loop.now, [5, 7])
    assert it.leases.asked == [5, 7]
