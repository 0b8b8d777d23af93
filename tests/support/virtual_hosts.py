"""Origins with names of their own behind one address, so that tests can share the proxy before them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from tests.support.origin import Origin, Script, Seen
from tests.support.trust import Trust


class VirtualHosts(Origin):
    """`hosts.new()` is an origin that no test had before, at one or more of `count` names.

    They are `kind`0.test, and so on. What comes for a name (by the TLS connection's SNI) is that origin's
    alone: scripts, requests and hits.
    """

    def __init__(self, trust: Trust, kind: str = "reg", count: int = 100) -> None:
        self._by_name: dict[str, Origin] = {}
        self._free = itertools.count()
        super().__init__(trust, *(f"{kind}{number}.test" for number in range(count)))

    def new(self, names: int = 1) -> Origin:
        """Return an origin at so many names of its own."""
        taken = [self.names[next(self._free)] for _ in range(names)]
        host = _Host(self, taken)
        self._by_name |= dict.fromkeys(taken, host)
        return host

    def _note(self, seen: Seen) -> Script:
        return self._by_name[seen.server_name]._note(seen)


class _Host(Origin):
    """Listens through `hosts`, which closes it too."""

    def __init__(self, hosts: VirtualHosts, names: Iterable[str]) -> None:
        self.names, self.address = tuple(names), hosts.address
        self.requests, self.hits = [], Counter()
        self._context, self._changed = hosts._context, hosts._changed
        self._scripts, self._prefixes = {}, {}

    def close(self) -> None:
        raise AssertionError("it is its VirtualHosts' to close")
