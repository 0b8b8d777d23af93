"""Freshness of cached tags: the one place where a copy's age is judged."""

from __future__ import annotations

from msgspec import Struct


class Lifetime(Struct, frozen=True):
    """Lifetimes of a tag's cached copies, in seconds since the origin last confirmed them.

    `ttl`: copies are fresh (RFC 9111 4.2). `swr`: how much longer they are served while the origin is asked
    (stale-while-revalidate, RFC 5861 3). `if_error`: how long after `ttl` they are served instead of the
    origin's error (stale-if-error, RFC 5861 4). `name`: the tier's name, for headers, log and metrics.

    Ages are in seconds. A negative age means that the clock was set back: the copy may be of any age, and is
    not fresh. `stretch`: factor by which `ttl` is currently extended for a registry, 1.0 or more.
    """

    name: str
    ttl: float
    swr: float
    if_error: float

    def is_fresh(self, age: float, stretch: float = 1.0) -> bool:
        """Return whether a copy may be served without asking the origin."""
        return 0 <= age < self.ttl * stretch

    def may_renew(self, age: float, stretch: float = 1.0) -> bool:
        """Return whether a copy may be served while the origin is asked."""
        return 0 <= age < self.ttl * stretch + self.swr

    def usable_if_error(self, age: float, stretch: float = 1.0) -> bool:
        """Return whether a copy may be served when its origin fails."""
        return age - self.ttl * stretch < self.if_error
