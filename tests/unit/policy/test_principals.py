"""Who a client is, from values alone."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load
from regproxy.policy.principals import ANONYMOUS, Principal, Principals

TABLES = """
[principal.office]
addresses = ["192.0.2.0/24", "2001:db8::/32", "::ffff:198.51.100.0/120"]
[principal.build]
addresses = ["192.0.2.128/25", "2001:db8:1::/48", "192.0.2.7"]
users = ["jenkins"]
certificates = ["CN:builder", "DNS:build.example", "URI:spiffe://example/ci"]
[principal.ops]
certificates = ["email:ops@example", "CN:root"]
"""
PRINCIPALS = Principals(load({}, TABLES).principals)

ADDRESSES = [
    ("192.0.2.1", "office"),
    ("192.0.2.7", "build"),
    ("192.0.2.127", "office"),
    ("192.0.2.128", "build"),
    ("192.0.2.255", "build"),
    ("192.0.3.0", ""),
    ("::ffff:192.0.2.200", "build"),
    ("198.51.100.9", "office"),
    ("::ffff:198.51.100.9", "office"),
    ("2001:db8::1", "office"),
    ("2001:db8:1::1", "build"),
    ("2001:db9::1", ""),
    ("::c000:201", ""),
    ("fe80::1%eth0", ""),
    ("", ""),
    ("unix", ""),
]


@pytest.mark.parametrize("address, name", ADDRESSES)
def test_the_longest_prefix_decides(address: str, name: str) -> None:
    assert PRINCIPALS.of_address(address) == (Principal(name, "address") if name else ANONYMOUS)


def test_all_of_ipv4_is_nothing_of_ipv6() -> None:
    principals = Principals(load({}, '[principal.all]\naddresses = ["0.0.0.0/0"]').principals)
    assert principals.of_address("203.0.113.1").name == "all"
    assert principals.of_address("::ffff:203.0.113.1").name == "all"
    assert principals.of_address("2001:db8::1") is ANONYMOUS


def test_users() -> None:
    assert PRINCIPALS.of_user("jenkins") == Principal("build", "user")
    assert PRINCIPALS.of_user("alice") == Principal("alice", "user")


CERTIFICATES = [
    ([("CN", "builder")], "build"),
    ([("CN", "Builder")], "CN:Builder"),
    ([("DNS", "BUILD.example")], "build"),
    ([("CN", "x"), ("DNS", "build.example")], "build"),
    ([("CN", "x"), ("DNS", "y"), ("URI", "spiffe://example/z")], "URI:spiffe://example/z"),
    ([("CN", "root"), ("URI", "spiffe://example/ci")], "build"),
    ([("CN", "builder"), ("email", "ops@example")], "ops"),
    ([("CN", "jenkins")], "CN:jenkins"),
]


@pytest.mark.parametrize("said, name", CERTIFICATES)
def test_certificates(said: list[tuple[str, str]], name: str) -> None:
    assert PRINCIPALS.of_certificate(said) == Principal(name, "certificate")


def test_a_certificate_that_says_nothing_is_nobodys() -> None:
    assert PRINCIPALS.of_certificate([]) is ANONYMOUS


def test_what_is_proven() -> None:
    assert PRINCIPALS.of_user("jenkins").proven
    assert PRINCIPALS.of_certificate([("CN", "builder")]).proven
    assert not PRINCIPALS.of_address("192.0.2.1").proven
    assert not ANONYMOUS.proven
