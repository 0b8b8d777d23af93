"""The parameters of a request for a tag that its head does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from regproxy.cache.blobs import Blob
from regproxy.cache.index.index import TagRow
from regproxy.registry.accept import Accept

# Cached content, and the media type it has for this origin and repository. A plain tuple: one is made for
# each hit, and making it calls no function.
Held: TypeAlias = tuple[Blob, str]


class TagAsk(Struct, frozen=True):
    """What equal requests for a tag have in common, and the cached copy that could answer them.

    `accept`: the media types that they accept. `fresh()` returns a copy if one is fresh by now. `row`: the
    index row of the copy that a HEAD may confirm, None without a copy. `shared`: once one client has had it
    confirmed all clients may have it, whatever their credentials. `usable_if_error`: a copy can be served
    while the origin is in trouble (stale-if-error, RFC 5861 4). `kept`: the copy stays where the origin says
    that there is no such tag. `presence`: only the registry can answer (see Policy.asks_presence).
    """

    accept: Accept
    fresh: Callable[[], Held | None]
    row: TagRow | None = None
    shared: bool = False
    usable_if_error: bool = False
    kept: bool = False
    presence: bool = False
