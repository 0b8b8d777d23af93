"""List what a manifest or index names (OCI image spec, "Content Descriptors"; Docker's schema 1 and 2)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from msgspec import Struct, field

from regproxy.registry.manifests import is_media_type
from regproxy.registry.targets import is_digest

NAMED_MAX: Final = 512  # of each kind; an image has some dozens, and nothing here grows with what is pushed
_SIZE_MAX: Final = 1 << 50  # bytes
# Of GOOS, GOARCH and variants. Anything else is not passed on: not to a terminal, which would obey it, nor
# to the index, which takes no half of a surrogate pair.
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,63}")


class Named(Struct, frozen=True):
    """The digests that a manifest names. `children`: an index's manifests, with their platform, "" without.

    `blobs`: config and layers. `whole`: these are all; False: there are more than NAMED_MAX of a kind.
    """

    children: Mapping[str, str] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()
    whole: bool = True


class Descriptor(Struct, frozen=True):
    """An entry of a manifest: a `manifest`, a `config` or a `layer`. `size`: bytes, 0 where none is told."""

    digest: str
    kind: str
    size: int
    media_type: str
    platform: str


def described(body: bytes) -> tuple[Descriptor, ...]:
    """Return the entries of a manifest, each digest once, NAMED_MAX of a kind at most; () for what is none.

    What `subject` names does not belong to it.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(document, dict):
        return ()
    found: dict[str, Descriptor] = {}
    for entry in islice(_entries(document.get("manifests")), NAMED_MAX):
        found.setdefault(entry["digest"], _descriptor(entry, "manifest"))
    config = document.get("config")
    for entry in islice(_blobs(document), NAMED_MAX):
        kind = "config" if entry is config else "layer"
        found.setdefault(entry["digest"], _descriptor(entry, kind))
    return tuple(found.values())


def _descriptor(entry: dict[str, Any], kind: str) -> Descriptor:
    size, media_type = entry.get("size"), entry.get("mediaType")
    return Descriptor(
        entry["digest"],
        kind,
        size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < _SIZE_MAX else 0,
        media_type if isinstance(media_type, str) and is_media_type(media_type) else "",
        platform(entry.get("platform")),
    )


def named(body: bytes) -> Named:
    """Return what the bytes of a manifest name; nothing where they are none."""
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return Named()
    if not isinstance(document, dict):
        return Named()
    children: dict[str, str] = {}
    for entry in _entries(document.get("manifests")):
        children.setdefault(entry["digest"], platform(entry.get("platform")))
        if len(children) > NAMED_MAX:
            break
    blobs: set[str] = set()
    for entry in _blobs(document):
        blobs.add(entry["digest"])
        if len(blobs) > NAMED_MAX:
            break
    whole = len(children) <= NAMED_MAX and len(blobs) <= NAMED_MAX
    return Named(children, frozenset(blobs), whole)


def platform(told: object) -> str:
    """Return a descriptor's platform as `docker --platform` takes it: linux/arm64/v8; "" for none.

    `unknown/unknown` is none: so BuildKit marks manifests that are no images (attestations). So is one with a
    part that is no name.
    """
    if not isinstance(told, dict):
        return ""
    parts = [told.get(name) for name in ("os", "architecture", "variant")]
    texts = [part for part in parts if isinstance(part, str) and part]
    good = all(map(_PART.fullmatch, texts))
    return "/".join(texts) if good and not set(texts) <= {"unknown"} else ""


def platform_matches(told: str, wished: str) -> bool:
    """Return whether a descriptor's platform is the wished one: `linux/arm64` is any variant of it."""
    return told == wished or (wished.count("/") == 1 and told.startswith(f"{wished}/"))


def _blobs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _entries([document.get("config")])
    yield from _entries(document.get("layers"))
    yield from _entries(document.get("blobs"))  # artifact manifests
    layers = document.get("fsLayers")  # schema 1
    if isinstance(layers, list):
        yield from _entries([{"digest": each.get("blobSum")} for each in layers if isinstance(each, dict)])


def _entries(told: object) -> Iterator[dict[str, Any]]:
    """Yield the descriptors of a list; anything else in it is left out."""
    for entry in told if isinstance(told, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("digest"), str) and is_digest(entry["digest"]):
            yield entry
