"""Judge the age of a tag's cached copies: the one place that does so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Freshness periods of a tag's copies in seconds, counted from the origin's last confirmation.

    `ttl`: a copy is fresh (RFC 9111 4.2). `swr`: for this much longer it is served while the origin is asked
    (stale-while-revalidate, RFC 5861 3), and for `if_error` longer if the origin fails (stale-if-error, RFC
    5861 4). `name`: the tier's, for headers, log and metrics.

    Ages are in seconds. A negative age means that the clock was set back: the copy may be of any age, and is
    not fresh. `stretch`: how many times longer a registry's tags are fresh now, 1.0 or more.
    """

    name: str
    ttl: float
    swr: float
    if_error: float

    def is_fresh(self, age: float, stretch: float = 1.0) -> bool:
        """Tell whether a copy may be served without asking the origin."""
        return 0 <= age < self.ttl * stretch

    def may_renew(self, age: float, stretch: float = 1.0) -> bool:
        """Tell whether a copy may be served while the origin is asked."""
        return 0 <= age < self.ttl * stretch + self.swr

    def usable_if_error(self, age: float, stretch: float = 1.0) -> bool:
        """Tell whether a copy may be served when the origin fails."""
        return age - self.ttl * stretch < self.if_error
