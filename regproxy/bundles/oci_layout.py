"""Define what an image layout consists of (OCI image spec, "image-layout.md"), and read its index.

oci-layout                   the version
index.json                   the images, each with its name in annotations
blobs/sha256/<64 hex>        contents, manifests included

Docker and containerd write the tag as ref.name, and the full name beside it; so does this.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from msgspec import Struct

from regproxy.core.errors import RegproxyError
from regproxy.registry.manifests import is_media_type
from regproxy.registry.targets import is_digest

VERSION_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
VERSION: Final = "1.0.0"
REF_NAME: Final = "org.opencontainers.image.ref.name"
FULL_NAME: Final = "io.regproxy.image.name"  # registry/repository:tag, or ...@sha256:...
CONTAINERD_NAME: Final = "io.containerd.image.name"

INDEX_MAX: Final = 64 * 1024 * 1024  # bytes of index.json
_BLOB: Final = re.compile(r"(?:\./)?blobs/sha256/([0-9a-f]{64})")


class BundleError(RegproxyError):
    """A layout that can't be written, or can't be used: says why."""


class LayoutEntry(Struct, frozen=True):
    """An image in index.json. `name`: the full one, "" where it has none; `tag`: its ref.name."""

    digest: str
    media_type: str
    size: int
    name: str
    tag: str = ""


def version_text() -> bytes:
    """Return the content of oci-layout."""
    return json.dumps({"imageLayoutVersion": VERSION}).encode()


def index_text(entries: list[LayoutEntry]) -> bytes:
    """Return the content of index.json."""
    manifests = [
        {
            "mediaType": each.media_type,
            "digest": each.digest,
            "size": each.size,
            "annotations": {
                **({REF_NAME: each.tag} if each.tag else {}),
                FULL_NAME: each.name,
                CONTAINERD_NAME: each.name,
            },
        }
        for each in entries
    ]
    media_type = "application/vnd.oci.image.index.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    return json.dumps(document, indent=1).encode()


def check_version(text: bytes) -> None:
    """Raise BundleError where this is no oci-layout file of a version that is known."""
    version = _object(text, VERSION_FILE).get("imageLayoutVersion")
    if not isinstance(version, str) or version.split(".")[0] != "1":
        raise BundleError(f"{VERSION_FILE}: unknown version {version!r}; it should be {VERSION}")


def entries_of(text: bytes) -> list[LayoutEntry]:
    """Return the images of an index.json. Raises BundleError."""
    listed = _object(text, INDEX_FILE).get("manifests")
    if not isinstance(listed, list):
        raise BundleError(f"{INDEX_FILE}: it has no list of manifests")
    return [_entry(each) for each in listed]


def _entry(told: Any) -> LayoutEntry:
    digest = told.get("digest") if isinstance(told, dict) else None
    if not isinstance(digest, str) or not is_digest(digest):
        raise BundleError(f"{INDEX_FILE}: an entry without a sha256 digest")
    media_type, size = told.get("mediaType"), told.get("size")
    annotations = told.get("annotations")
    notes = annotations if isinstance(annotations, dict) else {}
    names = [notes.get(key) for key in (FULL_NAME, CONTAINERD_NAME, REF_NAME)]
    full, containerd, tag = (each if isinstance(each, str) else "" for each in names)
    return LayoutEntry(
        digest,
        media_type if isinstance(media_type, str) and is_media_type(media_type) else "",
        size if isinstance(size, int) else 0,
        full or containerd,
        tag,
    )


def digest_of_member(name: str) -> str:
    """Return the digest of a blob's path in a layout, "" for any other path."""
    match = _BLOB.fullmatch(name)
    return f"sha256:{match[1]}" if match is not None else ""


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(f"{what}: not valid JSON") from None
    if not isinstance(document, dict):
        raise BundleError(f"{what}: not a JSON object")
    return document
