"""Parse IP addresses in all their spellings, and classify how far away they lead.

The ranges are those of IANA's special-purpose address registries (RFC 6890).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

EVERY_ADDRESS: Final = frozenset({"", "::", "0.0.0.0"})  # listening addresses that mean every address


class Reach(Enum):
    """How far away an address leads."""

    PUBLIC = "a public address"
    PRIVATE = "a private address"  # or a reserved one, which can't be reached over the Internet
    # The proxy's own host, its neighbours on the link, clouds' metadata services.
    SPECIAL = "a loopback, link-local or metadata address"


# The usual 169.254.169.254 and fe80::a9fe:a9fe are link-local.
_METADATA: Final = frozenset(
    ipaddress.ip_address(address)
    for address in (
        *("fd20:ce::254", "fd00:42::42"),  # Google, Scaleway
        *("168.63.129.16", "100.100.100.200", "192.0.0.192"),  # Azure, Alibaba, Oracle
    )
)


def _v4(*networks: str) -> tuple[ipaddress.IPv4Network, ...]:
    return tuple(map(ipaddress.IPv4Network, networks))


def _v6(*networks: str) -> tuple[ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.IPv6Network, networks))


_SPECIAL_4: Final = _v4("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4")
_PRIVATE_4: Final = _v4(
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
    "100.64.0.0/10",  # carriers' NAT, RFC 6598
    "192.0.0.0/24",  # IETF protocols
    "198.18.0.0/15",  # benchmarks, RFC 2544
    *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),  # documentation
    "240.0.0.0/4",  # reserved, and broadcast
)
# EC2's metadata service is in the last one, with Pod Identity and the resolver.
_SPECIAL_6: Final = _v6("::/128", "::1/128", "fe80::/10", "ff00::/8", "fd00:ec2::/32")
_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")  # all assigned global unicast
_PRIVATE_6: Final = _v6(
    "2001::/23",  # Teredo, benchmarks, ORCHID and other protocols of the IETF
    *("2001:db8::/32", "3fff::/20"),  # documentation
)
# IPv4 in the last 32 bits: mapped, translated (RFC 2765), NAT64 (RFC 6052), compatible (RFC 4291 2.5.5.1).
_EMBEDDING: Final = _v6("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "::/96")
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
# Where RFC 6052 2.2 puts the bytes of an IPv4 address behind prefixes of 48, 56, 64 and 96 bits.
_NAT64_PLACES: Final = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))

_NUMBER: Final = re.compile(r"0[xX]([0-9a-fA-F]{1,64})|(0[0-7]{0,64})|([1-9][0-9]{0,64})", re.ASCII)


@lru_cache(maxsize=4096)
def reach_of(address: str) -> Reach:
    """Return the reach of an IP address, as the system writes it (such as `fe80::1%eth0`)."""
    return _reach(ipaddress.ip_address(address.partition("%")[0]))


def _reach(ip: IPAddress) -> Reach:
    if ip in _METADATA:
        return Reach.SPECIAL
    if isinstance(ip, ipaddress.IPv4Address):
        if _within(ip, _SPECIAL_4):
            return Reach.SPECIAL
        return Reach.PRIVATE if _within(ip, _PRIVATE_4) else Reach.PUBLIC
    if _within(ip, _SPECIAL_6):
        return Reach.SPECIAL
    if _within(ip, _EMBEDDING):
        return _reach(ipaddress.IPv4Address(ip.packed[12:]))
    if ip in _SIX_TO_FOUR:
        return _reach(ipaddress.IPv4Address(ip.packed[2:6]))
    if ip in _LOCAL_NAT64:
        # Private, whatever the embedded address, but no way around SPECIAL. An address that begins with a
        # zero byte is none.
        found = (_reach(each) for each in _behind_nat64(ip) if each.packed[0])
        return Reach.SPECIAL if Reach.SPECIAL in found else Reach.PRIVATE
    return Reach.PUBLIC if ip in _GLOBAL_6 and not _within(ip, _PRIVATE_6) else Reach.PRIVATE


def _within(
    ip: IPAddress, networks: Iterable[ipaddress.IPv4Network] | Iterable[ipaddress.IPv6Network]
) -> bool:
    return any(ip in network for network in networks)


def _behind_nat64(ip: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    for places in _NAT64_PLACES:
        yield ipaddress.IPv4Address(bytes(ip.packed[place] for place in places))


def as_address(host: str) -> IPAddress | None:
    """Return the address that a host's text means; None for a name. IPv4 mapped into IPv6 is IPv4.

    Besides the usual forms it accepts those of inet_aton(3), as every resolver does: 127.1, 0x7f.1,
    2130706433.
    """
    text = host.strip("[]").partition("%")[0].removesuffix(".")
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return _inet_aton(text)
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _inet_aton(text: str) -> ipaddress.IPv4Address | None:
    """Parse one to four numbers, decimal, octal or hexadecimal; the last one fills the remaining bytes."""
    numbers = [_number(part) for part in text.split(".")]
    if len(numbers) > 4:
        return None
    value = 0
    for number in numbers[:-1]:
        if number is None or number > 255:
            return None
        value = value << 8 | number
    last, bits = numbers[-1], 8 * (5 - len(numbers))
    if last is None or last >> bits:
        return None
    return ipaddress.IPv4Address(value << bits | last)


def _number(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    hexadecimal, octal, decimal = found.groups()
    if hexadecimal is not None:
        return int(hexadecimal, 16)
    return int(octal, 8) if octal is not None else int(decimal)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its name (RFC 6761 6.3) or address."""
    ip = as_address(host)
    return ip.is_loopback if ip is not None else host == "localhost" or host.endswith(".localhost")


def reachable_at(listens: str) -> tuple[str, ...]:
    """Return the hosts at which this machine reaches a socket that listens at `listens`, to be tried in turn.

    Where that is every address, these are loopback ones: a socket at :: takes IPv4 too, if the system has it.
    """
    if listens not in EVERY_ADDRESS:
        return (listens,)
    return ("127.0.0.1",) if listens == "0.0.0.0" else ("::1", "127.0.0.1")


def client_of(address: str) -> str:
    """Return what identifies a client by its address: for IPv6 its /64, in which a host may have any address
    (RFC 4291).
    """
    ip = as_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return address if ip is None else str(ip)
