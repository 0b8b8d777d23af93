"""`regproxy cache list`: the images in the cache, or all blobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import Cache, opened, parsed_age, place_of
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_columns, show_json_list, time_text
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.inventory.blobs import Blob, BlobFilter
    from regproxy.inventory.blobs import Order as BlobOrder
    from regproxy.inventory.images import Image, ImageFilter
    from regproxy.inventory.reading import IndexReader

_PAGE = 500


class Sort(StrEnum):
    """What a list is sorted by."""

    NAME = "name"
    SIZE = "size"
    USED = "used"


_BLOB_ORDERS: dict[Sort, BlobOrder] = {Sort.NAME: "digest", Sort.SIZE: "size", Sort.USED: "used"}

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Part of registry/repository:tag.")]
BlobsOption = Annotated[bool, typer.Option("--blobs", help="List all blobs by digest instead of images.")]
RegistryOption = Annotated[
    str, typer.Option("--registry", help="Only images of this registry, such as ghcr.io.")
]
RepositoryOption = Annotated[str, typer.Option("--repository", help="Only images of this repository.")]
SortOption = Annotated[Sort, typer.Option("--sort", help="Sort by name (or digest), size or last use.")]
ReverseOption = Annotated[bool, typer.Option("--reverse", "-r", help="Reverse the order.")]
UnusedOption = Annotated[
    str, typer.Option("--older-than", metavar="TIME", help="Last used longer ago than this, e.g. 30d.")
]
HitOption = Annotated[
    bool, typer.Option("--never-hit", help="Only what has never been served from the cache.")
]
PinnedOption = Annotated[bool, typer.Option("--pinned", help="Only pinned ones.")]
LimitOption = Annotated[
    int, typer.Option("--limit", "-n", min=0, help="Maximum number of rows; 0 for no limit.")
]


def list_images(
    name: NameArgument = "",
    blobs: BlobsOption = False,
    registry: RegistryOption = "",
    repository: RepositoryOption = "",
    sort: SortOption = Sort.NAME,
    reverse: ReverseOption = False,
    older_than: UnusedOption = "",
    never_hit: HitOption = False,
    pinned: PinnedOption = False,
    limit: LimitOption = 0,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List images with their total size, how much of that is cached, and when they were last used.

    Sorted by size or use, the largest or the most recent comes first. Exit code 0 even if there are none;
    2: the cache can't be used.
    """
    from regproxy.inventory.blobs import BlobFilter
    from regproxy.inventory.images import ImageFilter
    from regproxy.inventory.reading import index_reader

    if blobs and (name or registry or repository):
        raise typer.BadParameter("--blobs lists all blobs; a name, --registry and --repository select images")
    age = parsed_age(older_than)
    since = time.time() - age if age else None
    with opened(config) as cache, index_reader(cache.root) as reader:
        _catch_up(cache)
        if blobs:
            wanted = BlobFilter(pinned=pinned, never_hit=never_hit, unused_since=since)
            _show_blobs(_all_blobs(reader, wanted, sort, reverse, limit), as_json)
        else:
            place = place_of(registry)
            chosen = ImageFilter(name, place, repository, pinned, since, never_hit)
            _show_images(_all_images(reader, chosen, sort, reverse, limit), as_json)


def _catch_up(cache: Cache) -> None:
    """Read what the janitor has not, as where no proxy runs; some seconds of it."""
    from regproxy.inventory.catalog import catalogue

    ends = time.monotonic() + 5.0
    while catalogue(cache.root, cache.index) and time.monotonic() < ends:
        pass


def _all_images(
    reader: IndexReader, wanted: ImageFilter, sort: Sort, reverse: bool, limit: int
) -> Iterator[Image]:
    from regproxy.inventory.images import images

    left, start = limit, None
    while True:
        size = min(left, _PAGE) if limit else _PAGE
        page = images(reader, wanted, order=sort.value, reverse=reverse, start=start, limit=size)
        yield from page.items
        left, start = left - len(page.items), page.next
        if start is None or (limit and left <= 0):
            return


def _all_blobs(
    reader: IndexReader, wanted: BlobFilter, sort: Sort, reverse: bool, limit: int
) -> Iterator[Blob]:
    from regproxy.inventory.blobs import blobs

    left, start = limit, None
    order = _BLOB_ORDERS[sort]
    while True:
        size = min(left, _PAGE) if limit else _PAGE
        page = blobs(reader, wanted, order=order, reverse=reverse, start=start, limit=size)
        yield from page.items
        left, start = left - len(page.items), page.next
        if start is None or (limit and left <= 0):
            return


def _show_images(found: Iterator[Image], as_json: bool) -> None:
    if as_json:
        show_json_list("images", found)
        return
    head = ("IMAGE", "DIGEST", "SIZE", "HELD", "PLATFORMS", "LAST USED")
    if not show_columns(head, map(_image_row, found), right=(2, 3)):
        say("nothing found", err=True)


def _image_row(image: Image) -> tuple[str, ...]:
    content = image.content
    held = "all" if content.whole else size_text(content.held_bytes) if content.stored else "no"
    marks = " (pinned)" if content.pinned else ""
    marks += "" if image.current else " (former)"
    return (
        image.name + marks,
        image.digest[7:19],
        size_text(content.size),
        held,
        ",".join(content.platforms) or "-",
        time_text(content.last_used),
    )


def _show_blobs(found: Iterator[Blob], as_json: bool) -> None:
    if as_json:
        show_json_list("blobs", found)
        return
    head = ("DIGEST", "SIZE", "HITS", "LAST USED", "MEDIA TYPE")
    if not show_columns(head, map(_blob_row, found), right=(1, 2)):
        say("nothing found", err=True)


def _blob_row(blob: Blob) -> tuple[str, ...]:
    digest = blob.digest + (" (pinned)" if blob.pinned else "")
    return digest, size_text(blob.size), str(blob.hits), time_text(blob.last_used), blob.media_type or "-"
