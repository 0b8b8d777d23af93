"""Headers of the PROXY protocol, in whatever pieces they come."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.dataplane.proxy_protocol import preface

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    size = len(rest) if length is None else length
    return SIGNATURE + bytes((command, family)) + struct.pack(">H", size) + rest


FOUR = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack(">HH", 4711, 3128)
SIX = b"".join(socket.inet_pton(socket.AF_INET6, each) for each in ("2001:db8::1", "2001:db8::2"))
SIX += struct.pack(">HH", 4711, 3128)
TLV = b"\x01\x00\x08http/1.1" + b"\x20\x00\x05\x01\x00\x00\x00\x00" + b"\x04\x00\x03abc"

GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 3128\r\n", "source", "192.0.2.1"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "source", "255.255.255.255"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 0 0\r\n", "source", "192.0.2.1"),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 3128\r\n", "source", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 3128\r\n", "source", "::ffff:192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", "local", ""),
    (b"PROXY UNKNOWN ff:ff:ff 1 2 3\r\n", "local", ""),
    (binary(0x21, 0x11, FOUR), "source", "192.0.2.1"),
    (binary(0x21, 0x21, SIX), "source", "2001:db8::1"),
    (binary(0x21, 0x11, FOUR + TLV), "source", "192.0.2.1"),
    (binary(0x21, 0x21, SIX + b"x" * 4000), "source", "2001:db8::1"),
    (binary(0x20, 0x00, b""), "local", ""),
    (binary(0x20, 0x11, FOUR), "local", ""),
    (binary(0x20, 0x99, b"anything"), "local", ""),
    (binary(0x21, 0x00, TLV), "local", ""),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n",
    b"P0",
    b"PROXZ",
    b"PROXY TCP5 192.0.2.1 198.51.100.2 4711 3128\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 4711 3128\r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.2 4711 3128\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 3128 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 3128 x\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 3128\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 3128\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 3128\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 3128\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 4711 3128\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.2 4711 3128\r\n",
    b"PROXY TCP4 192.0.2.1\x00 198.51.100.2 4711 3128\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN " + b"x" * 100,
    b"\x16\x03\x01",
    b"\r\nGET",
    binary(0x11, 0x11, FOUR),
    binary(0x22, 0x11, FOUR),
    binary(0x21, 0x12, FOUR),
    binary(0x21, 0x31, b"x" * 216),
    binary(0x21, 0x11, FOUR[:-1]),
    binary(0x21, 0x21, FOUR),
    binary(0x21, 0x11, b"", 4097),
    binary(0x20, 0x00, b"", 65535),
]


@pytest.mark.parametrize("header, what, address", GOOD, ids=repr)
def test_headers(header: bytes, what: str, address: str) -> None:
    for behind in (b"", b"CONNECT a:443 HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
        assert preface(header + behind) == (what, len(header), address)
    for end in range(len(header)):
        assert preface(header[:end]) == ("partial", 0, "")


@pytest.mark.parametrize("data", BAD, ids=repr)
def test_what_is_none(data: bytes) -> None:
    assert preface(data)[0] == "bad"


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
    st.binary(max_size=200),
)
def test_any_bytes_can_be_looked_at(start: bytes, rest: bytes) -> None:
    what, used, _ = preface(start + rest)
    assert (used > 0) is (what in ("source", "local"))
