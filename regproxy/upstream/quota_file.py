"""The state of quotas, and the file in which it outlives a process and is shared with other workers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from regproxy.config.values.numbers import Reserve
from regproxy.core.state_file import StateFile
from regproxy.registry.rate_limits import RETRY_MAX, STRETCH_MAX, Lane, Report, stretch

ENTRIES_MAX: Final = 256  # the latest pairs of registry and credential that are remembered
_FORGET_SECONDS: Final = 3600.0  # after a block's end: the next refusal counts as a first one
_SKEW: Final = 60.0  # seconds; times further in the future are from before the clock was set back
_VERSION: Final = 1

Key = tuple[str, str]  # registry, credential


class Block(Struct, frozen=True, order=True):
    """No request is sent before `until`. `at`: when that became known; `count`: refusals in a row.

    Of two blocks the larger one holds.
    """

    at: float
    until: float
    count: int

    def wait(self, now: float) -> float:
        """Return the seconds for which it still holds, 0 when it does not."""
        if now < self.at - _SKEW:
            return 0.0
        return max(self.until - now, 0.0)

    def matters(self, now: float) -> bool:
        """Return whether it still matters for later requests."""
        return self.at <= now + _SKEW and now < self.until + _FORGET_SECONDS


class QuotaEntry(Struct):
    """The quota state of one credential at one registry."""

    report: Report | None = None
    blocks: dict[Lane, Block] = field(default_factory=dict)

    @property
    def changed(self) -> float:
        """When it last changed."""
        times = [block.at for block in self.blocks.values()]
        return max([self.report.seen, *times] if self.report is not None else times, default=0.0)

    def join(self, other: QuotaEntry) -> None:
        """Take over what another process knows and is newer."""
        if other.report is not None and (self.report is None or other.report > self.report):
            self.report = other.report
        for lane, block in other.blocks.items():
            mine = self.blocks.get(lane)
            self.blocks[lane] = block if mine is None else max(mine, block)

    def prune(self, now: float) -> bool:
        """Drop what has expired; False when nothing is left."""
        report = self.report
        if report is not None and not -_SKEW <= now - report.seen < report.window:
            self.report = None
        self.blocks = {lane: block for lane, block in self.blocks.items() if block.matters(now)}
        return self.report is not None or bool(self.blocks)

    def stretch(self, reserve: Reserve, now: float) -> float:
        """Return the factor by which lifetimes of tags asked for with it should be longer."""
        block = self.blocks.get(Lane.MANIFESTS)
        if reserve.amount and block is not None and block.wait(now):
            return STRETCH_MAX
        return stretch(self.report, reserve, now) if self.report is not None else 1.0


# The file.


class QuotaFile:
    """The file that workers share."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path)

    def read(self) -> dict[Key, QuotaEntry] | None:
        """Return its entries, None if it has not changed."""
        text = self._file.read()
        return None if text is None else decode(text)

    def write(self, entries: Mapping[Key, QuotaEntry]) -> None:
        """Replace it."""
        self._file.write(encode(entries))


def encode(entries: Mapping[Key, QuotaEntry]) -> bytes:
    """Return the text of the file."""
    rows = []
    for (host, credential), entry in entries.items():
        report = entry.report
        row: dict[str, Any] = {"registry": host, "credential": credential}
        if report is not None:
            row["quota"] = [report.seen, report.remaining, report.limit, report.window]
        row["refused"] = {lane: [block.at, block.until, block.count] for lane, block in entry.blocks.items()}
        rows.append(row)
    return json.dumps({"version": _VERSION, "quotas": rows}).encode()


def decode(text: bytes) -> dict[Key, QuotaEntry]:
    """Return the entries that encode() was given, without any that can't be parsed; never raise for those."""
    try:
        data: Any = json.loads(text)
        rows = list(data["quotas"]) if data["version"] == _VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    entries: dict[Key, QuotaEntry] = {}
    for row in rows[:ENTRIES_MAX]:
        with suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
            entries[str(row["registry"]), str(row["credential"])] = _entry(row)
    return entries


def _entry(row: Any) -> QuotaEntry:
    report = None
    if "quota" in row:
        seen, remaining, limit, window = row["quota"]
        report = Report(_finite(seen), int(remaining), int(limit), _finite(window))
        if report.window < 1 or report.limit < 1 or not 0 <= report.remaining <= report.limit:
            raise ValueError("no quota")
    blocks = {
        Lane(lane): Block(_finite(at), min(_finite(until), _finite(at) + RETRY_MAX), int(count))
        for lane, (at, until, count) in row["refused"].items()
    }
    return QuotaEntry(report, blocks)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a time")
    return number
