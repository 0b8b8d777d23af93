"""What is known of registries: circuits, quotas, errors."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from regproxy.admin.live import Live
from regproxy.admin.operations import Call, RegistryName, get
from regproxy.admin.paging import Page, Paged
from regproxy.cache.pins import name_of_logged
from regproxy.registry.rate_limits import label
from regproxy.server.context import Services
from regproxy.telemetry.metric_samples import Samples
from regproxy.telemetry.snapshots import LiveCircuit, LiveFailure, Snapshot
from regproxy.upstream.quota_file import Key, QuotaEntry
from regproxy.upstream.quota_trend import QuotaTrend

_REGISTRIES_MAX = 1000


class Circuit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a registry is left alone because it can't be reached."""

    state: Literal["closed", "open"]
    failures: Annotated[int, Meta(description="in a row, in the worker that has seen the most")]
    retry_at: Annotated[float | None, Meta(description="when it is tried again, seconds since the epoch")]
    cause: Annotated[str | None, Meta(description="what happened last")]
    workers: Annotated[int, Meta(description="workers that do not ask it at present")]


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry allows, as it has said last."""

    credential: Annotated[str, Meta(description="whose quota it is; no secret")]
    limit: int | None
    remaining: Annotated[int | None, Meta(description="what was left at that time")]
    window_seconds: float | None
    seen_at: Annotated[float | None, Meta(description="when it said so, seconds since the epoch")]
    per_hour: Annotated[float, Meta(description="counted requests per hour, at the rate of the last minutes")]
    ends_at: Annotated[float | None, Meta(description="when nothing is left at that rate; null: it lasts")]
    refused_until: Annotated[
        dict[str, float], Meta(description="until when it is not asked after a 429, by kind of request")
    ]


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """What has gone wrong with a registry since the workers began."""

    count: int
    last: Annotated[str | None, Meta(description="what happened last")]
    last_at: Annotated[float | None, Meta(description="seconds since the epoch")]


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a registry, or of a server that one leads to."""

    name: RegistryName
    circuit: Circuit
    quotas: list[Quota]
    refused_429: Annotated[int, Meta(description="requests that it has answered with 429, since the start")]
    errors: Errors


class Registries:
    """The endpoint of registries."""

    def __init__(self, services: Services, live: Live, threads: Executor) -> None:
        self._threads = threads
        self._services = services
        self._live = live

    @get("/api/v1/registries")
    async def registries(self, call: Call[Paged, None]) -> Page[Registry]:
        """Return registries that have failed, refused, or have a quota; in the order of their names."""
        snapshots = await self._live.all()
        loop = asyncio.get_running_loop()
        samples = await loop.run_in_executor(self._threads, self._samples)
        return call.page(self.merged(snapshots, samples), lambda each: [each.name])

    def _samples(self) -> Samples:
        return Samples(self._services.metrics.families())

    def merged(self, snapshots: list[Snapshot], samples: Samples) -> list[Registry]:
        """Return what is known of them, by name. For the event loop; `samples`: the metrics."""
        refused: Counter[str] = Counter()
        for name, count in samples.by("upstream_429_total", "registry").items():
            refused[name_of_logged(name)] += int(count)
        circuits: dict[str, list[LiveCircuit]] = defaultdict(list)
        failures: dict[str, list[LiveFailure]] = defaultdict(list)
        for snapshot in snapshots:
            for circuit in snapshot.circuits:
                circuits[name_of_logged(circuit.registry)].append(circuit)
            for failure in snapshot.failures:
                failures[name_of_logged(failure.registry)].append(failure)
        quotas = self._services.upstream.gate.quotas
        told: dict[str, list[Quota]] = defaultdict(list)
        for (host, credential), entry in quotas.known().items():
            told[name_of_logged(host)].append(_quota((host, credential), entry, quotas.trend, time.time()))
        names = sorted({*circuits, *failures, *told, *refused})[:_REGISTRIES_MAX]
        return [
            Registry(
                name=name,
                circuit=_circuit(circuits.get(name, ())),
                quotas=told.get(name, []),
                refused_429=refused[name],
                errors=_errors(failures.get(name, ())),
            )
            for name in names
        ]


def _quota(key: Key, entry: QuotaEntry, trend: QuotaTrend, now: float) -> Quota:
    report = entry.report
    waits = {lane.value: block.wait(now) for lane, block in entry.blocks.items()}
    rate = trend.rate(key, report) if report is not None else 0.0
    return Quota(
        credential=label(key[1]),
        limit=report.limit if report is not None else None,
        remaining=report.remaining if report is not None else None,
        window_seconds=report.window if report is not None else None,
        seen_at=report.seen if report is not None else None,
        per_hour=rate * 3600,
        ends_at=trend.ends_at(key, report) if report is not None else None,
        refused_until={lane: now + wait for lane, wait in waits.items() if wait},
    )


def _circuit(circuits: Iterable[LiveCircuit]) -> Circuit:
    worst = max(circuits, key=lambda each: (each.until > 0, each.failures), default=None)
    if worst is None:
        return Circuit(state="closed", failures=0, retry_at=None, cause=None, workers=0)
    return Circuit(
        state="open" if worst.until else "closed",
        failures=worst.failures,
        retry_at=worst.until or None,
        cause=worst.cause,
        workers=sum(each.until > 0 for each in circuits),
    )


def _errors(failures: Iterable[LiveFailure]) -> Errors:
    last = max(failures, key=lambda each: each.at, default=None)
    return Errors(
        count=sum(each.count for each in failures),
        last=last.message if last is not None else None,
        last_at=last.at if last is not None else None,
    )
