"""Read what is stored, and enter in the index what is a manifest, what it names, and for which platform.

The janitor does that a moment after something was stored, so that no client's request pays for it. The index
remembers what has not been read: also after an upgrade, and when it was made anew from the blobs.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from regproxy.cache import layout
from regproxy.cache.index.index import Index
from regproxy.cache.index.rows import Catalogued, Link
from regproxy.core.errors import BadResponse
from regproxy.registry.descriptors import described, platform
from regproxy.registry.manifests import MANIFEST_MAX, manifest_type

PIECE: Final = 32  # objects that are read for one transaction
_LOOK: Final = 64  # bytes; what does not begin as JSON does is not read to its end


def catalogue(root: Path, index: Index, most: int = PIECE) -> int:
    """Read up to `most` objects, enter at least one; return how many were read. 0: nothing is left.

    Raises StoreError.
    """
    digests = index.uncatalogued(most)
    if digests:
        index.catalogue(read(root, digest) for digest in digests)
    return len(digests)


def read(root: Path, digest: str) -> Catalogued:
    """Return what an object is, by its bytes."""
    body = body_of(root, digest)
    try:
        media_type = manifest_type(body).media_type
    except BadResponse:
        return Catalogued(digest, platform=_platform(body))
    entries = described(body)
    links = tuple(Link(each.digest, each.kind, each.size, each.platform) for each in entries)
    config = next((each.digest for each in entries if each.kind == "config"), "")
    return Catalogued(digest, media_type, _platform(body_of(root, config)) if config else "", links)


def body_of(root: Path, digest: str) -> bytes:
    """Return the bytes of a stored object that may be a manifest or a configuration; b"" for any other."""
    with suppress(OSError), Path(layout.blob(root, digest)).open("rb") as file:
        start = file.read(_LOOK)
        if start.lstrip()[:1] == b"{":
            body = start + file.read(MANIFEST_MAX + 1)
            return body if len(body) <= MANIFEST_MAX else b""
    return b""


def _platform(body: bytes) -> str:
    """Return the platform that an image's configuration names (OCI image spec, "config.md"), "" for none."""
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return ""
    return platform(document)
