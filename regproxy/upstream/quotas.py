"""Registries' quotas: what is left of them, and which registries must not be asked for a while.

All workers read and write one file (`quota_file`), without a lock: the states of two workers are joined, in
any order, and a worker that misses an entry of its own writes it again. So they agree after a few seconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from regproxy.config.values.numbers import Reserve
from regproxy.core.errors import RateLimited
from regproxy.http.messages import Response
from regproxy.registry.rate_limits import (
    Lane,
    Report,
    backoff,
    is_manifest,
    label,
    lane_of,
    parse_report,
    parse_retry,
)
from regproxy.registry.targets import Kind
from regproxy.upstream.quota_file import ENTRIES_MAX, Block, Key, QuotaEntry
from regproxy.upstream.quota_trend import QuotaTrend

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0  # between two checks of the file
_WRITE_SECONDS: Final = 5.0  # between two writes of what is left; a refusal is written at once
_SOON_SECONDS: Final = 1.0  # after a change, for who reads the file: no later request need come
_COUNT_MAX: Final = 30
_METHODS: Final = frozenset({"GET", "HEAD"})


class QuotaCounters(Protocol):
    """The metrics of quotas."""

    def quota(
        self, registry: str, credential: str, limit: int, remaining: int, window: float, seen: float
    ) -> None:
        """Show the quota that a registry has reported: for how many seconds, and when (epoch)."""

    def upstream_429(self, registry: str, credential: str, method: str) -> None:
        """Count a request that was refused."""

    def manifest_request(self, registry: str, credential: str, method: str) -> None:
        """Count a request for a manifest that was answered."""


class QuotaState(Protocol):
    """The shared state of quotas: see QuotaFile. Neither method may block longer than a small file takes."""

    def read(self) -> dict[Key, QuotaEntry] | None:
        """Return the shared entries, None if they have not changed."""

    def write(self, entries: Mapping[Key, QuotaEntry]) -> None:
        """Share these entries."""


Later = Callable[[float, Callable[[], None]], object]


class Quotas:
    """The quotas of all registries, one object for each worker. It blocks for its state's I/O alone.

    `state`: shared with other processes; None: nothing is shared, nor kept.
    `later`: calls back after some seconds, as a loop's call_later(); None: changes wait for the next request.
    `clock`: seconds since the epoch, since a block outlives the process. Credentials are labels, as
    `rate_limits.client_credential()` makes them for a client's own.
    """

    def __init__(
        self,
        state: QuotaState | None,
        reserve: Reserve,
        counters: QuotaCounters,
        clock: Callable[[], float] = time.time,
        *,
        later: Later | None = None,
    ) -> None:
        self._state = state
        self._reserve = reserve
        self._counters = counters
        self._clock = clock
        self._entries: dict[Key, QuotaEntry] = {}
        self._stretches: dict[str, float] = {}
        self._looked = self._written = -math.inf
        self._dirty = self._waits = False
        self._later = later
        self.trend = QuotaTrend()
        self._look(clock())
        for (host, credential), entry in self._entries.items():
            if entry.report is not None:
                self._show(host, credential, entry.report)

    def admit(self, host: str, credential: str, method: str, kind: Kind) -> None:
        """Raise RateLimited while the registry has said that it would refuse such a request.

        GETs of manifests, HEADs, and all other requests are blocked apart, as registries count them apart.
        """
        now = self._clock()
        self._look(now)
        entry = self._entries.get((host, credential))
        if entry is None:
            return
        lane = lane_of(method, kind)
        block = entry.blocks.get(lane)
        wait = block.wait(now) if block is not None else 0.0
        if wait:
            raise RateLimited(_refusal(host, credential, lane, now, wait), math.ceil(wait))

    def observe(self, host: str, credential: str, method: str, kind: Kind, response: Response) -> None:
        """Learn from an answer's head, whatever its status."""
        now = self._clock()
        self._look(now)
        shown = label(credential)
        word = method if method in _METHODS else "other"
        if is_manifest(kind):
            self._counters.manifest_request(host, shown, word)
        report = parse_report(response, now)
        if report is not None:
            self._entry(host, credential).report = report
            self.trend.note((host, credential), report)
            self._show(host, credential, report)
            self._dirty = True
        if response.status == 429:
            self._counters.upstream_429(host, shown, word)
            self._refused(host, credential, lane_of(method, kind), parse_retry(response, now), now)
        elif response.status < 400:
            self._answered(host, credential, lane_of(method, kind), now)
        if report is not None:
            self._stretch(now)
        if self._dirty and not self._waits and self._later is not None:
            self._waits = True
            self._later(_SOON_SECONDS, self._flush)

    def known(self) -> Mapping[Key, QuotaEntry]:
        """Return what is known of all quotas; not to be changed."""
        self._look(self._clock())
        return self._entries

    def stretch(self, host: str) -> float:
        """Return the factor by which lifetimes of this registry's tags are longer: 1.0 to STRETCH_MAX.

        The credential with the least left of its reserve decides.
        """
        self._look(self._clock())
        return self._stretches.get(host, 1.0)

    def close(self) -> None:
        """Write changes that are not written yet."""
        if self._dirty:
            self._write(self._clock())

    # --- the state of this process -----------------------------------------------------------------------

    def _entry(self, host: str, credential: str) -> QuotaEntry:
        entry = self._entries.get((host, credential))
        if entry is None:
            entry = self._entries[host, credential] = QuotaEntry()
            _bound(self._entries, keep=entry)
        return entry

    def _refused(self, host: str, credential: str, lane: Lane, retry: float | None, now: float) -> None:
        blocks = self._entry(host, credential).blocks
        old = blocks.get(lane)
        if old is not None and old.wait(now):
            # The request was sent before the first refusal came: it does not count again.
            if retry is None or now + retry <= old.until:
                return
            blocks[lane] = Block(now, now + retry, old.count)
        else:
            in_a_row = old.count if old is not None and old.matters(now) else 0
            count = min(in_a_row + 1, _COUNT_MAX)
            blocks[lane] = Block(now, now + (backoff(count) if retry is None else retry), count)
            log.warning("%s", _refusal(host, credential, lane, now, blocks[lane].wait(now)))
        self._stretch(now)
        self._write(now)

    def _answered(self, host: str, credential: str, lane: Lane, now: float) -> None:
        """Reset the count of refusals, unless the answer is to a request from before the last one."""
        entry = self._entries.get((host, credential))
        block = entry.blocks.get(lane) if entry is not None else None
        if entry is not None and block is not None and block.count and not block.wait(now):
            entry.blocks[lane] = Block(now, now, 0)
            self._dirty = True

    def _show(self, host: str, credential: str, report: Report) -> None:
        shown = (report.limit, report.remaining, report.window, report.seen)
        self._counters.quota(host, label(credential), *shown)

    def _stretch(self, now: float) -> None:
        """Recompute the result of stretch(), which is called for every tag."""
        found: dict[str, float] = {}
        for (host, _), entry in self._entries.items():
            factor = entry.stretch(self._reserve, now)
            if factor > found.get(host, 1.0):
                found[host] = factor
        self._stretches = found

    # --- the shared state --------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Once a second: read the file if another process has written it, write it if it is time to."""
        if 0 <= now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        self._read(now)
        if self._dirty and not 0 <= now - self._written < _WRITE_SECONDS:
            self._write(now)
        self._stretch(now)

    def _flush(self) -> None:
        """Write what has changed, and look again, until no other worker has written over it."""
        now = self._clock()
        self._read(now)
        self._waits = self._dirty
        if self._dirty and self._later is not None:
            self._write(now)
            self._later(_SOON_SECONDS, self._flush)

    def _read(self, now: float) -> None:
        found = self._state.read() if self._state is not None else None
        if found is None:
            return
        for key, entry in found.items():
            if entry.prune(now):
                self._entries.setdefault(key, QuotaEntry()).join(entry)
        _bound(self._entries)
        # An entry of ours was lost when two processes wrote at once.
        self._dirty = any(found.get(key) != entry for key, entry in self._entries.items())

    def _write(self, now: float) -> None:
        self._read(now)
        self._entries = {key: entry for key, entry in self._entries.items() if entry.prune(now)}
        self._written, self._dirty = now, False
        # A failed write is retried with the next change.
        if self._state is not None:
            self._state.write(self._entries)


def _bound(entries: dict[Key, QuotaEntry], keep: QuotaEntry | None = None) -> None:
    """Drop the entries that changed longest ago, but not `keep`, a new one without any change yet."""
    while len(entries) > ENTRIES_MAX:
        old = (key for key, entry in entries.items() if entry is not keep)
        del entries[min(old, key=lambda key: entries[key].changed)]


_WORDS: Final = {Lane.MANIFESTS: "GETs of manifests", Lane.HEADS: "HEADs", Lane.REST: "requests"}


def _refusal(host: str, credential: str, lane: Lane, now: float, wait: float) -> str:
    until = datetime.fromtimestamp(math.ceil(now + wait), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"{host} has refused {_WORDS[lane]} of {label(credential)} (429, too many requests):"
        f" not asked until {until}, in {math.ceil(wait)} s"
    )
