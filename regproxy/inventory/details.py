"""Show one image or content: all that it names as a tree, what of it is held, its tag's history, its pins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from regproxy.cache import pins, reconcile
from regproxy.cache.index.rows import SEEN
from regproxy.cache.pins import Reference
from regproxy.core.errors import RegproxyError
from regproxy.inventory.blobs import BlobUse, blob
from regproxy.inventory.catalog import body_of
from regproxy.inventory.images import Content, content
from regproxy.inventory.reading import IndexReader
from regproxy.registry.descriptors import Descriptor, described
from regproxy.registry.manifests import MANIFEST_MAX, media_type_of
from regproxy.tags.rows import is_former_variant

NODES_MAX: Final = 2000
BYTES_MAX: Final = 16 << 20  # of manifests that are read for one answer; parsing them holds up other threads
_DEPTH: Final = 4  # an index in an index is rare, and nothing is deeper

_VARIANTS: Final = (
    "SELECT variant, digest, media_type, fetched_at FROM tags"
    " WHERE host = ? AND port = ? AND repository = ? AND tag = ? ORDER BY fetched_at DESC"
)
_SEEN: Final = (
    "SELECT variant, size, fetched_at FROM tags"
    " WHERE host = ? AND port = ? AND repository = ? AND tag = ? ORDER BY fetched_at DESC"
)
_FIRST: Final = "first "


class NotHeld(RegproxyError):
    """What was asked for is not in the cache."""


class Node(Struct, frozen=True):
    """Content, and what it names. `kind`: `manifest`, `config` or `layer`. `size`: bytes, as it is named."""

    digest: str
    kind: str
    media_type: str
    platform: str
    size: int
    held: bool
    children: tuple[Node, ...] = ()


class Variant(Struct, frozen=True):
    """What a tag is for some requests. `current`: the registry has named nothing else since."""

    digest: str
    media_type: str
    fetched_at: float
    current: bool


class Seen(Struct, frozen=True):
    """A digest that was seen under a tag: for the first time, and last. Kept where a rule wants an age."""

    digest: str
    first_at: float
    last_at: float


class Tag(Struct, frozen=True):
    """What is known of a tag."""

    name: str
    variants: tuple[Variant, ...]
    history: tuple[Seen, ...]


class Details(Struct, frozen=True):
    """An image or content. `tag`: None where it was asked for by digest; `use`: None where it is not held.

    `cut`: the tree has more than NODES_MAX nodes, or manifests of more than BYTES_MAX, or one in it names
    more than is listed.
    """

    name: str
    digest: str
    tag: Tag | None
    content: Content
    use: BlobUse | None
    tree: Node
    cut: bool = False


def details(reader: IndexReader, text: str) -> Details:
    """Return what is known of an image or a digest. Raises PinError (it is neither), NotHeld, StoreError."""
    reference = pins.parse(text)
    if reference.digest:
        found, digest = None, reference.digest
    else:
        found = tag(reader, reference)
        digest = found.variants[0].digest
    use = blob(reader, digest)
    if use is None and found is None:
        raise NotHeld(f"{reference.name} is not in the cache")
    with reader.connection() as connection:
        known = content(connection, digest)
    tree = _Tree(reader.root)
    root = tree.node(Descriptor(digest, "manifest" if known.objects > 1 else "content", known.size, "", ""))
    return Details(reference.name, digest, found, known, use, root, tree.cut)


def tag(reader: IndexReader, reference: Reference) -> Tag:
    """Return what is known of a tag, what it is now first. Raises NotHeld, StoreError."""
    place = (reference.host, reference.port, reference.repository)
    with reader.connection() as connection:
        rows = connection.execute(_VARIANTS, (*place, reference.tag)).fetchall()
        seen = connection.execute(_SEEN, (*place, SEEN + reference.tag)).fetchall()
    if not rows:
        raise NotHeld(f"{reference.name} is not in the cache")
    variants = [
        Variant(digest, media_type, at, not is_former_variant(variant))
        for variant, digest, media_type, at in rows
    ]
    variants.sort(key=lambda each: not each.current)
    history = [Seen(variant.removeprefix(_FIRST), first, float(last)) for variant, last, first in seen]
    return Tag(reference.name, tuple(variants), tuple(history))


class _Tree(Struct):
    """Reads manifests from the disk, and what they name, NODES_MAX nodes and BYTES_MAX at most."""

    root: Path
    left: int = NODES_MAX
    bytes_left: int = field(default_factory=lambda: BYTES_MAX)
    cut: bool = False
    _path: set[str] = field(default_factory=set)

    def node(self, entry: Descriptor) -> Node:
        held = reconcile.look(self.root, entry.digest)
        size = held.st_size if held is not None else entry.size
        children: tuple[Node, ...] = ()
        media_type = entry.media_type
        if entry.kind in ("manifest", "content") and self._may_read(held):
            body = body_of(self.root, entry.digest)
            media_type = media_type_of(body) or media_type
            children = tuple(self._children(entry.digest, body)) if media_type_of(body) else ()
        return Node(entry.digest, entry.kind, media_type, entry.platform, size, held is not None, children)

    def _may_read(self, held: os.stat_result | None) -> bool:
        """Return whether content may be a manifest that is to be read; count it."""
        if held is None or held.st_size > MANIFEST_MAX:
            return False
        self.bytes_left -= held.st_size
        self.cut = self.cut or self.bytes_left < 0
        return self.bytes_left >= 0

    def _children(self, digest: str, body: bytes) -> Iterator[Node]:
        if digest in self._path or len(self._path) >= _DEPTH:
            return
        self._path.add(digest)
        for entry in described(body):
            if self.left <= 0:
                self.cut = True
                break
            self.left -= 1
            yield self.node(entry)
        self._path.discard(digest)
