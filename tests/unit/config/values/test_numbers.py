"""Sizes and times as nginx reads them; ports, switches, numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values.numbers import (
    Reserve,
    parse_bool,
    parse_port,
    parse_positive_time,
    parse_reserve,
    parse_size,
    parse_time,
    parse_workers,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates too: what os.environ makes of bytes that are no UTF-8

DAY = 86_400

SIZES = [
    ("0", 0),
    ("1", 1),
    ("01", 1),
    ("512k", 512 << 10),
    ("512K", 512 << 10),
    ("20m", 20 << 20),
    ("32g", 32 << 30),
    ("32G", 32 << 30),
    ("9223372036854775807", 2**63 - 1),
    ("8589934591g", 8589934591 << 30),
]
BAD_SIZES = [
    "", "g", "32t", "32gb", "32 g", "1.5g", "-1", "+1", "1e3", "0x10", "٣g", "1_000", "9223372036854775808",
    "8589934592g", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text, want", SIZES, ids=str)
def test_size(text: str, want: int) -> None:
    assert parse_size(text) == want


@pytest.mark.parametrize("text", BAD_SIZES, ids=lambda text: text[:20])
def test_bad_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"nginx size|63 bits"):
        parse_size(text)


@given(st.integers(0, 2**33 - 1), st.sampled_from("kKmMgG"))
def test_any_size(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number << {"k": 10, "m": 20, "g": 30}[unit.lower()]


# As `nginx -t` judges them, in seconds or in milliseconds.
TIMES = [
    ("0", 0),
    ("90", 90),
    ("60s", 60),
    ("500ms", 0.5),
    ("10m", 600),
    ("1h", 3600),
    ("60d", 60 * DAY),
    ("2w", 14 * DAY),
    ("1M", 30 * DAY),
    ("1y", 365 * DAY),
    ("1h30m", 5400),
    ("1h 30m", 5400),
    ("1h  30m ", 5400),
    ("1y1M1w1d1h1m1s", 365 * DAY + 30 * DAY + 7 * DAY + DAY + 3661),
    ("1s1ms", 1.001),
    ("1h30", 3630),
    ("1s2", 3),
    ("1 2", 3),
    ("1hm", 3600),
    (" 1", 1),
    ("100000000000s", 100_000_000_000),
]
BAD_TIMES = [
    "", " ", "s", "ms", "1x", "1.5s", "-1s", "1S", "1H", "60 s", "1m1h", "1s2s", "1M1y", "1d w", "1 2 3",
    "1 2s", " 1s", "1s 2 3", "٣s", "9223372036854776s", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text, want", TIMES, ids=str)
def test_time(text: str, want: float) -> None:
    assert parse_time(text) == want


@pytest.mark.parametrize("text", BAD_TIMES, ids=lambda text: repr(text[:20]))
def test_bad_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"nginx time|63 bits"):
        parse_time(text)


UNITS = {"y": 365 * DAY, "M": 30 * DAY, "w": 7 * DAY, "d": DAY, "h": 3600, "m": 60, "s": 1, "ms": 0.001}


@given(
    st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 99), min_size=1), st.sampled_from(["", " "])
)
def test_any_time_is_the_sum_of_its_parts(parts: dict[str, int], between: str) -> None:
    text = between.join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    assert parse_time(text) == pytest.approx(sum(parts[unit] * UNITS[unit] for unit in parts))


def test_timeout_of_nothing_is_refused() -> None:
    assert parse_positive_time("1ms") == 0.001
    with pytest.raises(ValueError, match="above 0"):
        parse_positive_time("0s")


@pytest.mark.parametrize("text", ["true", "TRUE", "True", "1", "yes", "on", "On"])
def test_true(text: str) -> None:
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no", "off", "Off"])
def test_false(text: str) -> None:
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "t", "y", "2", "enabled", "tru e", "\uff54rue"])
def test_neither_true_nor_false(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        parse_bool(text)


@pytest.mark.parametrize("text", ["0", "65536", "", "x", "-1", "443 ", "٤٤٣", "0x1bb", "000443"])
def test_bad_port(text: str) -> None:
    with pytest.raises(ValueError, match="port from 1 to 65535"):
        parse_port(text)


def test_workers() -> None:
    assert [parse_workers(text) for text in ("auto", "0", "4", "1024")] == [0, 0, 4, 1024]


@pytest.mark.parametrize(
    "parse, text",
    [
        (parse_workers, "-1"),
        (parse_workers, "1025"),
        (parse_workers, "٤"),
        (parse_reserve, ""),
        (parse_reserve, "101%"),
        (parse_reserve, "-1"),
        (parse_reserve, "1.5%"),
        (parse_reserve, "10 %"),
        (parse_reserve, "٤"),
    ],
)
def test_bad_numbers(parse: object, text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text, want", [("10%", 20), ("100%", 200), ("0%", 0), ("20", 20), ("0", 0), ("5000", 200)]
)
def test_a_reserve(text: str, want: float) -> None:
    assert parse_reserve(text).of(200) == want
    assert parse_reserve(text) == Reserve(int(text.rstrip("%")), text.endswith("%"))


@pytest.mark.parametrize("parse", [parse_size, parse_time, parse_bool])
@given(text=ANY_TEXT)
def test_any_text_is_parsed_or_a_value_error(parse: object, text: str) -> None:
    try:
        parse(text)  # type: ignore[operator]
    except ValueError as error:
        assert str(error)
