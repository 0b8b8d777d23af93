"""Read lists of images to warm the cache with: an image a line, with its platforms behind it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from regproxy.cache.pins import PinError, Reference, parse

_PLATFORM: Final = re.compile(r"[a-z0-9._-]{1,64}/[a-z0-9._-]{1,64}(?:/[a-z0-9._-]{1,64})?")


class Wish(Struct, frozen=True):
    """An image that is to be in the cache. `platforms`: of an index, these alone; () is all."""

    reference: Reference
    platforms: tuple[str, ...] = ()


def wish(name: str, platforms: Iterable[str] = ()) -> Wish:
    """Return a wish for an image. Raises PinError."""
    reference = parse(name)
    if not reference.host:
        raise PinError(
            f"{name}: an image is wanted: registry/repository:tag or registry/repository@sha256:..."
        )
    wished = tuple(platforms)
    for each in wished:
        if not _PLATFORM.fullmatch(each):
            raise PinError(f"{each}: not a platform, such as linux/amd64 or linux/arm64/v8")
    return Wish(reference, wished)


def parse_list(text: str, platforms: tuple[str, ...] = ()) -> list[Wish]:
    """Return the wishes of a list: `IMAGE [PLATFORM...]` a line, and # begins a comment.

    `platforms`: of images without their own. Raises PinError, which names the line.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if words:
            try:
                found.append(wish(words[0], words[1:] or platforms))
            except PinError as error:
                raise PinError(f"line {number}: {error}") from None
    return found
