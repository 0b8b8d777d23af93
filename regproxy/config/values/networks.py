"""IP networks as settings have them, and what belongs to an address by its longest prefix."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

_Value = TypeVar("_Value")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_WANT_NETWORK: Final = "an address or a network such as 192.0.2.0/24 or 2001:db8::/32"


def parse_network(text: str) -> Network:
    """Return a network, or an address as the network of it alone. IPv4 mapped into IPv6 is IPv4."""
    text = text.strip()
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(_want_network(text)) from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((network.network_address.packed[12:], network.prefixlen - 96))
    return network


def _want_network(text: str) -> str:
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return _WANT_NETWORK
    return f"a network without bits beyond its length: {meant}, or its one address without /{meant.prefixlen}"


class Prefixes(Generic[_Value]):
    """Values of networks. At most 33 or 129 dictionary look-ups find the one of an address."""

    __slots__ = ("_by_length",)

    def __init__(self, values: Mapping[Network, _Value]) -> None:
        # For IPv4 and IPv6: (bits to drop, values by the bits that are left), the longest prefix first.
        found: dict[int, dict[int, dict[int, _Value]]] = {4: {}, 6: {}}
        for network, value in values.items():
            dropped = network.max_prefixlen - network.prefixlen
            known = found[network.version].setdefault(dropped, {})
            known[int(network.network_address) >> dropped] = value
        self._by_length = {version: tuple(sorted(known.items())) for version, known in found.items()}

    def of(self, address: str) -> _Value | None:
        """Return the value of the longest prefix of an IP address, None if it has none, or is no address.

        IPv4 mapped into IPv6 is IPv4.
        """
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return None
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        number = int(ip)
        for dropped, known in self._by_length[ip.version]:
            found = known.get(number >> dropped)
            if found is not None:
                return found
        return None
