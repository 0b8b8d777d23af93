"""Choose which of a tag's stored variants answers a request."""

from __future__ import annotations

from typing import Protocol, TypeVar

from regproxy.registry.accept import Accept, bits_above


class Variant(Protocol):
    """A stored answer for a tag: `fetched_at` in seconds since the epoch, `named` from its request's
    Accept.
    """

    @property
    def media_type(self) -> str: ...

    @property
    def fetched_at(self) -> float: ...

    @property
    def named(self) -> int: ...


V = TypeVar("V", bound=Variant)


def choose_variant(held: tuple[V, ...], accept: Accept) -> V | None:
    """Return the newest stored variant of a tag that may answer a request with this Accept.

    A registry chooses by Accept: a request that did not name the index type may have got one platform's
    manifest, which must not be given to a client that would have got the index.
    """
    return next(iter(variants(held, accept)), None)


def variants(held: tuple[V, ...], accept: Accept) -> list[V]:
    """Return all variants that choose_variant() may choose from, the newest first."""
    named = accept.named
    usable = (
        h for h in held if accept.accepts(h.media_type) and not named & bits_above(h.media_type) & ~h.named
    )
    return sorted(usable, key=lambda h: h.fetched_at, reverse=True)
