"""Tell whether an address is one of this machine's, as its kernel sees it: rtnetlink(7)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final

from regproxy.core.addresses import as_address

# <linux/rtnetlink.h>
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_RTA_DST: Final = 1
_RTN_LOCAL: Final = 2
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
# family, bits of the destination and of the source, tos, table, protocol, scope, type, flags
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_PATIENCE: Final = 1.0  # seconds; the kernel answers at once


def is_own_address(address: str) -> bool:
    """Return whether packets to this IP address stay on this machine; False where that can't be found out.

    An interface may have several addresses, and a connection to one of them comes from another.
    """
    ip = as_address(address)
    if ip is None:
        return False
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(_PATIENCE)
            kernel.send(_question(ip))
            return _is_local(kernel.recv(8192))
    except OSError:
        return False


def _question(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(ip.packed), _RTA_DST) + ip.packed
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body


def _is_local(answer: bytes) -> bool:
    """Return whether the kernel's answer is a route that ends here; an error is none."""
    if len(answer) < _HEADER.size + _ROUTE.size or _HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return False
    kind: int = _ROUTE.unpack_from(answer, _HEADER.size)[7]
    return kind == _RTN_LOCAL
