"""Define the index's rows, and the kinds of its journal's rows."""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct

TagKey = tuple[str, int, str, str]  # host, port, repository, tag

# Kinds of journal rows. Tags are named by name_of(), objects by their digest.
TAG_PUT: Final = "tag put"
TAG_DROPPED: Final = "tag dropped"
STORED: Final = "object stored"
REMOVED: Final = "object removed"

# The start of a row's name in the place of the tag, which no tag can have: what was seen under that tag.
SEEN: Final = "seen:"

_BLOCK: Final = 4096  # bytes; the least that most file systems allocate for a file


class TagRow(Struct, frozen=True):
    """The origin's answer for a tag, to a request of the kind `variant`.

    `variant` is chosen by the caller, and a tag has one row for each. `size`: bytes. `fetched_at`: seconds
    since the epoch, when the origin last confirmed it. `named`: which types that request has named (see
    accept.Accept).
    """

    variant: str
    digest: str
    media_type: str
    size: int
    fetched_at: float
    named: int


class ObjectRow(Struct, frozen=True):
    """A blob or manifest on disk. `size`: bytes; `media_type`: None if unknown; `last_used`: epoch.

    `disk`: the bytes that its file takes there. `stored_at`: epoch, when it was entered, or a time by which
    it was there. `hits`: how many requests were answered with it from the cache since then; known some
    seconds late, and lost for the last ones before a crash.
    """

    digest: str
    size: int
    media_type: str | None
    last_used: float
    disk: int
    stored_at: float
    hits: int = 0


class Link(Struct, frozen=True):
    """What a manifest names: a `manifest`, `config` or `layer`. `size`: bytes; `platform`: "" for none."""

    digest: str
    kind: str
    size: int
    platform: str


class Catalogued(Struct, frozen=True):
    """What a small object is. `media_type`: "" where it is no manifest; `platform`: that it is for, if known
    (of a configuration: that its manifests are for).
    """

    digest: str
    media_type: str = ""
    platform: str = ""
    links: tuple[Link, ...] = ()


class Totals(Struct, frozen=True):
    """All objects together: how many, the bytes in them, and the bytes that they take on the disk."""

    objects: int
    bytes: int
    disk: int


def disk_size(size: int) -> int:
    """Return the bytes that a file of `size` takes on most disks."""
    return -(-size // _BLOCK) * _BLOCK


def name_of(key: TagKey) -> str:
    """Return a tag's name in the journal."""
    return json.dumps(key, separators=(",", ":"))


def key_of(name: str) -> TagKey:
    """Return the tag of a name made by name_of()."""
    host, port, repository, tag = json.loads(name)
    return host, port, repository, tag
