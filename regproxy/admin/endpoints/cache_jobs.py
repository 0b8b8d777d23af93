"""Steering the cache: purges, pins, checks, warming; and the jobs that this takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta, to_builtins

from regproxy.admin.operations import Call, delete, get, post
from regproxy.admin.paging import Page, Paged
from regproxy.admin.replies import Problem
from regproxy.cache import pins
from regproxy.cache.index.index import Index
from regproxy.cache.pins import PinError, parse, parse_registry
from regproxy.cache.verify import Result, Verifier
from regproxy.core.errors import StoreError
from regproxy.inventory.purge import Purge, Selection, purge
from regproxy.inventory.reading import index_reader
from regproxy.inventory.warm import Warmed, Warming
from regproxy.inventory.warm_list import wish
from regproxy.jobs.records import Job
from regproxy.jobs.runner import Jobs, Running, TooMany

_NAMES_MAX: Final = 1000
_DRY_RUN_SECONDS: Final = 5.0  # for a page that somebody waits for
_VERIFY_THREADS: Final = 1  # the other cores are for clients
_BUSY: Final = {503: "the index can't be written now, or too many jobs wait"}
_UNKNOWN: Final = {404: "no such job"}

Name = Annotated[str, Meta(min_length=1, max_length=512)]
Names = Annotated[
    list[Name], Meta(min_length=1, max_length=_NAMES_MAX, description="images, or digests: sha256:...")
]


class PurgeOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to go: all that is given has to hold."""

    images: Annotated[
        list[Name], Meta(max_length=_NAMES_MAX, description="one of these: images, or sha256:...")
    ] = []
    registry: Annotated[str, Meta(max_length=300, description="such as docker.io")] = ""
    repository: Annotated[str, Meta(max_length=512)] = ""
    tag: Annotated[str, Meta(max_length=128)] = ""
    older_than: (
        Annotated[float, Meta(gt=0, description="last used more than this many seconds ago")] | None
    ) = None
    never_hit: Annotated[bool, Meta(description="has served no request since it was stored")] = False
    dry_run: Annotated[bool, Meta(description="only report what would be removed")] = False


class PinOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to pin, or to let go."""

    images: Names


class VerifyOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is to be said of a check."""


class WarmImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image that is to be in the cache."""

    name: Name
    platforms: Annotated[
        list[str], Meta(max_length=64, description="of an index, these alone; none: as below")
    ] = []


class WarmOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be in the cache."""

    images: Annotated[list[WarmImage], Meta(min_length=1, max_length=_NAMES_MAX)]
    platforms: Annotated[
        list[str], Meta(max_length=64, description="of images without their own; none: all")
    ] = []


class PinResult(msgspec.Struct, frozen=True, kw_only=True):
    """A name that was pinned, or let go: `digests` that it keeps, `held` of these, and their bytes."""

    name: str
    digests: int = 0
    held: int = 0
    bytes: int = 0
    error: str = ""


class PinResults(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of each name."""

    images: list[PinResult]


class CacheJobs:
    """The endpoints that change something. `open_index()`: a connection of its own for a thread.

    `warming()`: what warms the cache by this worker's fills.
    """

    def __init__(
        self, root: Path, jobs: Jobs, open_index: Callable[[], Index], warming: Callable[[], Warming]
    ) -> None:
        self._root = root
        self._jobs = jobs
        self._open_index = open_index
        self._warming = warming

    # --- jobs --------------------------------------------------------------------------------------------

    @get("/api/v1/jobs", thread=True)
    def list_jobs(self, call: Call[Paged, None]) -> Page[Job]:
        """Return a page of the jobs of all workers, the newest first."""
        asked, position = call.query, call.position()
        before = str(position[0]) if position else ""
        found = self._jobs.history.listing(before, asked.limit + 1)
        items = found[: asked.limit]
        more = len(found) > asked.limit
        return Page(items=items, next=call.next(items[-1].id) if more else None)

    @get("/api/v1/jobs/{id}", thread=True, problems=_UNKNOWN)
    def show_job(self, call: Call[None, None]) -> Job:
        """Return a job: its state, its progress, and what came of it."""
        job = self._jobs.history.get(call.path["id"])
        if job is None:
            raise _no_job(call.path["id"])
        return job

    @delete("/api/v1/jobs/{id}", status=202, problems=_UNKNOWN | {503: "the disk does not take it"})
    async def cancel_job(self, call: Call[None, None]) -> Job:
        """Cancel a job, whichever worker has it.

        It ends a moment later; what it has done until then stays done. One that has ended is left as it is.
        """
        job = await self._jobs.cancel(call.path["id"])
        if job is None:
            raise _no_job(call.path["id"])
        return job

    # --- what takes long ---------------------------------------------------------------------------------

    @post("/api/v1/purge", status=202, problems=_BUSY)
    async def purge_cache(self, call: Call[None, PurgeOrder]) -> Job:
        """Begin a job that removes images with what only they name.

        What is pinned stays, and what an image that stays names; its result lists that.
        """
        order = call.body
        selection = _selection(order)
        if selection.is_empty:
            raise Problem(
                400, "nothing is selected: give images, registry, repository, tag, older_than or never_hit"
            )
        what = {name: value for name, value in msgspec.to_builtins(order).items() if value}

        def work(running: Running) -> Mapping[str, Any]:
            with self._index() as index, index_reader(self._root) as reader:
                result = purge(
                    *(reader, index, selection),
                    dry_run=order.dry_run,
                    on_progress=lambda so_far: running.progress(so_far.done, so_far.objects, "contents"),
                    stops=running.stops,
                )
            running.progress(result.done, result.objects, "contents")
            return _result(result)

        return await self._begin(call, "purge", what, work)

    def would_purge(self, order: PurgeOrder) -> Purge:
        """Return what a purge would remove, and leave all as it is. For a thread; raises Problem.

        `cancelled`: that can't be told within some seconds.
        """
        ends = time.monotonic() + _DRY_RUN_SECONDS
        try:
            with self._index() as index, index_reader(self._root) as reader:
                chosen = _selection(order)
                return purge(reader, index, chosen, dry_run=True, stops=lambda: time.monotonic() > ends)
        except StoreError as error:
            raise Problem(503, str(error)) from None

    @post("/api/v1/verify", status=202, problems=_BUSY)
    async def verify_cache(self, call: Call[None, VerifyOrder]) -> Job:
        """Begin a job that checks every content against its digest, and moves away what is damaged."""

        def work(running: Running) -> Mapping[str, Any]:
            with self._index() as index:
                total = index.totals().bytes

                def look(result: Result) -> None:
                    running.progress(result.bytes, max(total, result.bytes), "bytes")
                    running.check(to_builtins(result))

                result = Verifier(self._root, index, _VERIFY_THREADS, on_progress=look).run()
                return cast("dict[str, Any]", to_builtins(result))

        return await self._begin(call, "verify", {}, work)

    @post("/api/v1/warm", status=202, problems=_BUSY)
    async def warm_cache(self, call: Call[None, WarmOrder]) -> Job:
        """Begin a job that fetches images ahead of their clients.

        Its result says of each image what was fetched, or why not.
        """
        order = call.body
        try:
            wishes = [wish(each.name, each.platforms or order.platforms) for each in order.images]
        except PinError as error:
            raise Problem(400, str(error), field="images") from None
        finished: list[Warmed] = []

        async def work(running: Running) -> Mapping[str, Any]:
            def note(image: Warmed) -> None:
                finished.append(image)
                running.progress(len(finished), len(wishes), "images")
                running.job.result = {"images": [to_builtins(each) for each in finished]}

            running.progress(0, len(wishes), "images")
            return {"images": [to_builtins(each) for each in await self._warming().run(wishes, note)]}

        what = {"images": [each.reference.name for each in wishes]}
        return await self._begin(call, "warm", what, work, as_task=True)

    async def _begin(
        self, call: Call[Any, Any], kind: str, what: Mapping[str, Any], work: Any, *, as_task: bool = False
    ) -> Job:
        by = f"{call.visitor.how} from {call.visitor.peer}"
        begin = self._jobs.as_task if as_task else self._jobs.on_thread
        try:
            return await begin(kind, by, what, work)
        except (TooMany, StoreError) as error:
            raise Problem(503, str(error)) from None

    # --- pins --------------------------------------------------------------------------------------------

    @post("/api/v1/pin", thread=True, problems=_BUSY)
    def pin_images(self, call: Call[None, PinOrder]) -> PinResults:
        """Keep images or contents in the cache, whatever its limits say."""

        def pin(index: Index, name: str) -> PinResult:
            return PinResult(**to_builtins(pins.pin(self._root, index, name)))

        return self._each(call.body.images, pin)

    @post("/api/v1/unpin", thread=True, problems=_BUSY)
    def unpin_images(self, call: Call[None, PinOrder]) -> PinResults:
        """Unpin images or contents."""
        return self._each(call.body.images, lambda index, name: PinResult(name=pins.unpin(index, name).name))

    def _each(self, names: list[str], change: Callable[[Index, str], PinResult]) -> PinResults:
        results = []
        try:
            with self._index() as index:
                for name in names:
                    try:
                        results.append(change(index, name))
                    except PinError as error:
                        results.append(PinResult(name=name, error=str(error)))
        except StoreError as error:
            raise Problem(503, str(error)) from None
        return PinResults(images=results)

    @contextmanager
    def _index(self) -> Iterator[Index]:
        """Lend an index for this thread."""
        index = self._open_index()
        try:
            yield index
        finally:
            index.close()


def _selection(order: PurgeOrder) -> Selection:
    try:
        return Selection(
            images=tuple(map(parse, order.images)),
            place=parse_registry(order.registry) if order.registry else None,
            repository=order.repository,
            tag=order.tag,
            unused_since=time.time() - order.older_than if order.older_than is not None else None,
            never_hit=order.never_hit,
        )
    except PinError as error:
        raise Problem(400, str(error)) from None


def _result(result: Purge) -> dict[str, Any]:
    return cast("dict[str, Any]", to_builtins(result))


def _no_job(identity: str) -> Problem:
    return Problem(404, f"no job {identity}; the oldest are forgotten")
