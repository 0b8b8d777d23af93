"""Lengths that others declare: whatever an answer, a part or a map says, it is refused or held to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile, RangeWriter
from tests.support.plane import LIMIT, Plane, Run, plane, run
from tests.support.scattered_growths import DATA, TOTAL, scattered

__all__ = ["plane", "run"]  # fixtures
MAX = 2**63 - 1


# --- what takes it in --------------------------------------------------------------------------------------


class TestGrowth:
    """It is held to what was declared, whoever has looked at it before."""

    @pytest.mark.parametrize("chunk", [1000, 70_000])
    def test_more_than_was_declared(self, chunk: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        """What should have come is taken; the digest will tell."""

        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            growth.expect(chunk + 10)
            assert await plane.write(growth, DATA[:chunk]) == ""
            reason = await plane.write(growth, DATA[chunk : 3 * chunk], complete=False)
            assert reason == f"the body is longer than the {chunk + 10} bytes that were declared"
            assert await plane.write(growth, b"x", complete=False) == reason
            assert growth.written == growth.hashed == chunk + 10
            assert (tmp_path / "part").read_bytes() == DATA[: chunk + 10]

        run(test())

    @pytest.mark.parametrize("total", [-2, -(2**63)])
    def test_no_length(self, total: int, plane: Plane, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="length"):
            plane.growth(tmp_path / "part").expect(total)

    def test_another_length_than_its_map(self, plane: Plane, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not the length"):
            scattered(plane, tmp_path).expect(TOTAL + 1)

    def test_a_map_of_less_than_is_there(self, plane: Plane, tmp_path: Path) -> None:
        (tmp_path / "part").write_bytes(DATA)
        growth = plane.growth(tmp_path / "part")
        growth.follow(TOTAL)
        with pytest.raises(ValueError, match="are there"):
            growth.scatter(Extents(TOTAL - 1))

    @pytest.mark.parametrize("n", [-1, 1001, MAX])
    def test_passing_over_what_is_not_there(self, n: int, plane: Plane, tmp_path: Path) -> None:
        growth = plane.growth(tmp_path / "part")
        growth.follow(1000)
        with pytest.raises(ValueError, match="passed over"):
            growth.pass_over(n)

    def test_a_file_that_somebody_else_has_cut(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        """Zeros would be where bytes were, and the digest of what came would match."""

        async def test() -> None:
            growth = plane.growth(tmp_path / "part")
            await plane.write(growth, DATA[:100_000])
            os.truncate(tmp_path / "part", 50_000)
            await plane.write(growth, DATA[100_000:200_000])
            assert (tmp_path / "part").stat().st_size == 50_000
            assert growth.memory is not None
            assert growth.disk_errno

        run(test())

    def test_a_scattered_one(self, plane: Plane, run: Run, tmp_path: Path) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            assert await into(plane, RangeWriter(growth, 0, TOTAL, TOTAL), DATA[:300_000]) == ""
            os.truncate(tmp_path / "part", 0)
            segment = RangeWriter(growth, 5 * BLOCK_SIZE, TOTAL, TOTAL)
            assert await into(plane, segment, DATA[5 * BLOCK_SIZE :]) == "the disk fails: Input/output error"
            assert (tmp_path / "part").stat().st_size == 0

        run(test())


async def into(plane: Plane, segment: RangeWriter, data: bytes) -> str:
    """Have the segment receive this as a whole body of unknown length; what the stream said of its end."""
    stream, told, far = plane.stream()
    stream.receive(segment, "eof", 0, LIMIT)
    sending = plane.loop.create_task(plane.loop.sock_sendall(far, data))
    sending.add_done_callback(lambda done: far.shutdown(1) if done.exception() is None else None)
    name, _, reason = await told.next()
    assert name == "body"
    stream.abort()
    await asyncio.wait([sending])
    return str(reason)


class TestSegment:
    """Whatever it is told that the body has: nothing is written behind the content's end."""

    @pytest.mark.parametrize(
        "start, stop, body_stop",
        [(-1, 5, 5), (5, 4, 5), (0, 6, 5), (-(2**63), MAX, MAX)],
    )
    def test_no_span(self, start: int, stop: int, body_stop: int, plane: Plane, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="a segment can't be"):
            RangeWriter(scattered(plane, tmp_path), start, stop, body_stop)

    @pytest.mark.parametrize(
        "start, stop, body_stop",
        [
            (TOTAL - 100, TOTAL + 1, TOTAL + 1),
            (TOTAL - 100, TOTAL + 1_000_000, TOTAL + 1_000_000),
            (TOTAL - 100, TOTAL + 100_000, MAX),
            (TOTAL, TOTAL + 1, TOTAL + 1),
            (TOTAL + 1, TOTAL + 2, TOTAL + 2),
            (TOTAL + 5 * BLOCK_SIZE, TOTAL + 6 * BLOCK_SIZE, MAX),
            (MAX - 100, MAX, MAX),
        ],
    )
    def test_behind_the_end(
        self, start: int, stop: int, body_stop: int, plane: Plane, run: Run, tmp_path: Path
    ) -> None:
        async def test() -> None:
            growth = scattered(plane, tmp_path)
            segment = RangeWriter(growth, start, stop, body_stop)
            assert await into(plane, segment, b"x" * 70_000) == (
                f"it goes on past the {TOTAL} bytes that were declared"
            )
            assert (growth.written, segment.offset) == (0, start)
            assert (tmp_path / "part").stat().st_size <= TOTAL
            assert growth.extents is not None
            assert growth.extents.hole(0) == (0, TOTAL)

        run(test())

    @pytest.mark.parametrize("more", [1, 100_000])
    def test_a_body_without_an_end(self, more: int, plane: Plane, run: Run, tmp_path: Path) -> None:
        """All that was wanted has come: nobody waits for what may never end."""

        async def test() -> None:
            growth = scattered(plane, tmp_path)
            segment = RangeWriter(growth, 0, TOTAL, TOTAL)
            stream, told, far = plane.stream()
            stream.receive(segment, "eof", 0, LIMIT)
            sending = plane.loop.create_task(plane.loop.sock_sendall(far, DATA + b"x" * more))
            assert await told.next() == ("body", False, "all that was wanted of it is there")
            assert segment.full
            assert growth.written == TOTAL
            stream.abort()
            await asyncio.wait([sending])
            assert (tmp_path / "part").read_bytes() == DATA

        run(test())


SPOTS = st.one_of(
    st.integers(0, 3 * BLOCK_SIZE),
    st.sampled_from([BLOCK_SIZE - 1, BLOCK_SIZE, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 1]),
    st.integers(0, MAX),
)
SPANS = st.lists(st.lists(SPOTS, min_size=3, max_size=3).map(sorted), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(total=st.integers(1, 2 * BLOCK_SIZE + 1), spans=SPANS, sent=st.integers(0, 3 * BLOCK_SIZE))
@example(total=BLOCK_SIZE, spans=[[0, BLOCK_SIZE + 1, BLOCK_SIZE + 1]], sent=2 * BLOCK_SIZE)
def test_any_segment_of_any_content(
    total: int, spans: list[list[int]], sent: int, plane: Plane, run: Run
) -> None:
    async def test(directory: Path) -> None:
        growth = scattered(plane, directory, total)
        for start, stop, body_stop in spans:
            await into(plane, RangeWriter(growth, start, stop, body_stop), DATA[:sent])
            assert growth.written <= total
            assert (directory / "part").stat().st_size <= total
            assert growth.extents is not None
            assert growth.extents.hole(0)[1] <= total
        growth.fail("over")
        growth.file.close()

    with TemporaryDirectory() as place:
        run(test(Path(place)))


def test_who_owns_the_file_of_a_growth_that_fails(plane: Plane, tmp_path: Path) -> None:
    """The File does, from where there is one."""
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    with pytest.raises(TypeError):
        GrowingFile(File(fd, -1, plane.loop), "x")  # type: ignore[arg-type]
    with pytest.raises(OSError):
        os.fstat(fd)
