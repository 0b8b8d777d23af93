"""Lengths that others declare: whatever an answer, a part or a map says, it is refused or held to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regproxy.cache.parts import MAPPED_MAX, Meta, boot_id, open_part
from regproxy.core.errors import BadResponse
from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import Growth, Segment
from regproxy.fill.origin_bodies import check, is_behind
from regproxy.http.messages import Response, parse_response
from regproxy.http.origin import Origin
from regproxy.upstream.connection import Connection
from regproxy.upstream.fetch import Fetched
from tests.sanitized import SANITIZED
from tests.test_extents import DATA, TOTAL, identity, open_map, scattered
from tests.test_relay import LIMIT, Plane, Run, plane, run

__all__ = ["plane", "run"]  # fixtures

ORIGIN = Origin("https", "reg.test", 443)
MAX = 2**63 - 1
Fields = dict[str, str | int]


def answer(status: int, *fields: tuple[str, object]) -> Response:
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in fields)]
    return parse_response("\r\n".join([*lines, "", ""]).encode(), "GET")


def fetched(response: Response) -> Fetched:
    return Fetched(cast(Connection, None), response, ORIGIN, 0.0, "", ORIGIN)


def ranged(text: str, length: object = None, *more: tuple[str, object]) -> Response:
    """A 206 for `Content-Range: bytes <text>`, in chunks where it has no length."""
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", length)
    return answer(206, ("Content-Range", f"bytes {text}"), framing, *more)


# (the answer, [start, stop) that was asked for, known, there) -> what it comes to; None is refused.
Case = tuple[Response, tuple[int, int], int, int, tuple[int, int] | None]
CASES: dict[str, Case] = {
    "all of it": (answer(200, ("Content-Length", 900)), (0, -1), -1, 0, (900, 900)),
    "all of it, as known": (answer(200, ("Content-Length", 900)), (0, -1), 900, 0, (900, 900)),
    "all of it instead of the rest": (answer(200, ("Content-Length", 900)), (500, -1), 900, 500, (900, 900)),
    "all of it, in chunks": (answer(200, ("Transfer-Encoding", "chunked")), (0, -1), 900, 5, (-1, -1)),
    "another length": (answer(200, ("Content-Length", 901)), (0, -1), 900, 0, None),
    "less than is there": (answer(200, ("Content-Length", 400)), (500, -1), -1, 500, None),
    "nothing, where something is there": (answer(200, ("Content-Length", 0)), (500, -1), -1, 500, None),
    "nothing": (answer(200, ("Content-Length", 0)), (0, -1), -1, 0, (0, 0)),
    "the rest": (ranged("500-899/900", 400), (500, -1), 900, 500, (900, 900)),
    "the rest, of an unknown whole": (ranged("500-899/*", 400), (500, -1), 900, 500, (-1, 900)),
    "less of an unknown whole": (ranged("500-599/*", 100), (500, -1), 900, 500, (-1, 600)),
    "more than is known": (ranged("500-999/*", 500), (500, -1), 900, 500, None),
    "one more than is known": (ranged("500-900/*", 401), (500, -1), 900, 500, None),
    "far more than is known": (ranged(f"500-{10**18 - 1}/*", 10**18 - 500), (500, -1), 900, 500, None),
    "another whole": (ranged("500-999/1000", 500), (500, -1), 900, 500, None),
    "a smaller whole": (ranged("500-799/800", 300), (500, -1), 900, 500, None),
    "a whole of less than is there": (ranged("0-399/400", 400), (0, 600), -1, 500, None),
    "not all the rest": (ranged("500-599/900", 100), (500, -1), 900, 500, None),
    "another start": (ranged("400-899/900", 500), (500, -1), 900, 500, None),
    "the range": (ranged("500-699/900", 200), (500, 700), 900, 0, (900, 700)),
    "less than the range": (ranged("500-599/900", 100), (500, 700), 900, 0, (900, 600)),
    "more than the range": (ranged("500-799/900", 300), (500, 700), 900, 0, None),
    "a range in chunks": (ranged("500-699/900"), (500, 700), 900, 0, (900, 700)),
    "a body longer than its range": (ranged("500-899/900", 401), (500, -1), 900, 500, None),
    "a body shorter than its range": (ranged("500-899/900", 399), (500, -1), 900, 500, None),
    "a range without a body": (ranged("500-899/900", 0), (500, -1), 900, 500, None),
    "two ranges": (
        ranged("500-899/900", 400, ("Content-Range", "bytes 0-9/900")),
        *((500, -1), 900, 500, None),
    ),
    "several ranges": (
        answer(206, ("Content-Type", "multipart/byteranges; boundary=x"), ("Content-Length", 400)),
        *((500, -1), 900, 500, None),
    ),
    "several ranges that say they are one": (
        ranged("500-899/900", 400, ("Content-Type", "Multipart/Byteranges; boundary=x")),
        *((500, -1), 900, 500, None),
    ),
    "a range that nobody asked for": (ranged("0-899/900", 900), (0, -1), -1, 0, None),
    "no range": (answer(206, ("Content-Length", 400)), (500, -1), 900, 500, None),
    "upside down": (ranged("899-500/900", 400), (500, -1), 900, 500, None),
    "19 digits": (ranged(f"500-{10**18}/*"), (500, -1), -1, 500, None),
    "not satisfied": (answer(416, ("Content-Range", "bytes */900")), (500, -1), 900, 500, None),
    "encoded": (
        answer(200, ("Content-Length", 900), ("Content-Encoding", "gzip")),
        *((0, -1), 900, 0, None),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_answer(case: Case) -> None:
    response, (start, stop), known, there, want = case
    if want is None:
        with pytest.raises(BadResponse, match=r"^reg\.test "):
            check(fetched(response), start, stop, known=known, there=there)
    else:
        assert check(fetched(response), start, stop, known=known, there=there) == want


LENGTHS = st.one_of(st.integers(0, 2000), st.integers(0, 10**18 - 1), st.sampled_from([0, 1, 899, 900, 901]))


@settings(max_examples=400, deadline=None)
@given(
    first=LENGTHS,
    last=LENGTHS,
    whole=st.one_of(st.none(), LENGTHS),
    length=st.one_of(st.none(), LENGTHS),
    asked=st.tuples(LENGTHS, st.one_of(st.just(-1), LENGTHS)),
    known=st.one_of(st.just(-1), LENGTHS),
    there=LENGTHS,
)
@example(first=500, last=1899, whole=None, length=1400, asked=(500, -1), known=900, there=500)
def test_any_range(
    first: int,
    last: int,
    whole: int | None,
    length: int | None,
    asked: tuple[int, int],
    known: int,
    there: int,
) -> None:
    """What is let through lies within what was asked for, within what is known, and is as long as it says."""
    response = ranged(f"{first}-{last}/{'*' if whole is None else whole}", length)
    start, stop = asked
    try:
        total, end = check(fetched(response), start, stop, known=known, there=there)
    except BadResponse:
        return
    assert start == first < end == last + 1
    assert stop < 0 or end <= stop
    assert known < 0 or (end <= known and total in (-1, known))
    assert total < 0 or (end <= total and there <= total)
    assert length is None or length == end - start


@pytest.mark.parametrize(
    "said, behind",
    [
        (None, True),
        ("bytes */900", True),
        ("Bytes */900", True),
        ("bytes */901", False),
        ("bytes */0", False),
    ],
)
def test_nothing_is_behind_it(said: str | None, behind: bool) -> None:
    fields = [] if said is None else [("Content-Range", said)]
    assert is_behind(answer(416, ("Content-Length", 0), *fields), 900) == behind


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
            assert await into(plane, Segment(growth, 0, TOTAL, TOTAL), DATA[:300_000]) == ""
            os.truncate(tmp_path / "part", 0)
            segment = Segment(growth, 5 * BLOCK_SIZE, TOTAL, TOTAL)
            assert await into(plane, segment, DATA[5 * BLOCK_SIZE :]) == "the disk fails: Input/output error"
            assert (tmp_path / "part").stat().st_size == 0

        run(test())


async def into(plane: Plane, segment: Segment, data: bytes) -> str:
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
            Segment(scattered(plane, tmp_path), start, stop, body_stop)

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
            segment = Segment(growth, start, stop, body_stop)
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
            segment = Segment(growth, 0, TOTAL, TOTAL)
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
            await into(plane, Segment(growth, start, stop, body_stop), DATA[:sent])
            assert growth.written <= total
            assert (directory / "part").stat().st_size <= total
            assert growth.extents is not None
            assert growth.extents.hole(0)[1] <= total
        growth.fail("over")
        growth.file.close()

    with TemporaryDirectory() as place:
        run(test(Path(place)))


class TestExtents:
    """Offsets that are none of the content's, and contents of any length."""

    @pytest.mark.parametrize("offset", [-(2**63), -1, TOTAL, TOTAL + 1, TOTAL + 5 * BLOCK_SIZE, MAX])
    def test_out_of_it(self, offset: int) -> None:
        extents = Extents(TOTAL)
        extents.start(1, 2, TOTAL)
        assert extents.end(offset) == offset
        assert extents.hole(offset) == (offset, TOTAL)

    @pytest.mark.parametrize("total", [1, BLOCK_SIZE, BLOCK_SIZE + 1, MAPPED_MAX])
    def test_the_end_of(self, total: int) -> None:
        assert Extents(total).hole(total - 1) == (total - 1, total)

    @pytest.mark.skipif(SANITIZED, reason="AddressSanitizer needs more address space than this leaves")
    def test_a_length_that_no_memory_has_a_map_for(self) -> None:
        """All that 63 bits hold: a map of 16 TiB."""
        code = (
            "import resource; from regproxy.dataplane.block_map import Extents\n"
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n"
            "try: Extents(2**63 - 1)\n"
            "except MemoryError: print('none')"
        )
        assert python(code) == "none\n"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what other processes say ------------------------------------------------------------------------------


@pytest.fixture
def part_path(tmp_path: Path) -> Path:
    return tmp_path / f"{'0' * 64}.part"


class TestWhatAFillerSays:
    """A part's meta and map are files: whatever is in them, nobody takes it for more than it can be."""

    @pytest.mark.parametrize(
        "lie",
        [
            {"total": 2**63},
            {"total": 10**30},
            {"total": -2},
            {"total": "900"},
            {"total": 9.5},
            {"total": True},
            {"size": 2**63},
            {"size": None},
            {"state": 1},
            {"media_type": ["x"]},
            {"reason": None},
            {"seconds": "soon"},
            {"mapped": "yes"},
        ],
        ids=str,
    )
    def test_no_meta(self, lie: Fields, plane: Plane, part_path: Path) -> None:
        part = open_part(part_path, 0, plane.loop)
        status = os.fstat(part.fd)
        fields = {"state": "open", "total": 900, "boot": boot_id(), "part": [status.st_dev, status.st_ino]}
        place = part_path.with_suffix(".meta")
        place.write_text(json.dumps(fields))
        assert part.read() == Meta("open", 900)
        place.write_text(json.dumps({**fields, **lie}))
        assert part.read() is None
        part.close()

    @pytest.mark.parametrize("total", [TOTAL - 1, TOTAL + 1, 0, -1, MAPPED_MAX + 1, MAX])
    def test_another_total_than_the_maps(self, total: int, plane: Plane, part_path: Path) -> None:
        part = open_part(part_path, 0, plane.loop)
        Extents(TOTAL, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 0)
        assert not part.take_map(total)
        assert part.take_map(TOTAL)
        assert not part.take_map(total)
        part.close()

    def test_a_map_of_more_than_the_file_has(self, plane: Plane, part_path: Path) -> None:
        part_path.write_bytes(DATA[:1000])
        part = open_part(part_path, 0, plane.loop)
        Extents(TOTAL, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 1001)
        assert not part.take_map(TOTAL)
        assert part.growth.extents is None
        part.close()

    def test_a_map_of_less_than_is_there(self, plane: Plane, part_path: Path) -> None:
        part_path.write_bytes(DATA)
        part = open_part(part_path, 0, plane.loop)
        Extents(1000, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 0)
        part.growth.follow(TOTAL)
        assert not part.take_map(1000)
        part.close()


def test_a_map_that_can_not_be_is_closed(
    plane: Plane, part_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = open_part(part_path, 0, plane.loop)
    Extents(TOTAL, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 0)

    def fail(total: int, fd: int) -> Extents:
        raise MemoryError

    monkeypatch.setattr("regproxy.cache.parts.Extents", fail)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MemoryError):
        part.take_map(TOTAL)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    part.close()


def test_who_owns_the_file_of_a_growth_that_fails(plane: Plane, tmp_path: Path) -> None:
    """The File does, from where there is one."""
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    with pytest.raises(TypeError):
        Growth(File(fd, -1, plane.loop), "x")  # type: ignore[arg-type]
    with pytest.raises(OSError):
        os.fstat(fd)
