"""Parse Accept (RFC 9110 12.5.1): the media types that a client accepts, and those an answer may be made
from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from regproxy.registry.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1_TYPES,
)

# A registry converts an index to one platform's manifest, and that to schema 1, for a client that does not
# name the stored type. So a client that got a lower type may not have named all of those above it.
_ABOVE: Final = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
_INDEX_BITS: Final = 0b0011
_ALL_BITS: Final = 0b1111


def bits_above(media_type: str) -> int:
    """Return the types, as bits of Accept.named, from which an answer of `media_type` may have been made."""
    if media_type in INDEX_TYPES:
        return 0
    return _ALL_BITS if media_type in SCHEMA1_TYPES else _INDEX_BITS


class Accept(Struct, frozen=True):
    """The media types that a request accepts; equal whatever the order and the spelling of its lines.

    Media ranges in lower case, without parameters: `wanted` with q > 0, `refused` with q = 0. No range at all
    means that everything is accepted (RFC 9110 12.5.1).
    """

    wanted: frozenset[str]
    refused: frozenset[str]

    def accepts(self, media_type: str) -> bool:
        """Tell whether `media_type` may be sent; the most specific range that matches decides."""
        for media_range in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
            if media_range in self.refused:
                return False
            if media_range in self.wanted:
                return True
        return not self.wanted and not self.refused

    @property
    def named(self) -> int:
        """The types that a registry may send unconverted, a bit for each.

        Only those named explicitly: to `*/*` registries answer with one platform's manifest.
        """
        return sum(1 << bit for bit, media_type in enumerate(_ABOVE) if media_type in self.wanted)

    @property
    def key(self) -> str:
        """A canonical text, for use as a key on disk."""
        return ",".join([*sorted(self.wanted), *(f"{refused};q=0" for refused in sorted(self.refused))])

    @property
    def members(self) -> list[bytes]:
        """The members as sent in a shared fetch for all requests with this key: wildcards last, no
        weights.
        """
        wanted = sorted(self.wanted, key=lambda media_range: (media_range.count("*"), media_range))
        members = [*wanted, *(f"{refused};q=0" for refused in sorted(self.refused))]
        return [member.encode("ascii") for member in members]


def parse_accept(values: Iterable[bytes]) -> Accept:
    """Return the parsed Accept lines `values`. Members that can't be parsed are left out."""
    return _parse_accept(tuple(values))


_QUALITY = re.compile(r";[ \t]*q[ \t]*=[ \t]*([0-9.]*)")
# RFC 9110 5.6.2, 12.5.1. Nothing else is accepted: if a registry parsed it differently, its answer would be
# stored as the answer to another request.
_MEDIA_RANGE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")


@lru_cache(maxsize=256)
def _parse_accept(values: tuple[bytes, ...]) -> Accept:
    wanted: set[str] = set()
    refused: set[str] = set()
    for member in b",".join(values).decode("latin-1").lower().split(","):
        media_range = member.partition(";")[0].strip(" \t")
        if not _MEDIA_RANGE.fullmatch(media_range):
            continue
        quality = _QUALITY.search(member)
        zero = quality is not None and quality[1].strip("0.") == "" and "0" in quality[1]
        (refused if zero else wanted).add(media_range)
    return Accept(frozenset(wanted), frozenset(refused - wanted))
