"""What is in the cache: images, tags, contents, and how much each repository takes."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from msgspec import Meta

from regproxy.admin.operations import Call, get
from regproxy.admin.paging import Page, Paged
from regproxy.admin.replies import Problem
from regproxy.cache.pins import PinError, parse, parse_registry
from regproxy.core.errors import StoreError
from regproxy.inventory.blobs import Blob, BlobFilter, BlobUse, blob, blobs
from regproxy.inventory.details import Details, NotHeld, Tag, details, tag
from regproxy.inventory.images import Image, ImageFilter, Position, images
from regproxy.inventory.reading import IndexReader
from regproxy.inventory.totals import CacheTotals, Usage, repositories, totals
from regproxy.registry.targets import is_digest

Seconds = Annotated[float, Meta(gt=0, description="only what was last used more than this many seconds ago")]
Registry = Annotated[str, Meta(max_length=300, description="of this registry alone, such as docker.io")]
Repository = Annotated[str, Meta(max_length=512, description="of this repository alone")]
Pinned = Annotated[bool, Meta(description="only what is pinned")]
NeverHit = Annotated[bool, Meta(description="only what has served no request since it was stored")]
Reverse = Annotated[bool, Meta(description="in reverse order")]

_BYTES_MAX = (1 << 63) - 1  # what the index takes for a number

_GONE = {404: "it is not in the cache", 503: "the index can't be read now"}
_BUSY = {503: "the index can't be read now"}


class ImageQuery(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images are listed."""

    name: Annotated[str, Meta(max_length=512, description="part of registry/repository:tag")] = ""
    registry: Registry = ""
    repository: Repository = ""
    sort: Annotated[
        Literal["name", "size", "used"],
        Meta(description="by size or last use: the largest or latest first, and only what is held"),
    ] = "name"
    reverse: Reverse = False
    older_than: Seconds | None = None
    never_hit: NeverHit = False
    pinned: Pinned = False


class BlobQuery(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which contents are listed."""

    sort: Annotated[
        Literal["digest", "size", "used"],
        Meta(description="by size or last use: the largest or latest first"),
    ] = "digest"
    reverse: Reverse = False
    older_than: Seconds | None = None
    at_least: Annotated[int, Meta(ge=0, le=_BYTES_MAX, description="bytes")] = 0
    never_hit: NeverHit = False
    pinned: Pinned = False
    manifests: Annotated[bool, Meta(description="only manifests and indexes")] = False


class RepositoryQuery(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which repositories are listed."""

    registry: Registry = ""


class Inventory:
    """The endpoints that read. `reader`: of the index."""

    def __init__(self, reader: IndexReader) -> None:
        self._reader = reader

    @get("/api/v1/images", thread=True, problems=_BUSY)
    def list_images(self, call: Call[ImageQuery, None]) -> Page[Image]:
        """Return a page of the images in the cache.

        An image is a tag and a digest that it has or had. Its size is that of all that it names.
        """
        asked = call.query
        wanted = ImageFilter(
            name=asked.name,
            place=_place(asked.registry),
            repository=asked.repository,
            pinned=asked.pinned,
            unused_since=_since(asked.older_than),
            never_hit=asked.never_hit,
        )
        start = call.position()
        with _Told():
            page = images(
                *(self._reader, wanted),
                order=asked.sort,
                reverse=asked.reverse,
                start=start,
                limit=asked.limit,
            )
        return Page(items=page.items, next=_next(call, page.next))

    @get("/api/v1/images/{name}", thread=True, problems=_GONE)
    def show_image(self, call: Call[None, None]) -> Details:
        """Return one image, by its name or digest, with all that it names.

        The name is percent-encoded: `registry.k8s.io%2Fpause:3.9`.
        """
        with _Told():
            return details(self._reader, call.path["name"])

    @get("/api/v1/tags/{name}", thread=True, problems=_GONE)
    def show_tag(self, call: Call[None, None]) -> Tag:
        """Return what a tag is, what it was, and since when.

        The history is kept for tags for which a rule wants a digest to have been known for some time.
        """
        with _Told():
            reference = parse(call.path["name"])
            if not reference.tag:
                raise Problem(400, "name: a tag is wanted, not a digest", field="name")
            return tag(self._reader, reference)

    @get("/api/v1/blobs", thread=True, problems=_BUSY)
    def list_blobs(self, call: Call[BlobQuery, None]) -> Page[Blob]:
        """Return a page of the objects in the cache."""
        asked = call.query
        wanted = BlobFilter(
            pinned=asked.pinned,
            never_hit=asked.never_hit,
            unused_since=_since(asked.older_than),
            at_least=asked.at_least,
            manifests=asked.manifests,
        )
        start = call.position()
        with _Told():
            page = blobs(
                *(self._reader, wanted),
                order=asked.sort,
                reverse=asked.reverse,
                start=start,
                limit=asked.limit,
            )
        return Page(items=page.items, next=_next(call, page.next))

    @get("/api/v1/blobs/{digest}", thread=True, problems=_GONE)
    def show_blob(self, call: Call[None, None]) -> BlobUse:
        """Return one content: the images that it belongs to, and where it came from."""
        digest = call.path["digest"]
        if not is_digest(digest):
            raise Problem(400, "digest: sha256: and 64 hex digits", field="digest")
        with _Told():
            found = blob(self._reader, digest)
        if found is None:
            raise Problem(404, f"{digest} is not in the cache")
        return found

    @get("/api/v1/repositories", thread=True, problems=_BUSY)
    def list_repositories(self, call: Call[RepositoryQuery, None]) -> Page[Usage]:
        """Return a page of the repositories, with what is held of each.

        What several have counts for each.
        """
        asked, start = call.query, call.position()
        with _Told():
            place = _place(asked.registry)
            page = repositories(self._reader, place=place, start=start, limit=asked.limit)
        return Page(items=page.items, next=_next(call, page.next))

    @get("/api/v1/totals", thread=True, problems=_BUSY)
    def cache_totals(self, call: Call[None, None]) -> CacheTotals:
        """Return how many contents there are, and their bytes, each once."""
        with _Told():
            return totals(self._reader)


def _place(registry: str) -> tuple[str, int] | None:
    try:
        return parse_registry(registry) if registry else None
    except PinError as error:
        raise Problem(400, str(error), field="registry") from None


def _since(older_than: float | None) -> float | None:
    return time.time() - older_than if older_than is not None else None


def _next(call: Call[Any, None], position: Position | None) -> str | None:
    return call.next(*position) if position is not None else None


class _Told:
    """Turns errors into problems."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PinError):
            raise Problem(400, str(error)) from None
        if isinstance(error, NotHeld):
            raise Problem(404, str(error)) from None
        if isinstance(error, StoreError):
            raise Problem(503, str(error)) from None
