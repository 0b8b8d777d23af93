"""How the proxy is, as a whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from regproxy.admin.operations import Call, get
from regproxy.cache import layout
from regproxy.cache.index.overview import overview
from regproxy.server.context import Services
from regproxy.telemetry.metric_samples import Samples
from regproxy.tls.ca_scope import wanted

# As the metrics' label `cache` has it: answered without a download for it.
_HITS: Final = ("HIT", "STALE", "REVALIDATED")
_WARNINGS_MAX: Final = 100


class Offline(msgspec.Struct, frozen=True, kw_only=True):
    """Whether no registry is asked."""

    on: bool
    by: Annotated[
        str | None, Meta(description="setting (REGPROXY_OFFLINE), switch (POST /api/v1/offline), or null")
    ]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered since the start, and how much of it from the cache."""

    requests: Annotated[int, Meta(description="client requests for registry content")]
    cacheable_requests: Annotated[int, Meta(description="those for what the cache may hold")] = 0
    hits: Annotated[int, Meta(description="those answered without a download")]
    hit_ratio: Annotated[float | None, Meta(description="hits / cacheable requests; null: there were none")]
    bytes: Annotated[int, Meta(description="bytes of bodies sent to clients")]
    cacheable_bytes: Annotated[int, Meta(description="those of cacheable requests")] = 0
    saved_bytes: Annotated[int, Meta(description="those sent without downloading them")]
    byte_ratio: Annotated[
        float | None, Meta(description="saved_bytes / cacheable bytes; null: there were none")
    ]


class CacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """How full the cache is."""

    objects: int
    bytes: Annotated[int, Meta(description="bytes on disk")]
    max_bytes: Annotated[int, Meta(description="CACHE_MAX_SIZE; 0: no limit")]
    free_bytes: Annotated[int, Meta(description="free bytes on its file system")]
    oldest_use: Annotated[
        float | None, Meta(description="last use of the least recently used object, seconds since the epoch")
    ]
    pins: Annotated[int | None, Meta(description="names that are pinned; null: the index can't be read")]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a proxy."""

    version: str
    started: Annotated[float, Meta(description="seconds since the epoch")]
    uptime_seconds: float
    workers: Annotated[int, Meta(description="workers that accept connections")]
    ready: bool
    not_ready_because: str | None
    offline: Offline
    connections: Annotated[int, Meta(description="open, with clients and with upstreams")]
    downloads: Annotated[int, Meta(description="objects being downloaded")]
    answered: Counts
    cache: CacheUse
    warnings: Annotated[list[str], Meta(description="warnings about the configuration")]
    ca_lacks: Annotated[
        list[str], Meta(description="names that are configured and the CA may not sign: TLS to them fails")
    ] = []


class StatusReport:
    """The endpoint of the status. `root`: of the cache; `started`: epoch."""

    def __init__(
        self,
        services: Services,
        root: Path,
        started: float,
        ready: Callable[[], str | None],
        threads: Executor,
    ) -> None:
        self._services = services
        self._index = layout.index(root)
        self._started = started
        self._ready = ready
        self._threads = threads
        self._wanted = wanted(services.config)
        self._version = metadata.version("regproxy")

    @get("/api/v1/status")
    async def status(self, call: Call[None, None]) -> Status:
        """Return the state of the proxy: what it has answered, how full it is, warnings.

        Figures are those of all workers, since the start.
        """
        # On a thread of its own: nothing that takes long has it wait.
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.current)

    def current(self, samples: Samples | None = None) -> Status:
        """Return the status, by these metrics or new ones. Takes milliseconds; any thread may call it."""
        services = self._services
        samples = samples or Samples(services.metrics.families())
        reason, now = self._ready(), time.time()
        return Status(
            version=self._version,
            started=self._started,
            uptime_seconds=now - self._started,
            workers=int(samples.sum("workers")),
            ready=reason is None,
            not_ready_because=reason,
            offline=offline_of(services),
            connections=int(samples.sum("connections_open")),
            downloads=int(samples.sum("fills_active")),
            answered=_counts(samples),
            cache=self._cache_use(samples),
            warnings=list(services.config.warnings[:_WARNINGS_MAX]),
            ca_lacks=self._wanted.unsigned(services.authority.pairs)[:_WARNINGS_MAX],
        )

    def _cache_use(self, samples: Samples) -> CacheUse:
        found = overview(self._index)
        return CacheUse(
            objects=int(samples.sum("cache_objects")),
            bytes=int(samples.sum("cache_bytes")),
            max_bytes=self._services.config.cache_max_size,
            free_bytes=int(samples.sum("cache_disk_free_bytes")),
            oldest_use=found.oldest_use if found is not None else None,
            pins=found.pins if found is not None else None,
        )


def offline_of(services: Services) -> Offline:
    """Return whether no registry is asked, and by what."""
    if services.config.offline:
        return Offline(on=True, by="setting")
    on = services.policy.offline
    return Offline(on=on, by="switch" if on else None)


def _counts(samples: Samples) -> Counts:
    cached = tuple(word for word in samples.by("requests_total", "cache") if word != "none")
    hits = samples.sum("requests_total", cache=_HITS)
    asked = samples.sum("requests_total", cache=cached)
    saved = samples.sum("saved_bytes_total")
    sent = samples.sum("client_bytes_total", cache=cached)
    return Counts(
        requests=int(sum(samples.by("requests_total", "registry").values())),
        cacheable_requests=int(asked),
        hits=int(hits),
        hit_ratio=hits / asked if asked else None,
        bytes=int(samples.sum("client_bytes_total")),
        cacheable_bytes=int(sent),
        saved_bytes=int(saved),
        byte_ratio=min(saved / sent, 1.0) if sent else None,
    )
