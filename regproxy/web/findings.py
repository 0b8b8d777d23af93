"""Say in words what is wrong with a proxy, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from regproxy.admin.endpoints.registries import Registry
from regproxy.admin.endpoints.status import Status
from regproxy.web.rendering import size_text, span_text

_LOW: Final = 0.1  # of a quota
_FULL: Final = 0.02  # of a disk that is left
_RECENT: Final = 600.0  # seconds for which an error is news


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what to do. `level`: `bad` where pulls fail or soon will."""

    level: Literal["bad", "note"]
    what: str
    remedy: str


def findings(status: Status, registries: Iterable[Registry], now: float) -> list[Finding]:
    """Return what is unusual, the worst first. `now`: epoch."""
    found = [*_of_proxy(status), *(each for registry in registries for each in _of_registry(registry, now))]
    found += [
        Finding(
            "note", warning, "It is a matter of the configuration: regproxy check-config shows all of it."
        )
        for warning in status.warnings
    ]
    return sorted(found, key=lambda each: each.level != "bad")


def _of_proxy(status: Status) -> Iterator[Finding]:
    if not status.ready:
        yield Finding(
            "bad", f"The proxy takes no requests: {status.not_ready_because}.", "The log says more."
        )
    if status.offline.on:
        switch = "Switch it on again by POST /api/v1/offline."
        remedy = switch if status.offline.by == "switch" else "REGPROXY_OFFLINE is set."
        yield Finding("note", "Offline: no registry is asked, only what is held is served.", remedy)
    cache = status.cache
    total = cache.free_bytes + cache.bytes
    if total and cache.free_bytes < _FULL * total:
        yield Finding(
            "bad",
            f"The cache's disk has {size_text(cache.free_bytes)} left.",
            "Give it more space, or set CACHE_MAX_SIZE lower; what is not pinned can be purged.",
        )


def _of_registry(registry: Registry, now: float) -> Iterator[Finding]:
    name = registry.name
    if registry.circuit.state == "open":
        yield Finding(
            "bad",
            f"{name} can't be reached ({registry.circuit.cause}): it is left alone for a while.",
            "What is held is served. Look whether this machine reaches it: regproxy doctor.",
        )
    for quota in registry.quotas:
        if quota.refused_until:
            waits = max(quota.refused_until.values()) - now
            yield Finding(
                "bad",
                f"{name} refuses requests as too many, for another {span_text(waits)} ({quota.credential}).",
                "What is held is served. A login (AUTH_REGISTRIES) has a larger quota.",
            )
        elif quota.limit and quota.remaining is not None and quota.remaining < _LOW * quota.limit:
            yield Finding(
                "bad" if quota.remaining == 0 else "note",
                f"{name} allows {quota.remaining} more of {quota.limit} requests ({quota.credential}).",
                "Tags are asked for less often from here on. A login has a larger quota.",
            )
    last = registry.errors.last_at
    if registry.circuit.state == "closed" and last is not None and now - last < _RECENT:
        yield Finding("note", f"{name}: {registry.errors.last}, {span_text(now - last)} ago.", "")
