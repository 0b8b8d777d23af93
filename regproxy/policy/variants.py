"""Choose the stored variant of a tag that answers a request."""

from __future__ import annotations

from typing import Protocol, TypeVar

from regproxy.registry.accept import Accept, bits_above


class Variant(Protocol):
    """A tag's stored answer. `fetched_at`: seconds since the epoch; `named`: Accept.named of its request."""

    @property
    def media_type(self) -> str: ...

    @property
    def fetched_at(self) -> float: ...

    @property
    def named(self) -> int: ...


V = TypeVar("V", bound=Variant)


def choose_variant(held: tuple[V, ...], accept: Accept) -> V | None:
    """Return the newest stored variant of a tag that may answer a request with this Accept, else None.

    A registry picks by Accept: to a request without the index's type it may have answered with one
    platform's manifest, which must not be given to a client that would have got the index.
    """
    return next(iter(variants(held, accept)), None)


def variants(held: tuple[V, ...], accept: Accept) -> list[V]:
    """Return all variants that choose_variant() may choose from, the newest first."""
    named = accept.named
    usable = (
        h for h in held if accept.accepts(h.media_type) and not named & bits_above(h.media_type) & ~h.named
    )
    return sorted(usable, key=lambda h: h.fetched_at, reverse=True)
