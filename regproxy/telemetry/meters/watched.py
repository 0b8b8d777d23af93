"""Metrics that are attributes of objects, read at intervals: nobody has to call anything for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter

from regproxy.telemetry.meters.declaring import Declaring, Mode


class _Watched(Struct, frozen=True):
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


class WatchedMeters(Declaring):
    """The metrics of watched objects."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._gauges = {
            name: self._gauge(watched.metric, watched.help, watched.mode) for name, watched in _GAUGES.items()
        }
        for name, watched in _GAUGES.items():
            if watched.merge is min:
                self._gauges[name].set(float("inf"))  # 0 would be a certificate that expired in 1970
        self._sources: list[tuple[object, str]] = []
        self._counted: list[tuple[object, str, Counter, list[int]]] = []
        self._declare_watched()

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


def _value(source: object, name: str) -> float | None:
    value = getattr(source, name)
    read: float | None = value() if callable(value) else value
    return read
