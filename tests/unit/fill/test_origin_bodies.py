"""Lengths that answers declare: whatever an origin says, it is refused or held to."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regproxy.core.errors import BadResponse
from regproxy.fill.origin_bodies import check, is_behind
from regproxy.http.messages import Response, parse_response
from regproxy.http.origin import Origin
from regproxy.upstream.connections.connection import Connection
from regproxy.upstream.fetch import Fetched

ORIGIN = Origin("https", "reg.test", 443)


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
    "more than the range": (ranged("500-799/900", 300), (500, 700), 900, 0, (900, 800)),
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
    """What is let through begins where it should, lies within what is known, and is as long as it says."""
    response = ranged(f"{first}-{last}/{'*' if whole is None else whole}", length)
    start, stop = asked
    try:
        total, end = check(fetched(response), start, stop, known=known, there=there)
    except BadResponse:
        return
    assert start == first < end == last + 1
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
