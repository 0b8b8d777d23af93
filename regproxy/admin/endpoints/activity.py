"""What runs just now, in all workers: downloads and clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from regproxy.admin.live import Awaited, Live, awaited
from regproxy.admin.operations import Call, RegistryName, get
from regproxy.admin.paging import Page, Paged
from regproxy.cache.pins import name_of_logged
from regproxy.telemetry.snapshots import LiveDownload, Snapshot


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """What is being fetched into the cache."""

    digest: Annotated[str, Meta(description="what was asked for: a digest, or a tag while that is not known")]
    registry: RegistryName
    repository: str
    bytes: Annotated[int, Meta(description="bytes downloaded so far")]
    total: Annotated[int | None, Meta(description="total bytes; null: unknown")]
    rate: Annotated[float, Meta(description="recent bytes per second")]
    waiters: Annotated[int, Meta(description="requests reading from it or waiting for it, in all workers")]
    since: Annotated[float, Meta(description="seconds since the epoch")]
    resumes: Annotated[int, Meta(description="how often it broke off and was resumed")]
    worker: Annotated[int, Meta(description="the number of the worker that fetches it")]


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """The connections of one client."""

    name: Annotated[str, Meta(description="a principal's name, or an address")]
    kind: Literal["principal", "address"]
    connections: int
    requests: Annotated[int, Meta(description="its requests being answered now")]


class Activity:
    """The endpoints of what runs."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @get("/api/v1/downloads")
    async def downloads(self, call: Call[Paged, None]) -> Page[Download]:
        """Return the downloads under way, the oldest first."""
        return call.page(merged_downloads(await self._live.all()), _order)

    @get("/api/v1/clients")
    async def clients(self, call: Call[Paged, None]) -> Page[Client]:
        """Return the clients with open connections, by name."""
        return call.page(merged_clients(await self._live.all()), lambda each: [each.kind, each.name])


def _order(download: Download) -> list[Any]:
    return [download.since, download.registry, download.repository, download.digest]


def merged_downloads(snapshots: Iterable[Snapshot]) -> list[Download]:
    """Return the downloads of all workers, with the clients of those that follow them."""
    doing: dict[tuple[str, str, str], tuple[int, LiveDownload]] = {}
    waiters: Counter[Awaited] = Counter()
    for snapshot in snapshots:
        for each in snapshot.downloads:
            waiters[_awaited(each)] += each.waiters
            if not each.follows:
                doing[each.registry, each.repository, each.digest] = (snapshot.slot, each)
    found = [
        Download(
            digest=each.digest,
            registry=name_of_logged(each.registry),
            repository=each.repository,
            bytes=each.bytes,
            total=each.total if each.total >= 0 else None,
            rate=each.rate,
            waiters=waiters[_awaited(each)],
            since=each.since,
            resumes=each.resumes,
            worker=slot,
        )
        for slot, each in doing.values()
    ]
    return sorted(found, key=_order)


def _awaited(download: LiveDownload) -> Awaited:
    return awaited(download.registry, download.repository, download.digest)


def merged_clients(snapshots: Iterable[Snapshot]) -> list[Client]:
    """Return the clients of all workers."""
    counts: dict[tuple[Literal["principal", "address"], str], tuple[int, int]] = {}
    for snapshot in snapshots:
        for each in snapshot.clients:
            kind: Literal["principal", "address"] = "principal" if each.kind == "principal" else "address"
            connections, requests = counts.get((kind, each.name), (0, 0))
            counts[kind, each.name] = connections + each.connections, requests + each.requests
    return [
        Client(name=name, kind=kind, connections=connections, requests=requests)
        for (kind, name), (connections, requests) in sorted(counts.items())
    ]
