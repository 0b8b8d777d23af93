"""Which stream fetches which bytes: nothing twice, what somebody waits for first, the rest in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.dataplane.sources import FileSource
from regproxy.fill.range_leases import (
    APART,
    JUDGED,
    LEAST,
    MIB,
    NEAR,
    PATIENCE,
    PIECE,
    SOON,
    STALLED,
    UNREAD,
    WANTED,
    Leases,
)
from tests.support.plane import LIMIT, Plane, plane

__all__ = ["plane"]  # a fixture

TOTAL = 100 * MIB + 12_345


def scattered(plane: Plane, path: Path, total: int = TOTAL, *, written: int = 0) -> GrowingFile:
    """A growth of `total` bytes that is filled in several places; its first `written` bytes are there."""
    with path.open("wb") as file:
        file.truncate(written)
    growth = plane.growth(path)
    growth.follow(written)
    extents = Extents(total)
    extents.start(0, 0, written)
    growth.scatter(extents)
    return growth


def bring(plane: Plane, segment: RangeWriter, size: int) -> None:
    """Have the segment take so many zeros of its body."""

    async def run() -> None:
        stream, told, far = plane.stream()
        stream.receive(segment, "length", segment.body_stop - segment.offset, LIMIT)
        stop = min(segment.offset + size, segment.stop)
        sending = plane.loop.create_task(plane.loop.sock_sendall(far, bytes(size)))
        async with asyncio.timeout(LIMIT):
            while segment.offset < stop:
                await asyncio.sleep(0)
        if told.quiet:
            await sending
        sending.cancel()
        stream.abort()

    plane.loop.run_until_complete(run())


def waits(plane: Plane, growth: GrowingFile, offset: int) -> None:
    """A reader that waits there."""
    stream, _, _ = plane.stream()
    stream.send(b"", b"", FileSource(growth.file, offset, growth.total, growth))


@pytest.fixture
def growth(plane: Plane, tmp_path: Path) -> Iterator[GrowingFile]:
    growth = scattered(plane, tmp_path / "part")
    yield growth
    growth.file.close()


def span(segment: RangeWriter | None) -> tuple[int, int] | None:
    return (segment.start, segment.stop) if segment is not None else None


class TestBehind:
    """What nobody waits for yet, from the beginning on."""

    def test_one_stream_takes_all_of_it(self, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=False)
        # No longer than what is worth fetching at once is only for several.
        lease = leases.next(1, behind=True)
        assert lease is not None
        assert (lease.start, lease.stop, lease.body_stop) == (0, TOTAL, TOTAL)
        assert leases.next(1, behind=True) is None

    def test_nothing_is_where_nothing_was_asked_for(self, growth: GrowingFile) -> None:
        assert Leases(growth, pieces=True).next(4, behind=False) is None

    @pytest.mark.parametrize("streams", [1, 2, 4, 16])
    def test_pieces_follow_each_other(self, streams: int, growth: GrowingFile) -> None:
        leases, at = Leases(growth, pieces=True), 0
        while (lease := leases.next(streams, behind=True)) is not None:
            assert lease.start == at
            assert lease.stop == lease.body_stop
            assert lease.stop == TOTAL or LEAST <= lease.stop - at <= PIECE
            assert lease.stop == TOTAL or lease.stop % BLOCK_SIZE == 0
            at = lease.stop
        assert at == TOTAL

    def test_more_streams_take_shorter_pieces(self, growth: GrowingFile) -> None:
        few, many = (Leases(growth, pieces=True).next(streams, behind=True) for streams in (1, 16))
        assert few is not None
        assert many is not None
        assert (few.stop, many.stop) == (PIECE, LEAST)

    def test_what_is_there_is_passed_over(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        there = leases.add(MIB, 2 * MIB, 2 * MIB)
        bring(plane, there, MIB)
        leases.end(there)
        assert span(leases.next(1, behind=True)) == (0, MIB)
        assert span(leases.next(1, behind=True)) == (2 * MIB, 2 * MIB + PIECE)

    def test_behind_a_beginning_that_is_no_whole_block(self, plane: Plane, tmp_path: Path) -> None:
        growth = scattered(plane, tmp_path / "another", written=100_000)
        leases = Leases(growth, pieces=True)
        first, second = leases.next(16, behind=True), leases.next(16, behind=True)
        assert first is not None
        assert second is not None
        assert first.start == 100_000
        assert first.stop % BLOCK_SIZE == 0
        assert second.start == first.stop

    def test_what_has_ended_early_is_given_out_again(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        lease = leases.next(16, behind=True)
        assert lease is not None
        bring(plane, lease, BLOCK_SIZE + 5)
        leases.end(lease)
        leases.end(lease)  # as if it had not been
        again = leases.next(16, behind=True)
        assert again is not None
        assert again.start == BLOCK_SIZE + 5  # all before it is there

    def test_what_has_ended_early_behind_a_gap(self, plane: Plane, growth: GrowingFile) -> None:
        """Only whole blocks count there."""
        leases = Leases(growth, pieces=True)
        lease = leases.add(8 * MIB, 16 * MIB, 16 * MIB)
        bring(plane, lease, BLOCK_SIZE + 5)
        leases.end(lease)
        assert span(leases.next(4, behind=True)) == (0, 8 * MIB)
        again = leases.next(4, behind=True)
        assert again is not None
        assert again.start == 8 * MIB + BLOCK_SIZE


class TestWanted:
    """What somebody waits for comes first."""

    def test_in_the_order_in_which_they_began_to_wait(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        for offset in (60 * MIB, 20 * MIB, 90 * MIB):
            waits(plane, growth, offset)
        found = [span(leases.next(4, behind=True)) for _ in range(4)]
        assert found[:3] == [(at, at + WANTED) for at in (60 * MIB, 20 * MIB, 90 * MIB)]
        assert found[3] is not None
        assert found[3][0] == 0

    def test_also_where_nothing_else_is_to_be_fetched(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        waits(plane, growth, 60 * MIB)
        assert span(leases.next(4, behind=False)) == (60 * MIB, 60 * MIB + WANTED)
        assert leases.next(4, behind=False) is None

    def test_from_the_border_of_a_block_on(self, plane: Plane, growth: GrowingFile) -> None:
        waits(plane, growth, 60 * MIB + 100_000)
        found = span(Leases(growth, pieces=True).next(4, behind=False))
        assert found == (60 * MIB + BLOCK_SIZE, 60 * MIB + BLOCK_SIZE + WANTED)

    def test_never_before_what_is_there(self, plane: Plane, tmp_path: Path) -> None:
        growth = scattered(plane, tmp_path / "another", written=100_000)
        waits(plane, growth, 100_001)
        found = Leases(growth, pieces=True).next(4, behind=False)
        assert found is not None
        assert found.start == 100_000

    def test_the_last_bytes(self, plane: Plane, growth: GrowingFile) -> None:
        waits(plane, growth, TOTAL - 1)
        found = span(Leases(growth, pieces=True).next(4, behind=False))
        assert found == ((TOTAL - 1) // BLOCK_SIZE * BLOCK_SIZE, TOTAL)

    def test_up_to_what_is_there_or_on_its_way(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        there = leases.add(62 * MIB, 63 * MIB, 63 * MIB)
        bring(plane, there, MIB)
        leases.end(there)
        leases.add(44 * MIB, 45 * MIB, 45 * MIB)
        waits(plane, growth, 60 * MIB)
        waits(plane, growth, 42 * MIB)
        assert span(leases.next(4, behind=False)) == (60 * MIB, 62 * MIB)
        assert span(leases.next(4, behind=False)) == (42 * MIB, 44 * MIB)

    @pytest.mark.parametrize("ahead", [0, 1, MIB, NEAR])
    def test_what_comes_soon_is_waited_for(self, ahead: int, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=False)
        held = leases.add(0, TOTAL, TOTAL)
        waits(plane, growth, ahead)
        assert leases.next(4, behind=True) is None
        assert held.stop == TOTAL
        assert not leases.pieces

    def test_what_comes_late_is_cut_out(self, plane: Plane, growth: GrowingFile) -> None:
        """And what is behind it is somebody's too."""
        leases = Leases(growth, pieces=False)
        held = leases.add(0, TOTAL, TOTAL)
        at = NEAR + BLOCK_SIZE
        waits(plane, growth, at)
        assert span(leases.next(4, behind=False)) == (at, at + WANTED)
        assert (held.stop, held.body_stop) == (at, TOTAL)
        rest = leases.next(4, behind=True)
        assert rest is not None
        assert rest.start == at + WANTED
        assert leases.pieces

    def test_nearer_as_the_stream_comes_nearer(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=False)
        held = leases.add(0, TOTAL, TOTAL)
        bring(plane, held, 2 * MIB)
        waits(plane, growth, NEAR + MIB)
        assert leases.next(4, behind=True) is None

    def test_one_lease_is_enough_for_several(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        for ahead in (0, 1, WANTED - 1):
            waits(plane, growth, 60 * MIB + ahead)
        assert span(leases.next(4, behind=False)) == (60 * MIB, 60 * MIB + WANTED)
        assert leases.next(4, behind=False) is None

    def test_readers_of_other_processes(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        leases.ask_for([90 * MIB])
        waits(plane, growth, 60 * MIB)
        leases.ask_for([70 * MIB, TOTAL, TOTAL + 5, -1])
        found = [span(leases.next(4, behind=False)) for _ in range(4)]
        assert found == [*((at, at + WANTED) for at in (60 * MIB, 90 * MIB, 70 * MIB)), None]

    def test_are_asked_for_until_they_have_it(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        leases.ask_for([90 * MIB])
        lost = leases.next(4, behind=False)
        assert lost is not None
        leases.end(lost)  # it has brought nothing
        again = leases.next(4, behind=False)
        assert span(again) == span(lost)
        assert again is not None
        bring(plane, again, BLOCK_SIZE)
        leases.end(again)
        assert leases.next(4, behind=False) is None


class TestShared:
    """Several readers that wait at several places of what is slow."""

    def test_a_lease_ends_where_another_reader_waits(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True, shared=True)
        for at in (20, 22, 24):
            waits(plane, growth, at * MIB)
        found = [span(leases.next(4, behind=False)) for _ in range(4)]
        assert found == [(20 * MIB, 22 * MIB), (22 * MIB, 24 * MIB), (24 * MIB, 24 * MIB + WANTED), None]
        assert leases.places() == 3

    def test_readers_that_wait_close_together_share_one(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True, shared=True)
        for at in (20 * MIB, 20 * MIB + APART - 1):
            waits(plane, growth, at)
        assert span(leases.next(4, behind=False)) == (20 * MIB, 20 * MIB + WANTED)
        assert leases.places() == 1

    @pytest.mark.parametrize(("seconds", "late"), [(JUDGED / 2, False), (1.0, True), (SOON / 2, False)])
    def test_who_waits_too_far_ahead_gets_another_stream(
        self, seconds: float, late: bool, plane: Plane, growth: GrowingFile
    ) -> None:
        """One MiB has come in so long; the reader is one MiB further."""
        leases = Leases(growth, pieces=True, shared=True)
        held = leases.add(0, WANTED, WANTED, now=5.0)
        leases.began(held, 6.0, 1.0)
        bring(plane, held, MIB)
        waits(plane, growth, 2 * MIB)
        found = leases.next(4, behind=False, now=6.0 + seconds)
        assert span(found) == ((2 * MIB, 2 * MIB + WANTED) if late else None)
        assert held.stop == (2 * MIB if late else WANTED)
        assert late or 6.0 + seconds < leases.look_at < 6.5

    def test_what_has_come_but_was_not_read_is_not_cut(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True, shared=True)
        held = leases.add(0, WANTED, WANTED)
        leases.began(held, 0.0, 0.0)
        waits(plane, growth, 4 * MIB)

        async def run() -> None:
            stream, _, far = plane.stream()
            stream.receive(held, "length", WANTED, LIMIT)
            await plane.loop.sock_sendall(far, bytes(BLOCK_SIZE))
            while held.offset < BLOCK_SIZE:
                await asyncio.sleep(0)
            assert held.unread == 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    far.send(bytes(BLOCK_SIZE))
            assert held.unread > UNREAD
            assert leases.next(4, behind=False, now=60.0) is None
            stream.abort()

        plane.loop.run_until_complete(run())
        assert held.stop == WANTED

    def test_who_has_no_answer_loses_what_is_waited_for(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True, shared=True)
        held = leases.add(20 * MIB, 22 * MIB, 22 * MIB, now=1.0)
        waits(plane, growth, 20 * MIB)
        assert leases.next(4, behind=False, now=1.0) is None
        assert leases.look_at == 1.0 + STALLED
        again = leases.next(4, behind=False, now=leases.look_at)
        assert span(again) == (20 * MIB, 20 * MIB + WANTED)
        assert leases.active == [again]
        leases.end(held)  # as if it had not been

    def test_where_all_take_long_to_answer_nobody_does(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True, shared=True)
        first = leases.add(0, MIB, MIB)
        leases.began(first, 10.0, 10.0)
        leases.add(20 * MIB, 22 * MIB, 22 * MIB, now=10.0)
        waits(plane, growth, 20 * MIB)
        assert leases.next(4, behind=False, now=10.0 + STALLED) is None
        assert leases.look_at == 10.0 + 10.0 * PATIENCE

    def test_who_has_nothing_left_helps_the_slowest(self, plane: Plane, tmp_path: Path) -> None:
        growth = scattered(plane, tmp_path / "another", 16 * MIB)
        leases = Leases(growth, pieces=True, shared=True)
        slow, quick = leases.add(0, 8 * MIB, 8 * MIB), leases.add(8 * MIB, 16 * MIB, 16 * MIB)
        for lease, size in ((slow, 2 * MIB), (quick, 4 * MIB)):
            leases.began(lease, 0.0, 0.0)
            bring(plane, lease, size)
        assert leases.next(4, behind=True, now=1.0) is None
        leases.crowded = True
        assert span(leases.next(4, behind=True, now=1.0)) == (5 * MIB, 8 * MIB)
        assert (slow.stop, quick.stop) == (5 * MIB, 16 * MIB)


class TestWidth:
    """Others come to help, and go."""

    def test_a_lease_of_all_the_rest_becomes_a_short_one(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=False)
        held = leases.next(1, behind=True)
        assert held is not None
        bring(plane, held, 100_000)
        leases.widen()
        assert held.stop == 2 * BLOCK_SIZE + LEAST
        found = leases.next(4, behind=True)
        assert found is not None
        assert found.start == held.stop

    def test_a_short_one_is_none_the_longer_for_it(self, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        held = leases.add(0, MIB, MIB)
        leases.widen()
        assert held.stop == MIB

    def test_a_piece_stays_whole(self, growth: GrowingFile) -> None:
        """What its origin has sent of it already would come twice."""
        leases = Leases(growth, pieces=True)
        held = leases.add(0, WANTED, WANTED)
        leases.widen()
        assert held.stop == WANTED

    def test_who_is_alone_brings_all_that_it_can(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=False)
        held = leases.next(1, behind=True)
        assert held is not None
        leases.widen()
        leases.narrow()
        assert held.stop == TOTAL

    def test_but_for_what_is_there_and_on_its_way(self, plane: Plane, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=False)
        held = leases.add(0, TOTAL, TOTAL)
        short = leases.add(50 * MIB, 51 * MIB, 51 * MIB)
        leases.widen()
        leases.narrow()
        assert (held.stop, short.stop) == (50 * MIB, 51 * MIB)
        bring(plane, short, MIB)
        leases.end(short)
        leases.narrow()
        assert held.stop == 50 * MIB

    def test_never_beyond_its_body(self, growth: GrowingFile) -> None:
        leases = Leases(growth, pieces=True)
        held = leases.add(0, MIB, 2 * MIB)
        leases.narrow()
        assert held.stop == 2 * MIB


LARGEST = 60 * MIB  # more than twice as much as streams wait for each other
OFFSETS = st.integers(0, LARGEST - 1)


class Streams(RuleBasedStateMachine):
    """Streams that come, bring something, and break, with readers anywhere: all of it arrives, and no
    whole block twice."""

    @initialize(
        pieces=st.booleans(),
        written=st.integers(0, 200_000),
        total=st.integers(1, LARGEST),
        shared=st.booleans(),
    )
    def begin(self, pieces: bool, written: int, total: int, shared: bool) -> None:
        self.scratch = TemporaryDirectory()
        self.plane = Plane()
        self.total = total
        self.growth = scattered(
            self.plane, Path(self.scratch.name) / "part", total, written=min(written, total)
        )
        self.leases = Leases(self.growth, pieces=pieces, shared=shared)
        self.wanted: list[int] = []
        self.now = 0.0

    @property
    def active(self) -> list[RangeWriter]:
        return self.leases.active

    @rule(streams=st.integers(1, 8), behind=st.booleans())
    def take(self, streams: int, behind: bool) -> None:
        lease = self.leases.next(streams, behind=behind, now=self.now)
        if lease is None:
            if behind:
                self._all_is_somebodys()
            return
        assert 0 <= lease.start < lease.stop <= lease.body_stop <= self.total
        assert lease.start == self.growth.written or lease.start % BLOCK_SIZE == 0
        assert lease.stop == self.total or lease.stop % BLOCK_SIZE == 0
        assert not self.growth.holds(lease.start)
        extents = self.growth.extents
        assert extents is not None
        assert extents.hole(lease.start)[1] >= lease.stop
        waiting = [offset for offset in self._waiting() if not lease.start <= offset < lease.stop]
        if not any(lease.start <= offset < lease.stop for offset in self.wanted):
            # Nobody waits for it, so nobody waits for what nobody brings.
            for offset in waiting:
                assert self._brought(offset), offset

    def _waiting(self) -> list[int]:
        return [offset for offset in self.wanted if offset < self.total and not self.growth.holds(offset)]

    def _brought(self, offset: int) -> bool:
        start = max(offset - offset % BLOCK_SIZE, self.growth.written)
        return any(held.start <= start < held.stop for held in self.active)

    def _all_is_somebodys(self) -> None:
        extents = self.growth.extents
        assert extents is not None
        at = self.growth.written
        while at < self.total:
            start, stop = extents.hole(at)
            held = [lease for lease in self.active if lease.start <= start < lease.stop]
            if start >= self.total:
                return
            assert held, (start, stop)
            at = held[0].stop

    @rule(offset=OFFSETS, own=st.booleans())
    def wait(self, offset: int, own: bool) -> None:
        if offset < self.total:
            self.wanted.append(offset)
            if own:
                waits(self.plane, self.growth, offset)
            else:
                self.leases.ask_for([offset])

    @rule(crowded=st.booleans(), seconds=st.sampled_from([0.0, JUDGED, SOON, 1.0, STALLED]))
    def pass_time(self, crowded: bool, seconds: float) -> None:
        self.leases.crowded = crowded and self.leases.shared
        self.now += seconds

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, 20), took=st.sampled_from([0.0, 0.1, 1.0]))
    def begin_body(self, which: int, took: float) -> None:
        self.leases.began(self.active[which % len(self.active)], self.now, took)

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, 20), size=st.integers(1, 4 * MIB))
    def bring(self, which: int, size: int) -> None:
        lease = self.active[which % len(self.active)]
        size = min(size, lease.stop - lease.offset)
        if size:
            bring(self.plane, lease, size)

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, 20))
    def complete(self, which: int) -> None:
        lease = self.active[which % len(self.active)]
        self.bring(which, self.total)
        assert lease.offset >= lease.stop
        self.leases.end(lease)

    @precondition(lambda self: self.active)
    @rule(which=st.integers(0, 20))
    def lose(self, which: int) -> None:
        self.leases.end(self.active[which % len(self.active)])

    @rule()
    def widen(self) -> None:
        self.leases.widen()

    @rule()
    def narrow(self) -> None:
        self.leases.narrow()

    @invariant()
    def no_byte_is_leased_twice(self) -> None:
        spans = sorted((max(lease.start, lease.offset), lease.stop) for lease in self.active)
        for (_, stop), (start, _) in itertools.pairwise(spans):
            assert stop <= start, spans
        for lease in self.active:
            assert lease.start <= lease.offset <= lease.stop <= min(lease.body_stop, self.total)

    def teardown(self) -> None:
        try:
            while (lease := self.leases.next(3, behind=True)) is not None or self.active:
                lease = lease or self.active[0]
                if lease.stop > lease.offset:
                    bring(self.plane, lease, lease.stop - lease.offset)
                self.leases.end(lease)
            assert self.growth.written == self.total
        finally:
            self.growth.file.close()
            self.plane.close()
            self.scratch.cleanup()


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
