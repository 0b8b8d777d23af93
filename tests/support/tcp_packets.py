"""TCP segments in IPv4 packets, as far as a box in the middle needs them to break connections (RFC 9293)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_WINDOW = 1 << 32
End = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """What is told of a segment: its ends, numbers and flags, and how many numbers it takes up."""

    source: End
    target: End
    sequence: int
    acknowledged: int
    flags: int
    length: int

    @classmethod
    def parse(cls, packet: bytes) -> Segment | None:
        """Return the segment of a packet; None: it holds none, or only a part."""
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return None
        at = (packet[0] & 15) * 4
        source, target, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", packet, at)
        length = len(packet) - at - (offset >> 4) * 4 + bool(flags & SYN) + bool(flags & FIN)
        ends = (socket.inet_ntoa(packet[12:16]), source), (socket.inet_ntoa(packet[16:20]), target)
        return cls(*ends, sequence, acknowledged, flags, length)

    @property
    def following(self) -> int:
        """The number of what is sent next."""
        return (self.sequence + self.length) % _WINDOW


class Flows:
    """Connections that were seen: how far each direction is, and which are to be no more."""

    def __init__(self) -> None:
        self._expected: dict[tuple[End, End], int] = {}  # by sender and receiver
        self._reset: set[tuple[End, End]] = set()

    def carried(self, packet: bytes) -> None:
        """Note a packet that is handed to its receiver."""
        segment = Segment.parse(packet)
        if segment is None:
            return
        way = segment.source, segment.target
        if segment.flags & SYN:
            self._reset -= {way, way[::-1]}
        known = self._expected.get(way)
        ahead = 1 if known is None else (segment.following - known) % _WINDOW
        if segment.flags & SYN or 0 < ahead < _WINDOW // 2:
            self._expected[way] = segment.following

    def reset(self) -> dict[str, list[bytes]]:
        """Break all connections; return the packets that say so, by the address that they are for.

        A number that is not quite the expected one is asked back for (RFC 5961 3.2); see `refusal`.
        """
        said: dict[str, list[bytes]] = {}
        for (source, target), number in self._expected.items():
            said.setdefault(target[0], []).append(make_reset(source, target, number))
        self._reset |= self._expected.keys()
        self._expected.clear()
        return said

    def is_reset(self, segment: Segment) -> bool:
        """Whether it is of a connection that is no more; a new one may have the same ends."""
        return (segment.source, segment.target) in self._reset and not segment.flags & SYN

    def refusal(self, segment: Segment, *, all_of_them: bool) -> bytes | None:
        """Return what to answer a segment with that gets no further (RFC 9293 3.5.2), if anything."""
        if segment.flags & RST or not (all_of_them or self.is_reset(segment)):
            return None
        if segment.flags & ACK:
            return make_reset(segment.target, segment.source, segment.acknowledged)
        return make_reset(segment.target, segment.source, 0, segment.following)


def opens(packet: bytes) -> bool:
    """Whether it is one of the two that open a connection."""
    segment = Segment.parse(packet)
    return segment is not None and bool(segment.flags & SYN)


def make_reset(source: End, target: End, sequence: int, acknowledges: int | None = None) -> bytes:
    """Return a packet from `source` to `target` that ends their connection."""
    ends = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    flags = RST if acknowledges is None else RST | ACK
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], sequence, acknowledges or 0, 5 << 4, flags, 0, 0, 0)
    pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", _checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
    return ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:] + tcp


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
