"""Take images from an image layout into the cache.

Contents are stored as they come, each verified, so an archive may be a stream; the names are entered at the
end, when all that they name is there. Content becomes known in the repository that a name says, as if it had
been fetched from there now. Nobody has been let in by that: where access is `verified`, it is found out for
each client as always. A layout's word counts for content that it brings itself: what it only names, and the
cache has from elsewhere, is not known in that repository by it.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from msgspec import Struct, field

from regproxy.bundles.archive import members
from regproxy.bundles.oci_layout import (
    INDEX_FILE,
    INDEX_MAX,
    VERSION_FILE,
    BundleError,
    LayoutEntry,
    check_version,
    digest_of_member,
    entries_of,
)
from regproxy.bundles.writing import Verified
from regproxy.cache import layout, reconcile
from regproxy.cache.index.index import Index, TagRow
from regproxy.cache.pins import PinError, Reference, parse
from regproxy.core import file_lock
from regproxy.core.errors import BadResponse, StoreError
from regproxy.core.named_file import read_file
from regproxy.inventory.catalog import body_of
from regproxy.registry.accept import bits_above
from regproxy.registry.descriptors import described
from regproxy.registry.manifests import check_manifest, manifest_type

_CHUNK: Final = 1 << 20  # bytes


class Imported(Struct, frozen=True):
    """An image of a layout, or `error`: why it was not taken. `missing`: contents that it names, and that
    neither the layout nor the cache has, as those of other platforms.
    """

    name: str
    digest: str
    objects: int = 0
    missing: int = 0
    error: str = ""


class Import(Struct):
    """The result. `stored`, `bytes`: contents that were not in the cache; `skipped`: those that were."""

    images: list[Imported] = field(default_factory=list)
    stored: int = 0
    skipped: int = 0
    bytes: int = 0


class Importer:
    """Takes one layout into the cache at `root`. `on_bytes`: told of each piece that has been read.

    `room`: bytes that the cache may hold, 0: no limit. More is refused: a small compressed archive may have
    very much in it, for which all else would be evicted.
    """

    def __init__(
        self, root: Path, index: Index, on_bytes: Callable[[int], None] = lambda size: None, room: int = 0
    ) -> None:
        self._room = room
        self._root = root
        self._index = index
        self._on_bytes = on_bytes
        self._came: set[str] = set()
        self.result = Import()

    def run(self, source: str, stream: IO[bytes], name: str = "") -> Import:
        """Take the layout at a path, a directory or a tar archive (also compressed); `-`: from `stream`.

        `name`: of the one image in it, in place of its own. Raises BundleError, StoreError, OSError.
        """
        try:
            contents = self._from_directory(Path(source)) if self._is_directory(source) else None
            if contents is None:
                contents = self._from_tar(source, stream)
        except tarfile.TarError as error:
            raise BundleError(f"{source}: it is no tar archive that can be used: {error}") from None
        entries = entries_of(contents)
        if name and len(entries) != 1:
            raise BundleError(f"--name is for a layout of one image; {source} has {len(entries)}")
        for entry in entries:
            self.result.images.append(self._enter(entry, name))
        if not self._index.flush():
            raise StoreError("index: what was imported is not written yet")
        return self.result

    @staticmethod
    def _is_directory(source: str) -> bool:
        return source != "-" and Path(source).is_dir()

    # --- contents ----------------------------------------------------------------------------------------

    def _from_directory(self, place: Path) -> bytes:
        """Store a directory's contents; return its index.json."""
        text = _file(place / INDEX_FILE)
        check_version(_file(place / VERSION_FILE))
        with os.scandir(place / "blobs" / "sha256") as listed:
            for each in listed:
                digest = digest_of_member(f"blobs/sha256/{each.name}")
                if digest and each.is_file(follow_symlinks=False):
                    with Path(each.path).open("rb") as file:
                        self._take(digest, os.fstat(file.fileno()).st_size, file)
        return text

    def _from_tar(self, source: str, stream: IO[bytes]) -> bytes:
        """Store an archive's contents in the order in which they come; return its index.json."""
        text = version = None
        for path, size, file in members(source, stream):
            name = path.removeprefix("./")
            if name in (INDEX_FILE, VERSION_FILE):
                if size > INDEX_MAX:
                    raise BundleError(f"{name}: {size} bytes; {INDEX_MAX} at most")
                content = file.read()
                text, version = (content, version) if name == INDEX_FILE else (text, content)
            elif digest := digest_of_member(name):
                self._take(digest, size, file)
        if text is None or version is None:
            raise BundleError(f"{source}: it has no {INDEX_FILE if text is None else VERSION_FILE}")
        check_version(version)
        return text

    def _take(self, digest: str, size: int, source: IO[bytes]) -> None:
        """Store content, unless it is held. Raises BundleError where it is not what its digest says."""
        held = reconcile.look(self._root, digest)
        if held is not None and held.st_size == size:
            # Read nevertheless: who only knows a digest does not have the content.
            verified = Verified(source, size, self._on_bytes)
            while verified.read(_CHUNK):
                pass
            verified.check(digest)
            self.result.skipped += 1
        else:
            if 0 < self._room < self.result.bytes + size:
                raise BundleError(f"its blobs have more than the {self._room} bytes of CACHE_MAX_SIZE")
            self._store(digest, size, source)
            self.result.stored += 1
            self.result.bytes += size
        self._came.add(digest)

    def _store(self, digest: str, size: int, source: IO[bytes]) -> None:
        part = layout.anonymous_part(self._root)
        part.parent.mkdir(exist_ok=True)
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            file_lock.lock(fd)  # what is locked is nobody's to sweep
            verified = Verified(source, size, self._on_bytes)
            while data := verified.read(_CHUNK):
                _write_all(fd, data)
            verified.check(digest)
            os.fdatasync(fd)
            final = Path(layout.blob(self._root, digest))
            final.parent.mkdir(parents=True, exist_ok=True)
            part.rename(final)
            self._index.adopt([reconcile.row_of(digest, os.fstat(fd))])
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    # --- names -------------------------------------------------------------------------------------------

    def _enter(self, entry: LayoutEntry, name: str) -> Imported:
        try:
            reference = _reference(entry, name)
            body = body_of(self._root, entry.digest)
            media_type = check_manifest(body, entry.media_type)
            if entry.digest not in self._came:
                raise BundleError("the layout names it, and does not have it")
        except (PinError, BundleError, BadResponse) as error:
            return Imported(name or entry.name or entry.tag, entry.digest, error=str(error))
        contents = dict(self._closure(entry.digest, body))
        sizes = {digest: self._size(digest) for digest, came in contents.items() if came}
        there = {digest: size for digest, size in sizes.items() if size is not None}
        for digest, size in there.items():
            self._index.put_presence(reference.host, reference.port, reference.repository, digest, size)
        self._enter_types(reference, there, media_type, entry.digest)
        if reference.tag:
            named = bits_above(media_type)
            now = time.time()
            row = TagRow(f"{media_type} {named}", entry.digest, media_type, len(body), now, named)
            self._index.put_tag(reference.host, reference.port, reference.repository, reference.tag, row)
        return Imported(reference.name, entry.digest, len(there), len(contents) - len(there))

    def _size(self, digest: str) -> int | None:
        """Return the size of content that was stored; None: it was evicted meanwhile."""
        held = reconcile.look(self._root, digest)
        return held.st_size if held is not None else None

    def _closure(self, digest: str, body: bytes) -> Iterator[tuple[str, bool]]:
        """Yield all that a manifest names, and whether the layout has brought it."""
        yield digest, True
        for entry in described(body):
            came = entry.digest in self._came
            yield entry.digest, came
            if came and entry.kind == "manifest":
                below = body_of(self._root, entry.digest)
                for child in described(below):
                    yield child.digest, child.digest in self._came

    def _enter_types(self, place: Reference, there: Iterable[str], media_type: str, root: str) -> None:
        """Enter the types of manifests whose bytes do not state them."""
        for digest in there:
            with suppress(BadResponse):
                body = body_of(self._root, digest)
                found = manifest_type(body)
                if not found.stated:
                    told = media_type if digest == root else found.media_type
                    self._index.put_told(place.host, place.port, place.repository, digest, told, len(body))


def _reference(entry: LayoutEntry, name: str) -> Reference:
    text = name or entry.name or (entry.tag if "/" in entry.tag else "")
    if not text:
        tag = f" (it is tagged {entry.tag})" if entry.tag else ""
        raise BundleError(
            f"{entry.digest} has no full name{tag}: --name registry/repository:tag gives it one"
        )
    reference = parse(text)
    if not reference.host:
        raise BundleError(f"{text}: registry/repository:tag is wanted")
    if reference.digest and reference.digest != entry.digest:
        raise BundleError(f"{text}: it is {entry.digest}")
    return reference


def _file(path: Path) -> bytes:
    try:
        return read_file(path, INDEX_MAX)
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file, so this is no image layout") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
