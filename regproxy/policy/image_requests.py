"""Tell which image a request is for, also where its path is none that clients send.

Rules name repositories, and a registry may read a path in more ways than one: what may be a request for
content, and can't be told from, is *odd*, and no rule lets it pass that would refuse something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from regproxy.registry.targets import Kind, Target, is_digest, is_repository

_READS: Final = frozenset({"GET", "HEAD"})
_CONTENT: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})
_IN_REPOSITORY: Final = re.compile(r"/v2/([a-z0-9._/-]+)/(?:manifests|blobs)/[^/%\\]*")
# Lists of names: no content.
_LISTS: Final = re.compile(r"/v2/([a-z0-9._/-]+)/(?:tags/list|referrers/([^/%]*))")
_DECODINGS: Final = 4  # times that a path is decoded, at most


@dataclass(frozen=True, slots=True)
class Place:
    """What a request is for. `repository` None: that can't be told. `odd`: nor can what of it."""

    repository: str | None
    push: bool
    odd: bool


def place_of(method: str, target: Target, path: str) -> Place | None:
    """Return what a request is for; None: for no content, and it changes none.

    `path`: the request's, with its query.
    """
    kind = target.kind
    if method in _READS:
        if kind in _CONTENT:
            return Place(target.repository, False, False)
        if kind is Kind.BLOB_MUTABLE:
            return Place(target.repository, False, True)
        return _odd_place(path, push=False) if kind is Kind.OTHER else None
    if kind is Kind.UPLOAD or kind is Kind.BLOB_MUTABLE or kind in _CONTENT:
        return None if method == "OPTIONS" else Place(target.repository, True, False)
    return _odd_place(path, push=True) if kind is Kind.OTHER and method != "OPTIONS" else None


def _odd_place(path: str, *, push: bool) -> Place | None:
    path = path.partition("?")[0]
    listed = _LISTS.fullmatch(path)
    if listed is not None and is_repository(listed[1]) and (listed[2] is None or is_digest(listed[2])):
        return None
    if not _may_be_content(path):
        return None
    named = _IN_REPOSITORY.fullmatch(path)
    if named is not None and is_repository(named[1]):
        return Place(named[1], push, True)
    return Place(None, push, True)


def _may_be_content(path: str) -> bool:
    for _ in range(_DECODINGS):
        lowered = path.lower()
        if "manifests" in lowered or "blobs" in lowered:
            return True
        decoded = unquote(path, "latin-1")
        if decoded == path:
            return False
        path = decoded
    return True
