"""The cache and its disk."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from regproxy.telemetry.meters.declaring import Declaring


class CacheMeters(Declaring):
    """The metrics of the cache."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
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
            "store_ok", "0: the disk fails, and pulls are passed on without storing.", "livemin"
        )
        self._store_ok.set(1)  # a process that stores nothing reports no failure

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
