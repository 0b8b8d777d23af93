"""Addresses that are chosen before anybody listens there, so that tests can share the proxy before them."""

from __future__ import annotations

import itertools

from tests.support.processes import free_address


class KnownAddresses:
    """`count` addresses of one host, that will be `name` at so many ports; `take` gives each to one test.

    What listens there is a registry of its own to a proxy, which remembers of none what it has heard of
    another. `env` makes a proxy intercept all of them.
    """

    def __init__(self, name: str = "reg.test", count: int = 60) -> None:
        self._host, first = free_address()
        ports = {first}
        while len(ports) < count:
            ports.add(free_address(self._host)[1])
        self._ports = sorted(ports)
        self._free = itertools.cycle(self._ports)
        self.registries = tuple(f"{name}:{port}" for port in self._ports)
        self.env = {"REGPROXY_RESOLVE": f"{name}={self._host}", "REGPROXY_ALLOW_TARGETS": name}
        self._left = count

    def take(self) -> tuple[str, int]:
        """Return an address that no test had before."""
        assert self._left > 0, "more addresses are taken than there are"
        self._left -= 1
        return self._host, next(self._free)
