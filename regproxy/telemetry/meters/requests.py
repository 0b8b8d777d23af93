"""Requests of clients, and requests to upstreams: counts, bytes, durations.

They are counted in C (Tally), and moved to the series by publish().
"""

from __future__ import annotations

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram

from regproxy.dataplane.tally import Tally
from regproxy.telemetry.meters.declaring import Declaring, observe_all


class _Requests(Struct, frozen=True):
    """A tally and the series that it is published to."""

    tally: Tally
    count: Counter
    sent: Counter
    saved: Counter
    duration: Histogram


class _UpstreamRequests(Struct, frozen=True):
    tally: Tally
    count: Counter
    duration: Histogram


class RequestMeters(Declaring):
    """The metrics of requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._tallies: dict[tuple[str, str, str, int], Tally] = {}
        self._upstream_tallies: dict[tuple[str, int | str], Tally] = {}
        self._first_tallies: dict[str, Tally] = {}
        self._requests: list[_Requests] = []
        self._upstream_requests: list[_UpstreamRequests] = []
        self._first_bytes: list[tuple[Tally, Histogram]] = []
        self._declare_clients()
        self._declare_upstreams()

    def _declare_clients(self) -> None:
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

    def _declare_upstreams(self) -> None:
        counter, histogram = self._counter, self._histogram
        self._upstream_count = counter(
            "upstream_requests", "Requests to upstreams, by status or by failure.", ["host", "code"]
        )
        self._upstream_bytes = counter("upstream_bytes", "Bytes of bodies received from upstreams.", ["host"])
        self._upstream_duration = histogram(
            "upstream_request_duration_seconds",
            "From a request to an upstream, with connecting, to the head of its answer.",
            ["host"],
        )
        self._first_byte = histogram(
            "upstream_first_byte_seconds",
            "From a request that was sent to an upstream to the head of its answer.",
            ["host"],
        )

    def tally(self, registry: str, kind: str, cache_status: str, code: int) -> Tally:
        """Return the tally of requests of this kind; the same object each time.

        `registry`: the origin's host. `kind`: a targets.Kind, or a tier's name for a tag. `cache_status`:
        nginx's word, "" if the cache is not involved. `code`: the status.
        """
        tally = self._tallies.get((registry, kind, cache_status, code))
        return self._new_tally(registry, kind, cache_status, code) if tally is None else tally

    def _new_tally(self, registry: str, kind: str, cache_status: str, code: int) -> Tally:
        key = (self._labels.registries.bound(registry), kind, cache_status, code)
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

    def upstream_request(self, host: str, code: int | str, seconds: float) -> None:
        """Count a request to an upstream. `code`: its status, or a word for the failure."""
        tally = self._upstream_tallies.get((host, code))
        if tally is None:
            tally = self._new_upstream_tally(self._labels.hosts.bound(host), code)
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
        self._upstream_bytes.labels(self._labels.hosts.bound(host)).inc(n)

    def first_byte(self, host: str, seconds: float) -> None:
        """Count how long an upstream took to begin its answer, once it had the request."""
        tally = self._first_tallies.get(host)
        if tally is None:
            name = self._labels.hosts.bound(host)
            tally = self._first_tallies.get(name)
            if tally is None:
                tally = self._first_tallies[name] = Tally()
                self._first_bytes.append((tally, self._first_byte.labels(name)))
        tally.add(0, seconds)

    def _publish_requests(self) -> None:
        for requests in self._requests:
            delta = requests.tally.take()
            if delta is not None:
                count, sent, saved, seconds, buckets = delta
                requests.count.inc(count)
                requests.sent.inc(sent)
                requests.saved.inc(saved)
                observe_all(requests.duration, buckets, seconds)
        for upstream in self._upstream_requests:
            delta = upstream.tally.take()
            if delta is not None:
                upstream.count.inc(delta[0])
                observe_all(upstream.duration, delta[4], delta[3])
        for tally, histogram in self._first_bytes:
            delta = tally.take()
            if delta is not None:
                observe_all(histogram, delta[4], delta[3])
