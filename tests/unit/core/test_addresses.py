"""What IP addresses lead to, and the ways in which they are written."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from regproxy.core.addresses import Reach, as_address, client_of, is_loopback, reach_of, reachable_at

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "100.63.255.255"),
    *("100.128.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
    *("223.255.255.255", "2606:4700::6810:1", "2a00:1450:4001:80b::200e", "2001:200::1", "2001:db9::1"),
    *("::ffff:8.8.8.8", "::8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
]
PRIVATE = [
    *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.1", "203.0.113.1", "240.0.0.1", "255.255.255.255"),
    *("fc00::1", "fd00::1", "fdff:ffff::1", "fec0::1", "100::1", "5f00::1", "4000::1", "64:ff9b:2::1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1"),
    *("2001:db8::1", "3fff::1"),
    *("::ffff:10.0.0.1", "::10.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"),
    *("64:ff9b:1::1", "64:ff9b:1::808:808", "64:ff9b:1:808:8:800::", "64:ff9b:1::a00:1"),
]
SPECIAL = [
    *("0.0.0.0", "0.0.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "169.254.0.1", "224.0.0.1"),
    *("168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "ff02::1", "ff0e::1"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1", "::2"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::1", "2002:a9fe:a9fe::1"),
    # the local NAT64's four layouts
    *("64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::"),
    "64:ff9b:1:0:a9:fea9:fe00:0",
]
ALL = [
    *((address, Reach.PUBLIC) for address in PUBLIC),
    *((address, Reach.PRIVATE) for address in PRIVATE),
    *((address, Reach.SPECIAL) for address in SPECIAL),
]


@pytest.mark.parametrize("address, reach", ALL, ids=str)
def test_where_an_address_leads_to(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


SPELLINGS = [
    *(("127.0.0.1", spelling) for spelling in ("127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001")),
    *(("127.0.0.1", spelling) for spelling in ("0177.0.0.1", "017700000001", "0X7F.0.0.1", "127.0.0.1.")),
    *(("127.0.0.1", spelling) for spelling in ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "::ffff:7f00:1")),
    ("169.254.169.254", "0xa9fea9fe"),
    ("169.254.169.254", "2852039166"),
    ("10.0.0.1", "10.1"),
    ("0.0.0.0", "0"),
    ("::1", "[::1]"),
    ("fe80::1", "fe80::1%eth0"),
    ("fe80::1", "[fe80::1%25eth0]"),
    ("255.255.255.255", "0xffffffff"),
]


@pytest.mark.parametrize("want, spelling", SPELLINGS, ids=str)
def test_spellings_of_addresses(want: str, spelling: str) -> None:
    assert as_address(spelling) == ipaddress.ip_address(want)


NAMES = [
    *("reg.test", "127.0.0.1.nip.io", "1.2.3.4.5", "256.1", "1.256.1.1", "0x100.1", "4294967296", "1..2", ""),
    *("08", "0x", "1.2.3.x", "::g", "127.0.0.1 ", "-1", "a1", "0x1.0x1000000", "9" * 65),
]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_what_is_no_address(name: str) -> None:
    assert as_address(name) is None


@pytest.mark.parametrize("spelling", [each for _, each in SPELLINGS if ":" not in each], ids=str)
def test_the_system_reads_them_alike(spelling: str) -> None:
    """What is decided about a text is about the address that a connection would go to."""
    system = socket.inet_ntoa(socket.inet_aton(spelling.removesuffix(".")))
    assert as_address(spelling) == ipaddress.ip_address(system)


CLIENTS = [
    ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
    ("", ""),
]


@pytest.mark.parametrize("address, client", CLIENTS, ids=str)
def test_who_is_behind_an_address(address: str, client: str) -> None:
    assert client_of(address) == client


LOOPBACK = ["localhost", "a.localhost", "127.9.9.9", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("host", [*LOOPBACK, "localhost.example", "10.0.0.1", "::2"])
def test_loopback(host: str) -> None:
    assert is_loopback(host) is (host in LOOPBACK)


@pytest.mark.parametrize(
    ("listens", "hosts"),
    [
        ("", ("::1", "127.0.0.1")),
        ("::", ("::1", "127.0.0.1")),
        ("0.0.0.0", ("127.0.0.1",)),
        ("192.0.2.1", ("192.0.2.1",)),
        ("localhost", ("localhost",)),
    ],
)
def test_where_a_listener_is_reached(listens: str, hosts: tuple[str, ...]) -> None:
    assert reachable_at(listens) == hosts
