"""What a request for a tag asks for, beyond its head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from regproxy.cache.blobs import Blob
from regproxy.cache.index.index import TagRow
from regproxy.registry.accept import Accept

# Content that is held, and the media type that it goes by where it is asked for. A plain tuple: one is made
# for each hit, and to make it calls nothing.
Held: TypeAlias = tuple[Blob, str]


@dataclass(frozen=True, slots=True)
class TagAsk:
    """What equal requests for a tag have in common, and what is held that would answer them.

    `accept`: the types that they take. `fresh` looks whether by now a copy is held that needs no asking.
    `row`: of the copy that a HEAD may confirm, None where nothing is held. `shared`: once one client has had
    it confirmed all may have it, whatever their credentials. `usable_if_error`: there is a copy that is
    served while the origin is in trouble (RFC 5861 4). `kept`: it stays where the origin says that there is
    no such tag.
    """

    accept: Accept
    fresh: Callable[[], Held | None]
    row: TagRow | None = None
    shared: bool = False
    usable_if_error: bool = False
    kept: bool = False
