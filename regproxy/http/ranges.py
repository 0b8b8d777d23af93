"""Parse range requests and conditions (RFC 9110 13, 14)."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final

from msgspec import Struct

from regproxy.core.errors import Unsatisfiable
from regproxy.http.messages import LENGTH_MAX


class Span(Struct, frozen=True):
    """The bytes of a body from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.stop - self.start

    def content_range(self, total: int) -> bytes:
        """Return the Content-Range value of a 206 (RFC 9110 14.4)."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, total)


class ByteRange(Struct, frozen=True):
    """A requested byte range: `first` to `last` inclusive, `last` None = to the end, `first` None = the last
    `last` bytes.
    """

    first: int | None
    last: int | None

    def resolve(self, total: int) -> Span:
        """Return the span within `total` bytes, never an empty one. Raises Unsatisfiable."""
        if self.first is None:
            start, stop = max(0, total - (self.last or 0)), total
        else:
            start, stop = self.first, total if self.last is None else min(self.last + 1, total)
        if start >= stop:
            raise Unsatisfiable(total)
        return Span(start, stop)


RANGES_MAX: Final = 16
_RANGE = re.compile(rb"[bB][yY][tT][eE][sS]=[ \t]*([0-9]{0,64})-([0-9]{0,64})[ \t]*")
_ETAG = re.compile(rb'(?:W/)?("[!#-~\x80-\xff]*")')
_CONTENT_RANGE = re.compile(rb"[bB][yY][tT][eE][sS] ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def parse_content_range(value: bytes | None) -> tuple[Span, int | None] | None:
    """Return the span of a 206, and the length of the whole, None if the origin does not know it.

    None if the header is absent or malformed (RFC 9110 14.4).
    """
    match = _CONTENT_RANGE.fullmatch(value or b"")
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == b"*" else int(match[3])
    if first > last or (total is not None and last >= total):
        return None
    return Span(first, last + 1), total


def parse_range(value: bytes | None) -> ByteRange | None:
    """Return the one byte range that is requested.

    None if the header is absent, malformed, in another unit or for several ranges: then it is ignored and the
    whole is sent (RFC 9110 14.2). Numbers from 2**63 up count as 2**63 - 1. A range that ends before it
    begins may be ignored or rejected (14.1.1, 14.2): it is rejected, as by registries and nginx, since it
    resolves to nothing.
    """
    match = None if value is None else _RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = (min(int(digits), LENGTH_MAX) if digits else None for digits in match.groups())
    return None if first is None and last is None else ByteRange(first, last)


def parse_ranges(value: bytes | None) -> tuple[ByteRange, ...]:
    """Return several ranges asked for (RFC 9110 14.1.2), in their order.

    Empty where the header is absent, malformed, in another unit, or names one range or more than RANGES_MAX:
    then parse_range() says what it means.
    """
    unit, _, ranges = (value or b"").partition(b"=")
    found = tuple(parse_range(b"bytes=" + each) for each in ranges.split(b",") if each.strip(b" \t"))
    if unit.strip().lower() != b"bytes" or not 1 < len(found) <= RANGES_MAX:
        return ()
    return tuple(each for each in found if each is not None) if None not in found else ()


def resolve_ranges(ranges: tuple[ByteRange, ...], total: int) -> list[Span]:
    """Return the spans within `total` bytes; those that have none of them are left out (RFC 9110 14.1.2).

    Raises Unsatisfiable where none is left.
    """
    spans = []
    for each in ranges:
        with suppress(Unsatisfiable):
            spans.append(each.resolve(total))
    if not spans:
        raise Unsatisfiable(total)
    return spans


def none_match(value: bytes | None, etag: bytes) -> bool:
    """Tell whether If-None-Match names `etag` (quoted), so that the answer is 304. Absent: False.

    Weak comparison (RFC 9110 13.1.2). A bare digest without quotes is accepted too, as in distribution.
    """
    if value is None:
        return False
    opaque = etag.removeprefix(b"W/")
    return value == b"*" or value == opaque.strip(b'"') or opaque in _ETAG.findall(value)


def if_range_allows(value: bytes | None, etag: bytes) -> bool:
    """Tell whether If-Range lets Range apply (RFC 9110 13.1.5, strong). Absent: True; a date: False."""
    return value is None or (value == etag and not etag.startswith(b"W/"))
