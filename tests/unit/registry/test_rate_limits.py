"""What registries say of quotas, and what follows from it, from values alone."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values.numbers import Reserve
from regproxy.http.messages import Response, parse_response
from regproxy.registry.rate_limits import (
    BACKOFF_MAX,
    RETRY_MAX,
    STRETCH_MAX,
    Report,
    backoff,
    client_credential,
    label,
    parse_report,
    parse_retry,
    stretch,
)

NOW = 1_800_000_000.0
TENTH = Reserve(10, percent=True)


def answer(status: int = 200, **fields: str) -> Response:
    """The head of an answer; `retry_after="60"` is Retry-After: 60."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return parse_response("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode(), "HEAD")


# --- what registries say ---------------------------------------------------------------------------------

REPORTS = [
    ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, (76, 100, 21600)),
    ({"RateLimit-Limit": "200;w=3600", "RateLimit-Remaining": "0"}, (0, 200, 3600)),
    ({"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "5"}, (5, 100, 60)),
    ({"x-ratelimit-limit": "180", "x-ratelimit-remaining": "180"}, (180, 180, 3600)),
    (
        {"x-ratelimit-limit": "180", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "1800000050"},
        (9, 180, 50),
    ),
    ({"ratelimit-limit": "9", "ratelimit-remaining": "3", "ratelimit-reset": "30"}, (3, 9, 30)),
    ({"ratelimit-limit": "10", "ratelimit-remaining": "50", "ratelimit-reset": "0"}, (10, 10, 3600)),
    ({"ratelimit-limit": "10;w=999999999999", "ratelimit-remaining": "5"}, (5, 10, 31 * 86_400)),
    ({"ratelimit-limit": "10;w=0", "ratelimit-remaining": "5"}, (5, 10, 3600)),
    ({"ratelimit-limit": "100;w=60"}, None),
    ({"ratelimit-remaining": "100;w=60"}, None),
    ({"ratelimit-limit": "0;w=60", "ratelimit-remaining": "0;w=60"}, None),
    ({"ratelimit-limit": "-1", "ratelimit-remaining": "-1"}, None),
    ({"ratelimit-limit": "many", "ratelimit-remaining": "few"}, None),
    ({"ratelimit-limit": "9" * 400, "ratelimit-remaining": "1"}, None),
    ({}, None),
]


@pytest.mark.parametrize("fields, want", REPORTS, ids=str)
def test_what_is_left(fields: dict[str, str], want: tuple[int, int, int] | None) -> None:
    report = parse_report(answer(200, **fields), NOW)
    found = (report.remaining, report.limit, report.window) if report is not None else None
    assert found == want


DATE = formatdate(NOW + 120, usegmt=True)
RETRIES = [
    ({"retry-after": "60"}, 60),
    ({"retry-after": "0"}, 1),
    ({"retry-after": DATE}, 120),
    ({"retry-after": formatdate(NOW - 5, usegmt=True)}, 1),
    ({"x-retry-after": str(int(NOW) + 30)}, 30),
    ({"retry-after": "60", "x-retry-after": "90"}, 60),
    ({"retry-after": "soon", "x-retry-after": "90"}, 90),
    ({"retry-after": "86400000"}, RETRY_MAX),
    ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, RETRY_MAX),
    # Our own clock, or theirs, is two hours wrong.
    ({"retry-after": DATE, "date": formatdate(NOW + 110, usegmt=True)}, 10),
    ({"x-retry-after": str(int(NOW) + 7230), "date": formatdate(NOW + 7200, usegmt=True)}, 30),
    ({"retry-after": "60", "date": formatdate(NOW + 7200, usegmt=True)}, 60),
    ({"retry-after": "in a while"}, None),
    ({"retry-after": ""}, None),
    ({}, None),
]


@pytest.mark.parametrize("fields, want", RETRIES, ids=str)
def test_when_to_come_back(fields: dict[str, str], want: float | None) -> None:
    assert parse_retry(answer(429, **fields), NOW) == want


NAMES = st.sampled_from(
    ["ratelimit-limit", "ratelimit-remaining", "x-ratelimit-reset", "retry-after", "date"]
)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.from_regex(
    r"[0-9]{1,20}(;w=[0-9]{1,20})?", fullmatch=True
)


@given(st.dictionaries(NAMES, VALUES))
def test_nothing_that_is_said_does_harm(fields: dict[str, str]) -> None:
    response = answer(429, **fields)
    wait, report = parse_retry(response, NOW), parse_report(response, NOW)
    assert wait is None or 1 <= wait <= RETRY_MAX
    assert report is None or 1.0 <= stretch(report, TENTH, NOW) <= STRETCH_MAX


# --- who asks --------------------------------------------------------------------------------------------


def jwt(claims: object) -> bytes:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"eyJhbGciOiJSUzI1NiJ9." + middle + b".c2lnbmF0dXJl"


def bearer(claims: object) -> str:
    return client_credential(b"Bearer " + jwt(claims))


def test_clients_are_told_apart_by_whom_their_token_was_given_to() -> None:
    first, again = ({"iss": "auth.docker.io", "sub": "u1", "jti": jti} for jti in ("a", "b"))
    assert bearer(first) == bearer(again) != bearer({"iss": "auth.docker.io", "sub": "u2"})
    assert bearer(first) != bearer({"iss": "other.example", "sub": "u1"})
    assert bearer({"iss": "auth.docker.io", "sub": ""}) == client_credential(None) == "anonymous"


def test_of_a_password_nothing_is_left() -> None:
    pairs = [b"Basic " + base64.b64encode(pair) for pair in (b"user:one", b"user:two", b"other:one")]
    first, same, other = map(client_credential, pairs)
    assert first == same != other


NOBODYS: list[object] = [[], 1, {}, {"sub": 5}]


@pytest.mark.parametrize(
    "value",
    [
        *(b"Bearer opaque", b"Bearer a.b.c", b"Bearer ", b"Basic !!!", b"", b"Negotiate x"),
        *(b"Bearer " + jwt(claims) for claims in NOBODYS),
        b"Bearer a." + base64.urlsafe_b64encode(b"[" * 6000) + b".c",
    ],
)
def test_a_client_is_shown_as_no_more_than_that(value: bytes) -> None:
    credential = client_credential(value)
    assert credential.startswith("client:")
    assert (label(credential), label("anonymous"), label("robot")) == ("client", "anonymous", "robot")


# --- the curve -------------------------------------------------------------------------------------------

CURVE = [(100, 1), (10, 1), (9, 10 / 9), (5, 2), (2, 5), (1, 10), (0, STRETCH_MAX)]


@pytest.mark.parametrize("remaining, want", CURVE)
def test_tags_last_longer_the_less_is_left(remaining: int, want: float) -> None:
    assert stretch(Report(NOW, remaining, 100, 21600.0), TENTH, NOW) == pytest.approx(want)


@pytest.mark.parametrize(
    "reserve, want",
    [(Reserve(20), 4), (Reserve(1000), 20), (Reserve(0), 1), (Reserve(0, percent=True), 1), (Reserve(5), 1)],
    ids=str,
)
def test_the_reserve(reserve: Reserve, want: float) -> None:
    assert stretch(Report(NOW, 5, 100, 21600.0), reserve, NOW) == want


def test_what_was_spent_comes_back() -> None:
    report = Report(NOW, 0, 100, 1000.0)
    assert [stretch(report, TENTH, NOW + passed) for passed in (-9, 0, 50, 100, 1000, 9999)] == pytest.approx(
        [STRETCH_MAX, STRETCH_MAX, 2, 1, 1, 1]
    )


def test_refusals_that_do_not_say_until_when() -> None:
    assert [backoff(count) for count in (1, 2, 3, 9, 10, 1000)] == [1, 2, 4, 256, BACKOFF_MAX, BACKOFF_MAX]
