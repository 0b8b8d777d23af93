"""Images in a cache directory, as a proxy that has pulled them leaves them."""

from __future__ import annotations

from pathlib import Path

from regproxy.cache.index.index import Index, TagRow
from regproxy.cache.pins import parse
from regproxy.inventory.catalog import catalogue
from regproxy.registry.accept import bits_above
from tests.support.images import Image
from tests.support.images import Index as ImageIndex
from tests.support.stocked_cache import Stock


def bodies(image: Image | ImageIndex) -> dict[str, bytes]:
    """Return all contents of an image by their digests."""
    found = {image.digest: image.manifest, **{each.digest: each.manifest for each in image.images}}
    return found | dict(image.blobs)


def everything(image: Image | ImageIndex) -> set[str]:
    """Return the digests of all that belongs to an image."""
    return set(bodies(image))


def put(
    stock: Stock,
    name: str,
    image: Image | ImageIndex,
    *,
    idle: float = 0.0,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
) -> str:
    """Enter an image under a name, `repository:tag` or `repository@sha256:...`; return its digest."""
    place = parse(name)
    known = stock.rows()
    for digest, body in bodies(image).items():
        if digest in without or (only and digest not in only):
            continue
        if digest not in known:
            stock.blob(body=body, idle=idle)
        stock.index.put_presence(place.host, place.port, place.repository, digest, len(body))
    if place.tag:
        row = tag_row(image)
        stock.index.put_tag(place.host, place.port, place.repository, place.tag, row)
    read_all(stock.root, stock.index)
    return image.digest


def tag_row(image: Image | ImageIndex) -> TagRow:
    """Return the row of a tag that is this image."""
    named = bits_above(image.media_type)
    variant = f"{image.media_type} {named}"
    return TagRow(variant, image.digest, image.media_type, len(image.manifest), 1_000_000.0, named)


def read_all(root: Path, index: Index) -> None:
    """Do what the janitor does a moment after something was stored."""
    assert index.flush()
    while catalogue(root, index):
        pass


def size_of(image: Image | ImageIndex) -> int:
    """Return the bytes of all that belongs to an image."""
    return sum(map(len, bodies(image).values()))
