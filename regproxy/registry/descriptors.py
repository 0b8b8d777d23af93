"""List what a manifest or index names (OCI image spec, "Content Descriptors"; Docker's schema 1 and 2)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from regproxy.registry.targets import is_digest

NAMED_MAX: Final = 512  # of each kind; an image has some dozens, and nothing here grows with what is pushed
_PART_MAX: Final = 64  # characters of a platform's parts


@dataclass(frozen=True, slots=True)
class Named:
    """The digests that a manifest names. `children`: an index's manifests, with their platform, "" without.

    `blobs`: config and layers. `whole`: these are all; False: there are more than NAMED_MAX of a kind.
    """

    children: Mapping[str, str] = field(default_factory=dict)
    blobs: frozenset[str] = frozenset()
    whole: bool = True


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

    `unknown/unknown` is none: so BuildKit marks manifests that are no images (attestations).
    """
    if not isinstance(told, dict):
        return ""
    parts = [told.get(name) for name in ("os", "architecture", "variant")]
    texts = [part[:_PART_MAX] for part in parts if isinstance(part, str) and part]
    return "" if set(texts) <= {"unknown"} else "/".join(texts)


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
