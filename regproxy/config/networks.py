"""Parse IP networks as settings have them."""

from __future__ import annotations

import ipaddress
from typing import Final

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
