"""Write images from the cache into an image layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from regproxy.bundles.oci_layout import (
    INDEX_FILE,
    VERSION_FILE,
    BundleError,
    LayoutEntry,
    index_text,
    version_text,
)
from regproxy.bundles.writing import LayoutWriter
from regproxy.cache import layout, reconcile
from regproxy.cache.index.index import Index
from regproxy.cache.pins import PinError, Reference, parse
from regproxy.inventory.catalog import body_of
from regproxy.registry.descriptors import described, platform_matches
from regproxy.registry.manifests import INDEX_TYPES, media_type_of
from regproxy.tags.rows import is_former


@dataclass(slots=True)
class Exported:
    """An image that was written, or `error`: why not. `missing`: how many of the contents that it names are
    not in the cache, or are for platforms that were not wished.
    """

    name: str
    digest: str = ""
    objects: int = 0
    bytes: int = 0
    missing: int = 0
    error: str = ""
    contents: dict[str, int] = field(default_factory=dict, repr=False)


def plan(
    root: Path, index: Index, names: Iterable[str], platforms: tuple[str, ...] = ()
) -> Iterator[Exported]:
    """Yield what there is of each image, `contents` with their sizes; nothing is written.

    `platforms`: of an index, only these (`linux/amd64`); () is all that are held.
    """
    for name in names:
        try:
            yield _planned(root, index, parse(name), platforms)
        except (PinError, BundleError) as error:
            yield Exported(name, error=str(error))


def export(root: Path, images: Iterable[Exported], writer: LayoutWriter) -> list[LayoutEntry]:
    """Write planned images that have no error; return what index.json has of them.

    Raises BundleError where a content is damaged or has gone meanwhile, and OSError.
    """
    entries: list[LayoutEntry] = []
    with writer:
        writer.file(VERSION_FILE, version_text())
        for image in images:
            if not image.error:
                for digest, size in image.contents.items():
                    _write(root, digest, size, writer)
                entries.append(_entry(root, image))
        # Last: without it, it is no layout yet.
        writer.file(INDEX_FILE, index_text(entries))
    return entries


def _write(root: Path, digest: str, size: int, writer: LayoutWriter) -> None:
    if writer.has(digest, size):
        return
    try:
        with Path(layout.blob(root, digest)).open("rb") as file:
            writer.blob(digest, size, file)
    except FileNotFoundError:
        raise BundleError(f"{digest} was removed from the cache meanwhile: try again, or pin it") from None


def _entry(root: Path, image: Exported) -> LayoutEntry:
    reference = parse(image.name)
    media_type = media_type_of(body_of(root, image.digest))
    return LayoutEntry(image.digest, media_type, image.contents[image.digest], reference.name, reference.tag)


def _planned(root: Path, index: Index, reference: Reference, platforms: tuple[str, ...]) -> Exported:
    if not reference.host:
        raise BundleError(f"{reference.name}: an image needs a name: registry/repository@sha256:...")
    digest = reference.digest or _digest_of(root, index, reference)
    image = Exported(reference.name, digest)
    body = body_of(root, digest)
    media_type = media_type_of(body)
    if not media_type:
        raise BundleError(f"{reference.name} is not in the cache")
    if media_type in INDEX_TYPES:
        _add(root, image, digest)
        _plan_index(root, image, body, platforms)
    elif not _plan_manifest(root, image, digest):
        raise BundleError(f"{reference.name}: {image.missing} of its blobs are not in the cache")
    image.objects, image.bytes = len(image.contents), sum(image.contents.values())
    return image


def _plan_index(root: Path, image: Exported, body: bytes, platforms: tuple[str, ...]) -> None:
    """Add the wished platforms of an index that are held with all that they name."""
    whole = 0
    entries = [each for each in described(body) if each.kind == "manifest"]
    for entry in entries:
        wished = not platforms or any(platform_matches(entry.platform, each) for each in platforms)
        if wished and _plan_manifest(root, image, entry.digest):
            whole += 1
        elif not wished:
            image.missing += 1
    if not whole:
        wishes = f" for {', '.join(platforms)}" if platforms else ""
        raise BundleError(f"{image.name}: no image{wishes} in it is in the cache with all that it names")


def _plan_manifest(root: Path, image: Exported, digest: str) -> bool:
    """Add a manifest and what it names; False: not all of that is held, and nothing was added."""
    body = body_of(root, digest)
    if not media_type_of(body):
        image.missing += 1
        return False
    named = [each.digest for each in described(body)]
    gone = [each for each in named if reconcile.look(root, each) is None]
    if gone:
        image.missing += len(gone)
        return False
    for each in (digest, *named):
        _add(root, image, each)
    return True


def _add(root: Path, image: Exported, digest: str) -> None:
    status = reconcile.look(root, digest)
    if status is None:
        raise BundleError(f"{digest} was removed from the cache meanwhile")
    image.contents[digest] = status.st_size


def _digest_of(root: Path, index: Index, reference: Reference) -> str:
    """Return what a tag is: the newest that is held, and an index before one of its images."""
    rows = index.tag(reference.host, reference.port, reference.repository, reference.tag)
    held = [row for row in rows if reconcile.look(root, row.digest) is not None]
    if not held:
        raise BundleError(f"{reference.name} is not in the cache")
    current = [row for row in held if not is_former(row)] or held
    best = max(current, key=lambda row: (row.media_type in INDEX_TYPES, row.fetched_at))
    return best.digest
