"""Declare every metric. Hot paths count in C (Tally); publish() moves the counts at intervals.

Names follow Prometheus' rules: base units, `_total` for counters. The processes of one supervisor use
prometheus_client's multiprocess mode: each publishes to files of its own in a directory (see `metrics_dir`),
and the process that answers a scrape renders the sum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from regproxy.dataplane.tally import BOUNDS, Tally

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
_NAMES_MAX: Final = 100  # distinct hosts in a label; masks and redirects let clients and origins invent more
_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own

Mode = Literal["livesum", "livemin", "livemax", "livemostrecent", "mostrecent"]


@dataclass(frozen=True, slots=True)
class _Watched:
    """An attribute that is a gauge. If several watched objects have it, `merge` combines their values."""

    metric: str
    help: str
    mode: Mode = "livesum"
    merge: Callable[[Iterable[float]], float] = sum


_GAUGES: Final = {
    "streams_open": _Watched(
        "connections_open", "Connections that are open, with clients and with upstreams."
    ),
    "active": _Watched("fills_active", "Objects that are being fetched into the cache."),
    "waiters": _Watched("fill_waiters", "Requests that read from an object while it is being fetched."),
    "not_after": _Watched(
        "ca_not_after_timestamp_seconds", "When the first CA in use expires.", "livemin", min
    ),
    "leaf_not_after_min": _Watched(
        "leaf_not_after_timestamp_seconds",
        "When the first of the leaf certificates in use expires; +Inf: there are none.",
        "livemin",
        min,
    ),
}
_COUNTERS: Final = {
    "handshakes_done": ("tls_handshakes", ("client", "done")),
    "handshakes_failed": ("tls_handshakes", ("client", "failed")),
    "upstream_handshakes_done": ("tls_handshakes", ("upstream", "done")),
    "upstream_handshakes_failed": ("tls_handshakes", ("upstream", "failed")),
    "wire_bytes_in": ("wire_bytes", ("in",)),
    "wire_bytes_out": ("wire_bytes", ("out",)),
    "accepted": ("accepts", ("taken",)),
    "woken_in_vain": ("accepts", ("in_vain",)),
    "repeated": ("repeated_answers", ()),
    "dropped": ("access_log_dropped", ()),
    "spans_dropped": ("spans_dropped", ()),
    "events_lost": ("audit_lost", ("events",)),
    "lines_lost": ("audit_lost", ("lines",)),
}


@dataclass(frozen=True, slots=True)
class _Requests:
    """A tally and the series that it is published to."""

    tally: Tally
    count: Counter
    sent: Counter
    saved: Counter
    duration: Histogram


@dataclass(frozen=True, slots=True)
class _UpstreamRequests:
    tally: Tally
    count: Counter
    duration: Histogram


class _Names:
    """The values of a label, limited: after the first hundred all are `other`."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def bound(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= _NAMES_MAX:
            return OTHER
        self._names.add(name)
        return name


def share(directory: str | Path, slot: str) -> None:
    """Keep the metrics of this process in `directory` from here on; call it before any Metrics is created.

    `slot` is a name without "_" that no other process has at the same time. A later process in a slot
    continues the counts of the former one, so the number of files does not grow with every process.
    """
    os.environ[_DIRECTORY] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def unshare() -> None:
    """Close the files of share(): nothing is counted any more."""
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one process. Use from one thread, except collect().

    `version` None: that of the installed package. Watched or tallied values appear with publish().
    """

    def __init__(self, registry: CollectorRegistry, *, version: str | None = None) -> None:
        # Otherwise each series gets another one, for a format that is not rendered here. This is
        # process-wide.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._declare()
        self._gauges = {name: self._gauge(watched) for name, watched in _GAUGES.items()}
        for name, watched in _GAUGES.items():
            if watched.merge is min:
                self._gauges[name].set(float("inf"))  # 0 would be a certificate that expired in 1970
        version = _installed_version() if version is None else version
        build = self._gauge(_Watched("build_info", "The running version.", "livemostrecent"), ["version"])
        build.labels(version).set(1)
        self._tallies: dict[tuple[str, str, str, int], Tally] = {}
        self._upstream_tallies: dict[tuple[str, int | str], Tally] = {}
        self._requests: list[_Requests] = []
        self._upstream_requests: list[_UpstreamRequests] = []
        self._registries, self._hosts, self._credentials = _Names(), _Names(), _Names()
        self._rule_names = _Names()
        self._decided: dict[tuple[str, str], tuple[list[int], Counter]] = {}
        self._sources: list[tuple[object, str]] = []
        self._counted: list[tuple[object, str, Counter, list[int]]] = []

    def _declare(self) -> None:
        counter, histogram = self._counter, self._histogram
        self._count = counter(
            "requests", "Requests answered to clients.", ["registry", "type", "cache", "code"]
        )
        self._sent = counter("client_bytes", "Bytes of bodies sent to clients.", ["registry", "cache"])
        self._saved = counter(
            "saved_bytes", "Those of client_bytes that were not fetched for it.", ["registry"]
        )
        self._duration = histogram(
            "request_duration_seconds", "From a request's head to the end of its answer.", ["type", "cache"]
        )
        self._upstream_count = counter(
            "upstream_requests", "Requests to upstreams, by status or by failure.", ["host", "code"]
        )
        self._upstream_bytes = counter("upstream_bytes", "Bytes of bodies received from upstreams.", ["host"])
        self._upstream_duration = histogram(
            "upstream_request_duration_seconds",
            "From a request to an upstream to the end of its answer.",
            ["host"],
        )
        self._mismatches = counter(
            "digest_mismatches", "Bodies from upstreams that were not what their digest names.", ["registry"]
        )
        self._fills = counter("fills", "Objects whose fetching into the cache was begun.")
        self._fill_resumes = counter(
            "fill_resumes", "Bodies that broke and were asked for again from there on.", ["registry"]
        )
        self._fill_failures = counter("fill_failures", "Fetches into the cache that failed.", ["reason"])
        self._tunnels_open = self._gauge(
            _Watched("tunnels_open", "Tunnels to hosts that are not intercepted.")
        )
        self._tunnels = counter("tunnels", "Tunnels that were opened.")
        self._tunnel_bytes = counter("tunnel_bytes", "Bytes through closed tunnels.", ["direction"])
        self._declare_watched()
        self._declare_registries()
        self._declare_cache()
        self._declare_processes()

    def _declare_watched(self) -> None:
        counter = self._counter
        self._watched_counters = {
            "tls_handshakes": counter("tls_handshakes", "TLS handshakes.", ["side", "result"]),
            "wire_bytes": counter("wire_bytes", "Bytes on all connections, TLS included.", ["direction"]),
            "accepts": counter(
                "accepts",
                "Connections that workers took, and wake-ups for one that another took.",
                ["result"],
            ),
            "repeated_answers": counter(
                "repeated_answers", "Hits that were answered once more without a look-up."
            ),
            "spans_dropped": counter("spans_dropped", "Spans that the collector of traces has not got."),
            "access_log_dropped": counter("access_log_dropped", "Lines that the access log lost."),
            "audit_lost": counter(
                "audit_lost", "Requests that no line of the audit log counts, and lines lost.", ["what"]
            ),
        }
        for result in ("taken", "in_vain"):
            self._watched_counters["accepts"].labels(result)
        for what in ("events", "lines"):
            self._watched_counters["audit_lost"].labels(what)

    def _declare_registries(self) -> None:
        counter, quota = self._counter, ["registry", "credential"]
        self._quota_limit = self._gauge(
            _Watched("quota_limit", "Requests that a registry allows in its window.", "mostrecent"), quota
        )
        self._quota_remaining = self._gauge(
            _Watched("quota_remaining", "Those that are left, as it said last.", "mostrecent"), quota
        )
        self._refused_429 = counter(
            "upstream_429", "Requests that registries refused as too many.", [*quota, "method"]
        )
        self._manifest_requests = counter(
            "upstream_manifest_requests", "Requests for manifests to registries.", [*quota, "method"]
        )
        self._circuit_open = self._gauge(
            _Watched("circuit_open", "1: a registry can't be reached, and is left alone.", "livemax"),
            ["registry"],
        )
        self._circuit_refusals = counter(
            "circuit_refusals", "Requests that were not sent to it meanwhile.", ["registry"]
        )
        self._passed_on = counter(
            "passed_on", "Answers that could not be stored, and went on as they came.", ["registry", "reason"]
        )
        self._token_fetches = counter("token_fetches", "Tokens that were asked for.", [*quota, "outcome"])
        self._lookups = counter("lookups", "Names that were looked up, or were not.", ["lane", "outcome"])
        self._targets_refused = counter(
            "targets_refused", "Hosts at addresses that whoever named them may not lead to.", ["by"]
        )
        for by in ("client", "answer"):
            self._targets_refused.labels(by)
        self._decisions = counter(
            "rule_decisions",
            "Requests for images, by the rule that has decided and what.",
            ["rule", "action"],
        )
        self._withheld = counter(
            "logins_withheld", "Requests that went without the login that there is.", ["registry"]
        )

    def _declare_cache(self) -> None:
        counter, recent = self._counter, self._recent
        self._objects = recent("cache_objects", "Objects in the cache.")
        self._bytes = recent("cache_bytes", "Bytes of the disk that the objects in the cache take.")
        self._max_bytes = recent("cache_max_bytes", "CACHE_MAX_SIZE; 0: no limit.")
        self._free = recent("cache_disk_free_bytes", "Bytes that are free on the cache's file system.")
        self._evicted = counter("evicted_objects", "Objects removed from the cache.", ["reason"])
        self._evicted_bytes = counter("evicted_bytes", "Bytes of the disk that this has freed.", ["reason"])
        self._reconcile = recent("reconcile_seconds", "How long the last comparison of index and disk took.")
        self._complete = recent("index_complete", "1: the index knows every object on the disk.")
        self._store_failures = counter(
            "store_failures", "Objects that the disk did not take, or did not give.", ["reason"]
        )
        self._store_ok = self._gauge(
            _Watched("store_ok", "0: the disk fails, and pulls are passed on without storing.", "livemin")
        )
        self._store_ok.set(1)  # a process that stores nothing reports no failure

    def _declare_processes(self) -> None:
        self._workers = self._gauge(_Watched("workers", "Workers that take connections."))
        self._exits = self._counter(
            "worker_exits", "Workers that ended though nobody had told them to.", ["reason"]
        )
        self._reloads = self._counter("reloads", "SIGHUPs, by what became of them.", ["result"])
        # Metrics used in alerts exist from the start: increase() does not see the first sample of a series.
        for reason in ("exit", "killed", "hung"):
            self._exits.labels(reason)
        for result in ("done", "refused", "failed"):
            self._reloads.labels(result)

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(f"regproxy_{name}_total", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: Iterable[str]) -> Histogram:
        return Histogram(f"regproxy_{name}", text, labels, registry=self._registry, buckets=BOUNDS)

    def _gauge(self, watched: _Watched, labels: Iterable[str] = ()) -> Gauge:
        name, mode = f"regproxy_{watched.metric}", watched.mode
        return Gauge(name, watched.help, labels, registry=self._registry, multiprocess_mode=mode)

    def _recent(self, name: str, text: str) -> Gauge:
        """Return a gauge with one value for all processes: the most recent one counts."""
        return self._gauge(_Watched(name, text, "livemostrecent"))

    # Requests

    def tally(self, registry: str, kind: str, cache_status: str, code: int) -> Tally:
        """Return the tally of requests of this kind; the same object each time.

        `registry`: the origin's host. `kind`: a targets.Kind, or a tier's name for a tag. `cache_status`:
        nginx's word, "" if the cache is not involved. `code`: the status.
        """
        tally = self._tallies.get((registry, kind, cache_status, code))
        return self._new_tally(registry, kind, cache_status, code) if tally is None else tally

    def _new_tally(self, registry: str, kind: str, cache_status: str, code: int) -> Tally:
        key = (self._registries.bound(registry), kind, cache_status, code)
        tally = self._tallies.get(key)
        if tally is None:
            name, cache = key[0], cache_status or "none"
            tally = self._tallies[key] = Tally()
            self._requests.append(
                _Requests(
                    tally,
                    self._count.labels(name, kind, cache, code),
                    self._sent.labels(name, cache),
                    self._saved.labels(name),
                    self._duration.labels(kind, cache),
                )
            )
        return tally

    # Upstreams

    def upstream_request(self, host: str, code: int | str, seconds: float) -> None:
        """Count a request to an upstream. `code`: its status, or a word for the failure."""
        tally = self._upstream_tallies.get((host, code))
        if tally is None:
            tally = self._new_upstream_tally(self._hosts.bound(host), code)
        tally.add(0, seconds)

    def _new_upstream_tally(self, host: str, code: int | str) -> Tally:
        tally = self._upstream_tallies.get((host, code))
        if tally is None:
            tally = self._upstream_tallies[host, code] = Tally()
            count, duration = self._upstream_count.labels(host, code), self._upstream_duration.labels(host)
            self._upstream_requests.append(_UpstreamRequests(tally, count, duration))
        return tally

    def upstream_bytes(self, host: str, n: int) -> None:
        """Count `n` bytes of body from an upstream: for each answer, or at intervals during a long one."""
        self._upstream_bytes.labels(self._hosts.bound(host)).inc(n)

    def digest_mismatch(self, registry: str) -> None:
        """Count a body that does not match its digest."""
        self._mismatches.labels(self._registries.bound(registry)).inc()

    # Quotas and circuits

    def quota(self, registry: str, credential: str, limit: int, remaining: int) -> None:
        """Set the limit and the rest of a registry's quota. `credential`: a name, never a secret."""
        labels = self._hosts.bound(registry), self._credentials.bound(credential)
        self._quota_limit.labels(*labels).set(limit)
        self._quota_remaining.labels(*labels).set(remaining)

    def upstream_429(self, registry: str, credential: str, method: str) -> None:
        """Count a request that a registry refused with 429. `method`: GET, HEAD or other."""
        labels = self._hosts.bound(registry), self._credentials.bound(credential)
        self._refused_429.labels(*labels, method).inc()

    def manifest_request(self, registry: str, credential: str, method: str) -> None:
        """Count a request for a manifest, which is what registries count. `method`: GET, HEAD or other."""
        labels = self._hosts.bound(registry), self._credentials.bound(credential)
        self._manifest_requests.labels(*labels, method).inc()

    def circuit(self, registry: str, is_open: bool) -> None:
        """Record whether a registry's circuit breaker is open."""
        self._circuit_open.labels(self._hosts.bound(registry)).set(is_open)

    def circuit_refused(self, registry: str) -> None:
        """Count a request that was not sent because the circuit breaker was open."""
        self._circuit_refusals.labels(self._hosts.bound(registry)).inc()

    def token_fetch(self, registry: str, credential: str, outcome: str) -> None:
        """Count one request for a token: "issued", "refused" or "error". `credential`: a name, no secret."""
        labels = self._hosts.bound(registry), self._credentials.bound(credential)
        self._token_fetches.labels(*labels, outcome).inc()

    def lookup(self, lane: str, outcome: str) -> None:
        """Count a lookup of a name. `lane`: of name_lookups; "found", "missing", "failed" or "refused"."""
        self._lookups.labels(lane, outcome).inc()

    def target_refused(self, by: str) -> None:
        """Count a host that was not connected to because of its addresses. `by`: the party that has named
        it.
        """
        self._targets_refused.labels(by).inc()

    def login_withheld(self, registry: str) -> None:
        """Count a client's request that is of no kind for which logins are used."""
        self._withheld.labels(self._hosts.bound(registry)).inc()

    def rule_count(self, rule: str, action: str) -> list[int]:
        """Return the list whose only item is the number of requests that a rule has decided so.

        The caller adds to it. `action`: a word of a small set.
        """
        key = (self._rule_names.bound(rule), action)
        found = self._decided.get(key)
        if found is None:
            found = self._decided[key] = ([0], self._decisions.labels(*key))
        return found[0]

    def passed_on(self, registry: str, reason: str) -> None:
        """Count an answer that could not be stored. `reason`: one of NotUnderstood.DETAILS."""
        self._passed_on.labels(self._hosts.bound(registry), reason).inc()

    # Fills and tunnels

    def fill_started(self) -> None:
        """Count a fetch into the cache. The number under way is read from a watched object's `active`."""
        self._fills.inc()

    def fill_resumed(self, registry: str) -> None:
        """Count a body that broke off, and is asked for again."""
        self._fill_resumes.labels(self._registries.bound(registry)).inc()

    def fill_failed(self, reason: str) -> None:
        """Count a fetch that did not end in the cache. `reason`: a word of a small set."""
        self._fill_failures.labels(reason).inc()

    def tunnel_opened(self) -> None:
        """Count a tunnel, open until tunnel_closed()."""
        self._tunnels.inc()
        self._tunnels_open.inc()

    def tunnel_closed(self, bytes_up: int, bytes_down: int) -> None:
        """Count the bytes of a tunnel: to its target (`bytes_up`) and to the client."""
        self._tunnels_open.dec()
        self._tunnel_bytes.labels("up").inc(bytes_up)
        self._tunnel_bytes.labels("down").inc(bytes_down)

    # The cache

    def store_failed(self, reason: str) -> None:
        """Count a failed write to the disk, and record that storing does not work. `reason`: such as ENOSPC
        or EIO.
        """
        self._store_failures.labels(reason).inc()
        self._store_ok.set(0)

    def store_worked(self) -> None:
        """Record that storing works."""
        self._store_ok.set(1)

    def cache_holds(self, objects: int, size: int, max_size: int, free: int) -> None:
        """Set the size of the cache. Bytes as the disk counts them; `max_size` 0: there is no limit."""
        self._objects.set(objects)
        self._bytes.set(size)
        self._max_bytes.set(max_size)
        self._free.set(free)

    def evicted(self, reason: str, objects: int, size: int) -> None:
        """Count objects that were removed. `reason`: size, inactive or free; `size`: bytes of the disk."""
        self._evicted.labels(reason).inc(objects)
        self._evicted_bytes.labels(reason).inc(size)

    def reconciled(self, seconds: float) -> None:
        """Record how long comparing the index with the disk took."""
        self._reconcile.set(seconds)

    def index_is_complete(self, complete: bool) -> None:
        """Record whether the index has all content on the disk."""
        self._complete.set(complete)

    # Processes

    def workers_ready(self, count: int) -> None:
        """Set the number of workers that accept connections."""
        self._workers.set(count)

    def worker_ended(self, reason: str) -> None:
        """Count a worker that ended unasked. `reason`: exit, killed (by a signal), hung (killed for it)."""
        self._exits.labels(reason).inc()

    def reloaded(self, result: str) -> None:
        """Count a SIGHUP. `result`: done, refused (can't be used), failed (no worker came up with it)."""
        self._reloads.labels(result).inc()

    # Publishing

    def watch(self, source: object) -> None:
        """Read `source` at every publish(): its attributes that are in _GAUGES and _COUNTERS.

        Counts are published from here on. Raises TypeError if it has none of them.
        """
        gauges = [name for name in _GAUGES if hasattr(source, name)]
        counters = [name for name in _COUNTERS if hasattr(source, name)]
        if not gauges and not counters:
            raise TypeError(f"{type(source).__name__} has nothing that is a metric")
        self._sources.extend((source, name) for name in gauges)
        for name in counters:
            metric, labels = _COUNTERS[name]
            counter = self._watched_counters[metric]
            self._counted.append((source, name, counter.labels(*labels) if labels else counter, [0]))

    def publish(self) -> None:
        """Move all counts to where render() reads them: microseconds for each series that has changed."""
        for requests in self._requests:
            delta = requests.tally.take()
            if delta is not None:
                count, sent, saved, seconds, buckets = delta
                requests.count.inc(count)
                requests.sent.inc(sent)
                requests.saved.inc(saved)
                _observe_all(requests.duration, buckets, seconds)
        for upstream in self._upstream_requests:
            delta = upstream.tally.take()
            if delta is not None:
                upstream.count.inc(delta[0])
                _observe_all(upstream.duration, delta[4], delta[3])
        for counted, series in self._decided.values():
            series.inc(counted[0])
            counted[0] = 0
        self._publish_watched()

    def _publish_watched(self) -> None:
        for source, name, counter, before in self._counted:
            now = getattr(source, name)
            counter.inc(now - before[0])
            before[0] = now
        for name, watched in _GAUGES.items():
            values = [_value(source, name) for source, attribute in self._sources if attribute == name]
            present = [value for value in values if value is not None]
            if present:
                self._gauges[name].set(watched.merge(present))

    def render(self) -> bytes:
        """Publish, and return collect()."""
        self.publish()
        return self.collect()

    def collect(self) -> bytes:
        """Return what all processes have published, in Prometheus' text format (CONTENT_TYPE).

        Takes milliseconds for each process. May be called by any thread.
        """
        directory = os.environ.get(_DIRECTORY)
        if directory is None:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        merged.register(_Merged(Path(directory)))
        return generate_latest(merged)


class _Merged(Collector):
    """The sums over the files of all processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Any:
        # A file is empty for a moment while a process creates it.
        files = [str(path) for path in self._directory.glob("*.db") if _size(path) > 0]
        return MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _observe_all(histogram: Histogram, counts: list[int], seconds: float) -> None:
    """Add a histogram's worth of observations at once: `counts` for each bucket of BOUNDS and above.

    prometheus_client has no public way to do so. `_buckets` and `_sum` are its value objects, which it makes
    for one process or for several, and inc() is what observe() itself calls on them, in both modes.
    """
    for value, count in zip(histogram._buckets, counts, strict=True):
        if count:
            value.inc(count)
    histogram._sum.inc(seconds)


def _value(source: object, name: str) -> float | None:
    value = getattr(source, name)
    read: float | None = value() if callable(value) else value
    return read


def _installed_version() -> str:
    try:
        return metadata.version("regproxy")
    except metadata.PackageNotFoundError:
        return "unknown"
