"""How long what a tag's origin has said holds: the one place where a copy's age is judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds in the life of a tag's copies, counted from when their origin has confirmed them.

    `ttl`: they are fresh (RFC 9111 4.2). `swr`: so much longer they are served while the origin is asked
    (RFC 5861 3), and `if_error` longer in the place of an origin that is in trouble (RFC 5861 4). `name`: the
    tier's, for headers, log and metrics.

    Ages are in seconds. A negative one says that the clock was put back: that copy may be of any age, and is
    not fresh. `stretch`: how many times longer a registry's tags are fresh now, 1.0 or more.
    """

    name: str
    ttl: float
    swr: float
    if_error: float

    def is_fresh(self, age: float, stretch: float = 1.0) -> bool:
        """Tell whether a copy answers without anybody being asked."""
        return 0 <= age < self.ttl * stretch

    def may_renew(self, age: float, stretch: float = 1.0) -> bool:
        """Tell whether a copy answers while its origin is asked."""
        return 0 <= age < self.ttl * stretch + self.swr

    def usable_if_error(self, age: float, stretch: float = 1.0) -> bool:
        """Tell whether a copy answers where its origin can't."""
        return age - self.ttl * stretch < self.if_error
