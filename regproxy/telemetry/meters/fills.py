"""Fetches into the cache, and tunnels."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from regproxy.telemetry.meters.declaring import Declaring

_SHARERS: Final = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class FillMeters(Declaring):
    """The metrics of fills and tunnels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        counter = self._counter
        self._fills = counter("fills", "Objects whose fetching into the cache was begun.")
        self._fill_resumes = counter(
            "fill_resumes", "Bodies that broke and were asked for again from there on.", ["registry"]
        )
        self._fill_failures = counter("fill_failures", "Fetches into the cache that failed.", ["reason"])
        self._fill_requests = self._histogram(
            "fill_requests", "Requests that shared a fetch into the cache, counted at its end.", (), _SHARERS
        )
        self._tunnels_open = self._gauge("tunnels_open", "Tunnels to hosts that are not intercepted.")
        self._tunnels = counter("tunnels", "Tunnels that were opened.")
        self._tunnel_bytes = counter("tunnel_bytes", "Bytes through closed tunnels.", ["direction"])

    def fill_started(self) -> None:
        """Count a fetch into the cache. The number under way is read from a watched object's `active`."""
        self._fills.inc()

    def fill_ended(self, requests: int) -> None:
        """Count the end of a fetch into the cache that so many requests have shared in this process."""
        self._fill_requests.observe(requests)

    def fill_resumed(self, registry: str) -> None:
        """Count a body that broke off, and is asked for again."""
        self._fill_resumes.labels(self._labels.registries.bound(registry)).inc()

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
