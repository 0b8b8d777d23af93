"""A part that is filled in several places at once: what is known of it, its hash, and its readers."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import itertools
import os
import random
import socket
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from regproxy.dataplane.sources import FileSource
from regproxy.dataplane.stream import Stream
from tests.support.plane import LIMIT, Plane, Run, Told, nothing, plane, run
from tests.support.scattered_growths import DATA, TOTAL, identity, open_map, scattered

__all__ = ["plane", "run"]  # fixtures

HOLD_BACK = 16_384
HASHED_HERE = 524_288  # what has to be hashed is done within the loop up to there, else by a thread
FULL = "all that was wanted of it is there"


class Feed:
    """A stream that brings a segment its bytes, as many at a time as a test says."""

    def __init__(self, plane: Plane, segment: RangeWriter, *, data: bytes = DATA) -> None:
        self._plane = plane
        self._data = data
        self._at = segment.offset
        self.segment = segment
        self.stream, self._told, self._far = plane.stream()
        self.stream.receive(segment, "length", segment.body_stop - segment.offset, LIMIT)

    async def send(self, size: int) -> None:
        """So many bytes more; returns when the segment has them, or wants no more."""
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        sending = self._plane.loop.create_task(self._plane.loop.sock_sendall(self._far, piece))
        async with asyncio.timeout(LIMIT):
            while self.segment.offset < self._at and self._told.quiet:
                await self._plane.turns(1)
        if self._told.quiet:
            await sending
        else:
            sending.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await sending

    async def over(self) -> tuple[bool, str]:
        """Whether all of it came, and the reason why not."""
        name, complete, reason = await self._told.next()
        assert name == "body"
        self.stream.abort()
        return complete, reason


async def bring(plane: Plane, growth: GrowingFile, start: int, stop: int, *, data: bytes = DATA) -> None:
    """Fill [start, stop) by a segment of its own."""
    if start == stop:
        return
    feed = Feed(plane, RangeWriter(growth, start, stop, stop), data=data)
    await feed.send(stop - start)
    assert await feed.over() == (True, "")
    assert feed.segment.offset == stop


async def hashed(growth: GrowingFile) -> None:
    """Wait for threads, and for what they have left to others."""
    async with asyncio.timeout(LIMIT):
        while growth.catching is not None:
            await growth.catching
            await asyncio.sleep(0)


def reader(plane: Plane, growth: GrowingFile, start: int, stop: int) -> tuple[socket.socket, Told, Stream]:
    stream, told, far = plane.stream()
    stream.send(b"", b"", FileSource(growth.file, start, stop, growth))
    return far, told, stream


class TestMap:
    """The file in which other processes read what is there."""

    def test_a_block_is_a_power_of_two(self) -> None:
        assert BLOCK_SIZE == 65_536

    @pytest.mark.parametrize("total", [0, -1])
    def test_of_nothing(self, total: int) -> None:
        with pytest.raises(ValueError, match="has no extents"):
            Extents(total)

    def test_without_a_file(self) -> None:
        extents = Extents(TOTAL)
        extents.start(1, 2, 100)
        assert (extents.written, extents.hole(0), extents.fd) == (100, (0, TOTAL), -1)

    @pytest.mark.parametrize("total", [1, BLOCK_SIZE, 64 * BLOCK_SIZE, 64 * BLOCK_SIZE + 1, TOTAL])
    def test_there_is_room_for_it_from_the_start(self, total: int, tmp_path: Path) -> None:
        Extents(total, open_map(tmp_path / "map")).start(1, 2, 0)
        size = (tmp_path / "map").stat().st_size
        assert size == 48 + 16 * -(-total // (64 * BLOCK_SIZE))

    def test_a_disk_that_has_none(self) -> None:
        with pytest.raises(OSError) as caught:
            Extents(TOTAL, os.open("/dev/full", os.O_RDWR)).start(1, 2, 0)
        assert caught.value.errno == errno.ENOSPC

    @pytest.mark.parametrize(
        "total, device, inode, known",
        [(TOTAL, 7, 8, True), (TOTAL + 1, 7, 8, False), (TOTAL, 8, 8, False), (TOTAL, 7, 9, False)],
    )
    def test_whose_it_is(self, total: int, device: int, inode: int, known: bool, tmp_path: Path) -> None:
        Extents(TOTAL, open_map(tmp_path / "map")).start(7, 8, 1234)
        other = Extents(total, open_map(tmp_path / "map"))
        assert other.load(device, inode) is known
        assert other.written == (1234 if known else 0)

    @pytest.mark.parametrize("content", [b"", b"regproxn", b"x" * 100, bytes(48)])
    def test_what_is_no_map(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "map").write_bytes(content)
        assert not Extents(TOTAL, open_map(tmp_path / "map")).load(0, 0)

    def test_a_map_without_its_bits(self, tmp_path: Path) -> None:
        """Its filler was killed while it made it: nothing is known to be there."""
        Extents(TOTAL, open_map(tmp_path / "map")).start(7, 8, 0)
        os.truncate(tmp_path / "map", 48)
        other = Extents(TOTAL, open_map(tmp_path / "map"))
        assert other.load(7, 8)
        assert other.hole(0) == (0, TOTAL)

    @pytest.mark.parametrize("place", range(32, 48 + 16 * 2))
    def test_a_byte_that_is_not_as_it_was_written(self, place: int, tmp_path: Path) -> None:
        """What the damaged number said is not known any more, and nothing is that was not there."""
        total = 70 * BLOCK_SIZE
        written = Extents(total, open_map(tmp_path / "map"))
        written.start(7, 8, 3 * BLOCK_SIZE + 5)
        whole = (tmp_path / "map").read_bytes()
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            (tmp_path / "map").write_bytes(damaged)
            other = Extents(total, open_map(tmp_path / "map"))
            assert other.load(7, 8)
            assert other.written == (0 if place < 48 else 3 * BLOCK_SIZE + 5)
            assert other.hole(0) == (0, total)

    def test_the_numbers_of_another_part(self, tmp_path: Path) -> None:
        """As a disk may mix up what belongs to which file."""
        for name, inode, written in (("map", 8, 0), ("other", 9, 1234)):
            Extents(TOTAL, open_map(tmp_path / name)).start(7, inode, written)
        mixed = (tmp_path / "map").read_bytes()[:32] + (tmp_path / "other").read_bytes()[32:]
        (tmp_path / "map").write_bytes(mixed)
        extents = Extents(TOTAL, open_map(tmp_path / "map"))
        assert extents.load(7, 8)
        assert extents.written == 0

    def test_more_than_there_is(self, tmp_path: Path) -> None:
        Extents(TOTAL, open_map(tmp_path / "map")).start(7, 8, TOTAL + 1)
        other = Extents(TOTAL, open_map(tmp_path / "map"))
        assert other.load(7, 8)
        assert other.written == 0

    def test_that_can_not_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="can't be read"):
            Extents(TOTAL, os.open(tmp_path, os.O_RDONLY)).load(0, 0)

    def test_what_one_marks_another_sees(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            early = Extents(TOTAL, open_map(tmp_path / "map"))
            assert early.load(*identity(growth))
            other = plane.growth(tmp_path / "part")
            other.scatter(early)
            await bring(plane, growth, 10 * BLOCK_SIZE, 12 * BLOCK_SIZE)
            await bring(plane, growth, 0, 1000)
            assert (early.written, early.hole(0)) == (0, (0, TOTAL))
            other.refresh()
            late = Extents(TOTAL, open_map(tmp_path / "map"))
            assert late.load(*identity(growth))
            for seen in (early, late):
                assert seen.written == 1000
                assert seen.hole(0) == (0, 10 * BLOCK_SIZE)
                assert seen.hole(10 * BLOCK_SIZE) == (12 * BLOCK_SIZE, TOTAL)
            assert other.written == 1000

        run(test())

    def test_blocks_that_were_marked_before_the_beginning_was_noted(
        self, plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        """Its filler was killed between the two."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            await bring(plane, growth, 0, 3 * BLOCK_SIZE)
            with (tmp_path / "map").open("r+b") as file:
                file.seek(32)
                file.write(bytes(16))
            other = Extents(TOTAL, open_map(tmp_path / "map"))
            assert other.load(*identity(growth))
            assert other.written == 3 * BLOCK_SIZE

        run(test())


BLOCKS = 70  # more than a word of bits
PIECES = st.lists(st.tuples(st.integers(0, BLOCKS * BLOCK_SIZE), st.integers(1, 9 * BLOCK_SIZE)), max_size=12)


class Model:
    """The same as plain sets: whole blocks that are there, and how much there is from the beginning on."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.blocks: set[int] = set()
        self.written = 0

    def bring(self, start: int, stop: int) -> None:
        """[start, stop) has come, where `start` is a block's, or everything before it is there."""
        last = -(-self.total // BLOCK_SIZE) if stop == self.total else stop // BLOCK_SIZE
        self.blocks |= set(range(start // BLOCK_SIZE, last))
        if start <= self.written:
            self.written = max(self.written, stop)
        while self.end(self.written) > self.written:
            self.written = self.end(self.written)

    def end(self, offset: int) -> int:
        block = offset // BLOCK_SIZE
        while offset < self.total and block in self.blocks:
            block += 1
            offset = min(block * BLOCK_SIZE, self.total)
        return offset

    def hole(self, offset: int) -> tuple[int, int]:
        start = self.end(offset)
        behind = [block for block in self.blocks if block * BLOCK_SIZE > start]
        return start, min((block * BLOCK_SIZE for block in behind), default=self.total)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(total=st.integers(1, BLOCKS * BLOCK_SIZE), pieces=PIECES, chance=st.randoms(use_true_random=False))
def test_it_is_what_plain_sets_are(
    total: int, pieces: list[tuple[int, int]], chance: random.Random, plane: Plane, run: Run
) -> None:
    """Segments of any length at any place, in any order, and over one another."""
    data = DATA * (total // TOTAL + 1)

    async def test(directory: Path) -> None:
        growth, model = scattered(plane, directory, total), Model(total)
        extents = growth.extents
        assert extents is not None
        for where, size in pieces:
            start = where % total
            # As leases are: from the border of a block on, or from where everything before is there.
            start = start - start % BLOCK_SIZE if start > growth.written else growth.written
            stop = min(start + size, total)
            await bring(plane, growth, start, stop, data=data)
            model.bring(start, stop)
            other = Extents(total, open_map(directory / "map"))
            assert other.load(*identity(growth))
            assert growth.written == model.written
            for offset in [0, stop, total, *(chance.randrange(total) for _ in range(5))]:
                for seen in (extents, other):
                    assert (seen.end(offset), seen.hole(offset)) == (model.end(offset), model.hole(offset))
                there = offset < model.written or model.end(offset) > offset
                assert growth.holds(offset) == there
        await hashed(growth)
        assert growth.hashed == growth.written
        found = (directory / "part").read_bytes()
        assert found[: growth.written] == data[: growth.written]
        for block in model.blocks:
            span = slice(block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, total))
            assert found[span] == data[span]
        growth.file.close()

    with TemporaryDirectory() as place:
        run(test(Path(place)))


class TestSegments:
    """Bytes that come to any place: each is written once, and the hash follows in order."""

    @pytest.mark.parametrize("seed", range(8))
    def test_in_any_order(self, seed: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            chance = random.Random(seed)
            borders = sorted({0, 41, *(chance.randrange(41) for _ in range(6))})
            spans = [(a * BLOCK_SIZE, min(b * BLOCK_SIZE, TOTAL)) for a, b in itertools.pairwise(borders)]
            chance.shuffle(spans)
            for start, stop in spans:
                await bring(plane, growth, start, stop)
            await hashed(growth)
            assert growth.written == growth.hashed == TOTAL
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()
            assert (tmp_path / "part").read_bytes() == DATA

        run(test())

    def test_several_at_a_time(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            starts = [0, 10 * BLOCK_SIZE, 20 * BLOCK_SIZE, 30 * BLOCK_SIZE, TOTAL]
            feeds = [Feed(plane, RangeWriter(growth, a, b, b)) for a, b in itertools.pairwise(starts)]
            while any(feed.segment.offset < feed.segment.stop for feed in feeds):
                for feed in feeds:
                    await feed.send(min(100_001, feed.segment.stop - feed.segment.offset))
            for feed in feeds:
                assert await feed.over() == (True, "")
            await hashed(growth)
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()

        run(test())

    def test_what_is_there_is_not_written_again(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Whatever it is that comes: readers have had it, and so has the hash."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            await bring(plane, growth, 0, 5000)
            await bring(plane, growth, 10 * BLOCK_SIZE, 20 * BLOCK_SIZE)
            wrong = bytearray(DATA)
            for start, stop in ((0, 5000), (10 * BLOCK_SIZE, 20 * BLOCK_SIZE)):
                wrong[start:stop] = bytes(stop - start)
            await bring(plane, growth, 0, TOTAL, data=bytes(wrong))
            await hashed(growth)
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()
            assert (tmp_path / "part").read_bytes() == DATA

        run(test())

    def test_two_that_bring_the_same(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            feeds = [Feed(plane, RangeWriter(growth, 0, TOTAL, TOTAL)) for _ in range(2)]
            while growth.written < TOTAL:
                for feed in feeds:
                    await feed.send(70_001)
            for feed in feeds:
                await feed.send(TOTAL)
                assert await feed.over() == (True, "")
            await hashed(growth)
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()

        run(test())

    def test_the_beginning_jumps_over_what_is_there(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            await bring(plane, growth, BLOCK_SIZE, 5 * BLOCK_SIZE)
            assert (growth.written, growth.hashed) == (0, 0)
            feed = Feed(plane, RangeWriter(growth, 0, BLOCK_SIZE, BLOCK_SIZE))
            await feed.send(BLOCK_SIZE - 1)
            assert growth.written == growth.hashed == BLOCK_SIZE - 1
            await feed.send(1)
            assert growth.written == growth.hashed == 5 * BLOCK_SIZE
            assert not growth.hashing
            assert await feed.over() == (True, "")

        run(test())

    def test_a_long_jump_is_hashed_by_a_thread(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            far = BLOCK_SIZE + HASHED_HERE + BLOCK_SIZE
            await bring(plane, growth, BLOCK_SIZE, far)
            feed = Feed(plane, RangeWriter(growth, 0, BLOCK_SIZE, BLOCK_SIZE))
            await feed.send(BLOCK_SIZE)
            assert growth.written == far
            assert growth.catching is not None or growth.hashed == far
            # What comes meanwhile, behind it, is hashed afterwards.
            await bring(plane, growth, far, TOTAL)
            await hashed(growth)
            assert growth.hashed == TOTAL
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()
            assert await feed.over() == (True, "")

        run(test())

    def test_behind_what_another_process_wrote(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Its beginning need not be a whole block."""

        async def test() -> None:
            growth = scattered(plane, tmp_path, there=DATA[:100_000])
            assert (growth.written, growth.hashed) == (100_000, 0)
            await bring(plane, growth, 100_000, 150_000)
            await bring(plane, growth, 3 * BLOCK_SIZE, TOTAL)
            await bring(plane, growth, 150_000, 3 * BLOCK_SIZE)
            await hashed(growth)
            assert growth.written == growth.hashed == TOTAL
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()

        run(test())

    def test_that_breaks_within_a_block(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Only whole blocks are there afterwards."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            feed = Feed(plane, RangeWriter(growth, 2 * BLOCK_SIZE, TOTAL, TOTAL))
            await feed.send(BLOCK_SIZE + 100)
            feed.stream.abort()
            extents = growth.extents
            assert extents is not None
            assert extents.hole(2 * BLOCK_SIZE) == (3 * BLOCK_SIZE, TOTAL)
            assert not growth.holds(3 * BLOCK_SIZE)
            await bring(plane, growth, 3 * BLOCK_SIZE, TOTAL)
            await bring(plane, growth, 0, 2 * BLOCK_SIZE)
            await hashed(growth)
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()

        run(test())

    @pytest.mark.parametrize("stop", [4 * BLOCK_SIZE, 200_000, 200_001, 4 * BLOCK_SIZE + 5])
    def test_is_full_at_a_stop_that_was_lowered(
        self, stop: int, plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            segment = RangeWriter(growth, 0, TOTAL, TOTAL)
            feed = Feed(plane, segment)
            await feed.send(200_000)
            assert (segment.offset, segment.full) == (200_000, False)
            segment.stop = stop
            await feed.send(100_000)
            assert await feed.over() == (False, FULL)
            assert (segment.offset, segment.full, growth.written) == (stop, True, stop)
            assert (tmp_path / "part").read_bytes() == DATA[:stop]
            assert not growth.failed

        run(test())

    def test_whose_body_ends_at_its_stop_is_only_over(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            segment = RangeWriter(growth, 0, BLOCK_SIZE, BLOCK_SIZE)
            feed = Feed(plane, segment)
            await feed.send(BLOCK_SIZE)
            assert await feed.over() == (True, "")
            assert not segment.full

        run(test())

    def test_behind_a_growth_that_is_gathered(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            feed = Feed(plane, RangeWriter(growth, 0, TOTAL, TOTAL))
            await feed.send(1000)
            growth.gather()
            await feed.send(1000)
            assert await feed.over() == (False, "it is not filled in several places any more")
            assert growth.written == 1000

        run(test())


class TestReaders:
    """Whoever reads has every byte that is there, but for the end, which waits for the digest."""

    def test_at_any_place(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            far, _, _ = reader(plane, growth, 12 * BLOCK_SIZE + 7, 14 * BLOCK_SIZE)
            assert growth.wanted() == [12 * BLOCK_SIZE + 7]
            await bring(plane, growth, 12 * BLOCK_SIZE, 14 * BLOCK_SIZE)
            wanted = DATA[12 * BLOCK_SIZE + 7 : 14 * BLOCK_SIZE]
            assert await plane.read(far, len(wanted)) == wanted
            assert (growth.written, growth.wanted()) == (0, [])
            late, _, _ = reader(plane, growth, 13 * BLOCK_SIZE, 14 * BLOCK_SIZE)
            assert await plane.read(late, BLOCK_SIZE) == DATA[13 * BLOCK_SIZE : 14 * BLOCK_SIZE]

        run(test())

    @pytest.mark.parametrize("readers", [1, 2, 3, 30])
    def test_many_of_any_parts(self, readers: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            chance = random.Random(readers)
            ends = []
            for number in range(readers):
                start, stop = sorted(chance.sample(range(TOTAL + 1), 2)) if number else (0, TOTAL)
                far, told, _ = reader(plane, growth, start, stop)
                ends.append((start, stop, told, plane.loop.create_task(plane.read(far, stop - start))))
            pieces = [(at, min(at + 3 * BLOCK_SIZE, TOTAL)) for at in range(0, TOTAL, 3 * BLOCK_SIZE)]
            chance.shuffle(pieces)
            for start, stop in pieces:
                await bring(plane, growth, start, stop)
            growth.finish()
            for start, stop, told, reading in ends:
                assert await reading == DATA[start:stop]
                assert await told.next() == ("sent",)
            assert growth.waiting == 0

        run(test())

    @pytest.mark.parametrize("order", ["end first", "end last"])
    def test_the_end_waits_for_finish(self, order: str, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            last = 40 * BLOCK_SIZE
            whole, told, _ = reader(plane, growth, 0, TOTAL)
            end, _, _ = reader(plane, growth, TOTAL - HOLD_BACK - 10, TOTAL)
            reading = plane.loop.create_task(plane.read(whole, TOTAL - HOLD_BACK))
            spans = [(0, last - BLOCK_SIZE), (last - BLOCK_SIZE, TOTAL)]
            for start, stop in spans if order == "end last" else spans[::-1]:
                await bring(plane, growth, start, stop)
            assert await reading == DATA[:-HOLD_BACK]
            assert await plane.read(end, 10) == DATA[-HOLD_BACK - 10 : -HOLD_BACK]
            await plane.turns()
            assert nothing(whole)
            assert nothing(end)
            assert growth.holds(TOTAL - 1)
            growth.finish()
            for far in (whole, end):
                assert await plane.read(far, HOLD_BACK) == DATA[-HOLD_BACK:]
            assert await told.next() == ("sent",)

        run(test())

    def test_only_those_are_woken_for_whom_there_is_something(
        self, plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            near, _, _ = reader(plane, growth, 0, TOTAL)
            far, _, _ = reader(plane, growth, 30 * BLOCK_SIZE, TOTAL)
            assert growth.wanted() == [0, 30 * BLOCK_SIZE]
            await bring(plane, growth, 0, 1000)
            assert await plane.read(near, 1000) == DATA[:1000]
            await plane.turns()
            assert sorted(growth.wanted()) == [1000, 30 * BLOCK_SIZE]
            await bring(plane, growth, 30 * BLOCK_SIZE, 31 * BLOCK_SIZE)
            assert await plane.read(far, BLOCK_SIZE) == DATA[30 * BLOCK_SIZE : 31 * BLOCK_SIZE]

        run(test())

    def test_who_fills_it_is_told_that_somebody_waits(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Once, until it has looked for whom."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            told: list[int] = []
            growth.on_wait = lambda: told.append(growth.waiting)
            reader(plane, growth, 5 * BLOCK_SIZE, TOTAL)
            assert told == []  # from the loop
            reader(plane, growth, 6 * BLOCK_SIZE, TOTAL)
            await plane.turns()
            assert told == [2]
            assert growth.wanted() == [5 * BLOCK_SIZE, 6 * BLOCK_SIZE]
            reader(plane, growth, 7 * BLOCK_SIZE, TOTAL)
            await plane.turns()
            assert told == [2, 3]

        run(test())

    def test_who_has_left_is_not_waited_for(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Nothing is fetched for who has gone, and nothing of it is kept, however many come and go."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            for number in range(20):
                _, _, stream = reader(plane, growth, (number + 10) * BLOCK_SIZE, TOTAL)
                stream.abort()
            reader(plane, growth, 5 * BLOCK_SIZE, TOTAL)
            await bring(plane, growth, 0, BLOCK_SIZE)
            await plane.turns()
            assert growth.wanted() == [5 * BLOCK_SIZE]

        run(test())

    def test_another_process_s(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Here another growth with its own map of the same file."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            other = plane.growth(tmp_path / "part")
            extents = Extents(TOTAL, open_map(tmp_path / "map"))
            assert extents.load(*identity(growth))
            other.scatter(extents)
            far, told, _ = reader(plane, other, 20 * BLOCK_SIZE, TOTAL)
            whole, _, _ = reader(plane, other, 0, TOTAL)
            reading = plane.loop.create_task(plane.read(whole, TOTAL))
            await bring(plane, growth, 20 * BLOCK_SIZE, TOTAL)
            other.refresh()
            size = TOTAL - 20 * BLOCK_SIZE
            assert await plane.read(far, size - HOLD_BACK) == DATA[20 * BLOCK_SIZE : -HOLD_BACK]
            assert other.written == 0
            await bring(plane, growth, 0, 20 * BLOCK_SIZE)
            other.refresh()
            assert other.written == TOTAL
            other.finish()
            assert await plane.read(far, HOLD_BACK) == DATA[-HOLD_BACK:]
            assert await told.next() == ("sent",)
            assert await reading == DATA

        run(test())

    def test_of_what_has_failed(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            _, told, _ = reader(plane, growth, 3 * BLOCK_SIZE, TOTAL)
            growth.fail("the origin is gone")
            assert await told.next() == ("source_failed", "the origin is gone")

        run(test())


class TestDisk:
    """A disk that fails fails the segment; what is there from the beginning on is gone on with in memory."""

    @staticmethod
    def small(plane: Plane, directory: Path, room: int) -> GrowingFile:
        """A growth whose file takes `room` bytes and no more: a sealed memfd, where more is EPERM."""
        fd = os.memfd_create("disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, room)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        return scattered(plane, directory, file=File(fd, -1, plane.loop))

    @pytest.mark.parametrize("room", [20 * BLOCK_SIZE, 20 * BLOCK_SIZE + 100])
    def test_that_is_full(self, room: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = self.small(plane, tmp_path, room)
            far, told, _ = reader(plane, growth, 0, TOTAL)
            reading = plane.loop.create_task(plane.read(far, TOTAL))
            await bring(plane, growth, 0, 10 * BLOCK_SIZE)
            feed = Feed(plane, RangeWriter(growth, 15 * BLOCK_SIZE, TOTAL, TOTAL))
            await feed.send(TOTAL)
            assert await feed.over() == (False, "the disk fails: Operation not permitted")
            assert (growth.disk_errno, growth.failed, growth.memory) == (errno.EPERM, False, None)
            assert growth.written == 10 * BLOCK_SIZE
            await self.go_on(plane, growth)
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()
            growth.finish()
            assert await reading == DATA
            assert await told.next() == ("sent",)

        run(test())

    def test_that_takes_no_map(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """What is not known to be there is not there, and not hashed either."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            await bring(plane, growth, 0, BLOCK_SIZE + 100)
            extents = growth.extents
            assert extents is not None
            os.dup2(blind := open_map(tmp_path / "map", os.O_RDONLY), extents.fd, inheritable=False)
            os.close(blind)
            feed = Feed(plane, RangeWriter(growth, growth.written, TOTAL, TOTAL))
            await feed.send(2 * BLOCK_SIZE)
            assert await feed.over() == (False, "the disk fails: Bad file descriptor")
            assert growth.hashed <= growth.written
            await self.go_on(plane, growth)
            assert growth.hexdigest() == hashlib.sha256(DATA).hexdigest()

        run(test())

    @staticmethod
    async def go_on(plane: Plane, growth: GrowingFile) -> None:
        """As who fills it does: the rest in one piece, in memory."""
        await hashed(growth)
        await plane.loop.run_in_executor(None, growth.catch_up)
        growth.gather()
        growth.relay(growth.disk_errno)
        await plane.write(growth, DATA[growth.written :])
