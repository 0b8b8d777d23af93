"""Declare metrics, with names as Prometheus has them, and bound the values of their labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from regproxy.dataplane.tally import BOUNDS

OTHER: Final = "other"
_NAMES_MAX: Final = 100  # distinct hosts in a label; masks and redirects let clients and origins invent more

# How the values that processes have of a gauge are merged.
Mode = Literal["livesum", "livemin", "livemax", "livemostrecent", "mostrecent"]


class Names:
    """The values of a label, limited: after the first hundred all are `other`."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def bound(self, name: str) -> str:
        """Return the name, or OTHER."""
        if name in self._names:
            return name
        if len(self._names) >= _NAMES_MAX:
            return OTHER
        self._names.add(name)
        return name


class Labels(Struct):
    """The names that clients and origins can make up, each label bounded for itself."""

    registries: Names
    hosts: Names
    credentials: Names
    rules: Names


class Declaring:
    """What every subject's metrics are declared with."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._labels = Labels(Names(), Names(), Names(), Names())

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(f"regproxy_{name}_total", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, labels: Iterable[str] = (), bounds: tuple[float, ...] = BOUNDS
    ) -> Histogram:
        return Histogram(f"regproxy_{name}", text, labels, registry=self._registry, buckets=bounds)

    def _gauge(self, name: str, text: str, mode: Mode = "livesum", labels: Iterable[str] = ()) -> Gauge:
        return Gauge(f"regproxy_{name}", text, labels, registry=self._registry, multiprocess_mode=mode)

    def _recent(self, name: str, text: str) -> Gauge:
        """Return a gauge with one value for all processes: the most recent one counts."""
        return self._gauge(name, text, "livemostrecent")


def observe_all(histogram: Histogram, counts: list[int], seconds: float) -> None:
    """Add a histogram's worth of observations at once: `counts` for each bucket of BOUNDS and above.

    prometheus_client has no public way to do so. `_buckets` and `_sum` are its value objects, which it makes
    for one process or for several, and inc() is what observe() itself calls on them, in both modes.
    """
    for value, count in zip(histogram._buckets, counts, strict=True):
        if count:
            value.inc(count)
    histogram._sum.inc(seconds)
