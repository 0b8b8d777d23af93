"""Parse sizes, times, numbers and switches, sizes and times as nginx does.

Each `parse_*` function takes text and returns a value, or raises ValueError whose text says what would be
right. The error does not repeat the given text, which may be a secret.
"""

from __future__ import annotations

import re

from msgspec import Struct

INT64_MAX = 2**63 - 1

_SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
_SCALES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

# Milliseconds of a unit, and its rank: in one text the ranks rise, as in nginx's ngx_parse_time().
_SPACE_RANK = 9
_TIME_UNITS = {
    "y": (365 * 86_400_000, 1),
    "M": (30 * 86_400_000, 2),
    "w": (7 * 86_400_000, 3),
    "d": (86_400_000, 4),
    "h": (3_600_000, 5),
    "m": (60_000, 6),
    "s": (1_000, 7),
    "ms": (1, 8),
    # A space right after the digits ends a number of seconds: "1 30" is 31 s, "1 30s" is an error.
    " ": (1_000, _SPACE_RANK),
}
_TIME_PART = re.compile(r"([0-9]*)(ms|[yMwdhms ]|\Z) *")

TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})
_RESERVE = re.compile(r"([0-9]{1,9})(%?)")

_WANT_SIZE = "an nginx size: digits and at most one of k, m, g, such as 32g"
_WANT_TIME = "an nginx time: 90s, 500ms, 1h 30m, 60d; units y M w d h m s ms in that order, none = seconds"
_WANT_PORT = "a port from 1 to 65535"


def parse_size(text: str) -> int:
    """Return bytes, by nginx's ngx_parse_offset(): digits and an optional k, m or g of either case."""
    found = _SIZE.fullmatch(text)
    if found is None or len(found[1]) > 20:
        raise ValueError(_WANT_SIZE)
    size = int(found[1]) * _SCALES[found[2].lower()]
    if size > INT64_MAX:
        raise ValueError("a size that fits 63 bits")
    return size


def parse_time(text: str) -> float:
    """Return seconds, by nginx's ngx_parse_time(): units in falling order, each once, spaces after a unit.

    nginx refuses `y` and `M` where it counts in milliseconds and `ms` where it counts in seconds; all units
    are accepted here, so every text that nginx accepts gives the same value.
    """
    total = rank = pos = 0
    while pos < len(text):
        part = _TIME_PART.match(text, pos)
        if part is None:
            raise ValueError(_WANT_TIME)
        digits, unit = part[1], part[2]
        scale, place = _TIME_UNITS[unit] if unit else (1_000, _SPACE_RANK + 1)
        # Like nginx's `step >= st_sec` test for a space: no space-ended number after seconds.
        last = 6 if unit == " " else place - 1
        if (unit and rank > last) or len(digits) > 20:
            raise ValueError(_WANT_TIME)
        total, rank, pos = total + int(digits or "0") * scale, place, part.end()
    if not any("0" <= char <= "9" for char in text):
        raise ValueError(_WANT_TIME)
    if total > INT64_MAX:
        raise ValueError("a time that fits 63 bits in milliseconds")
    return total / 1_000


def parse_positive_time(text: str) -> float:
    """Return seconds, above 0: a timeout of 0 makes every operation fail at once, in nginx too."""
    seconds = parse_time(text)
    if not seconds:
        raise ValueError("a time above 0")
    return seconds


def parse_bool(text: str) -> bool:
    """Return the boolean of true, 1, yes, on / false, 0, no, off in any case."""
    word = text.lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ValueError("true or false (also 1/0, yes/no, on/off)")


def parse_port(text: str) -> int:
    """Return a TCP port, 1 to 65535."""
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not 0 < int(text) < 65_536:
        raise ValueError(_WANT_PORT)
    return int(text)


def parse_workers(text: str) -> int:
    """Return the number of workers, at most 1,024; 0 is one per core."""
    if text.lower() == "auto":
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) > 1_024:
        raise ValueError("a number from 1 to 1024, or auto (or 0) for one per core")
    return int(text)


def parse_streams(text: str) -> int:
    """Return the number of connections that one download may have, from 1 to 16."""
    if not (text.isascii() and text.isdigit()) or len(text) > 2 or not 1 <= int(text) <= 16:
        raise ValueError("a number from 1 to 16")
    return int(text)


def parse_min_free(text: str) -> int | None:
    """Return bytes; None means that they depend on the disk's size."""
    try:
        return None if text.lower() == "auto" else parse_size(text)
    except ValueError as error:
        raise ValueError(f"{error}; or auto") from None


class Reserve(Struct, frozen=True):
    """The last part of a registry's quota, to be used sparingly: `amount` requests, or per cent of it."""

    amount: int
    percent: bool = False

    def of(self, limit: int) -> float:
        """Return the number of requests that it is of `limit`."""
        return limit * self.amount / 100 if self.percent else float(min(self.amount, limit))


def parse_reserve(text: str) -> Reserve:
    """Return the Reserve of `10%` or `20`; 0 is none."""
    found = _RESERVE.fullmatch(text)
    if found is None or (found[2] and int(found[1]) > 100):
        raise ValueError("a number of requests such as 20, or a percentage from 0% to 100%")
    return Reserve(int(found[1]), bool(found[2]))
