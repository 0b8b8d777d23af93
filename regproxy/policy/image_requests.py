"""Tell which image a request is for, also where its path is none that clients send.

Rules name repositories, and a registry may read a path in more ways than one: what may be a request for
content, and can't be told from, is *odd*, and no rule lets it pass that would refuse something.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from regproxy.http.messages import READS
from regproxy.registry.targets import Kind, Target, is_digest, is_repository

# What a registry may take for content all the same: a ".." may lead there.
_OTHERS: Final = frozenset({Kind.OTHER, Kind.TOKEN, Kind.UPLOAD, Kind.BLOB_MUTABLE})
_CONTENT: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})
# Of an upload, as registries name them: no segment that leads elsewhere, nor one by which `blobs/uploads` is
# the end of a repository's name.
_UPLOAD: Final = re.compile(
    r"/v2/([a-z0-9._/-]+)/blobs/uploads"
    r"(?:/(?!(?:\.{1,2}|(?i:manifests|blobs))(?:/|$))[A-Za-z0-9._~=@:+,-]+)*/?"
)
_IN_REPOSITORY: Final = re.compile(r"/v2/([a-z0-9._/-]+)/(?:manifests|blobs)/[^/%\\]*")
# Lists of names: no content.
_LISTS: Final = re.compile(r"/v2/([a-z0-9._/-]+)/(?:tags/list|referrers/([^/%]*))")
_DECODINGS: Final = 4  # times that a path is decoded, at most


class ImagePlace(Struct, frozen=True):
    """What a request is for. `repository` None: that can't be told. `odd`: nor can what of it."""

    repository: str | None
    push: bool
    odd: bool


def place_of(method: str, target: Target, path: str) -> ImagePlace | None:
    """Return what a request is for; None: for no content, and it changes none.

    `path`: the request's, with its query.
    """
    kind, push = target.kind, method not in READS
    if kind in _CONTENT:
        return ImagePlace(target.repository, push, False) if method != "OPTIONS" else None
    if kind not in _OTHERS or method == "OPTIONS":
        return None
    upload = _UPLOAD.fullmatch(path.partition("?")[0])
    if upload is not None and is_repository(upload[1]):
        # What has arrived of an upload is no content yet.
        return ImagePlace(upload[1], True, False) if push else None
    return _odd_place(path, push=push)


def _odd_place(path: str, *, push: bool) -> ImagePlace | None:
    path = path.partition("?")[0]
    listed = _LISTS.fullmatch(path)
    if listed is not None and is_repository(listed[1]) and (listed[2] is None or is_digest(listed[2])):
        return None
    if not _may_be_content(path):
        return None
    named = _IN_REPOSITORY.fullmatch(path)
    if named is not None and is_repository(named[1]):
        return ImagePlace(named[1], push, True)
    return ImagePlace(None, push, True)


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
