"""Networks as settings have them."""

from __future__ import annotations

import pytest

from regproxy.config.values.networks import Prefixes, parse_network

RIGHT = [
    ("192.0.2.0/24", "192.0.2.0/24"),
    (" 192.0.2.1 ", "192.0.2.1/32"),
    ("2001:db8::/32", "2001:db8::/32"),
    ("2001:DB8::1", "2001:db8::1/128"),
    ("0.0.0.0/0", "0.0.0.0/0"),
    ("::/0", "::/0"),
    ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
    ("::ffff:192.0.2.1", "192.0.2.1/32"),
]
WRONG = [
    (
        "192.0.2.1/24",
        "a network without bits beyond its length: 192.0.2.0/24, or its one address without /24",
    ),
    ("2001:db8::1/32", "2001:db8::/32, or its one address"),
    ("192.0.2.0/33", "an address or a network such as"),
    ("192.0.2", "an address or a network such as"),
    ("ci.example", "an address or a network such as"),
    ("", "an address or a network such as"),
    ("[2001:db8::1]", "an address or a network such as"),
]


@pytest.mark.parametrize("text, want", RIGHT)
def test_networks(text: str, want: str) -> None:
    assert str(parse_network(text)) == want


@pytest.mark.parametrize("text, why", WRONG)
def test_what_is_no_network(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_network(text)
    assert why in str(caught.value)


def test_the_longest_prefix_has_an_address() -> None:
    texts = ["192.0.2.0/24", "192.0.2.128/25", "192.0.2.129", "2001:db8::/32", "::/0"]
    prefixes = Prefixes({parse_network(text): text for text in texts})
    for address, want in [
        ("192.0.2.1", "192.0.2.0/24"),
        ("192.0.2.130", "192.0.2.128/25"),
        ("192.0.2.129", "192.0.2.129"),
        ("::ffff:192.0.2.129", "192.0.2.129"),
        ("192.0.3.1", None),
        ("2001:db8::1", "2001:db8::/32"),
        ("fe80::1%eth0", "::/0"),
        ("", None),
        ("example", None),
    ]:
        assert prefixes.of(address) == want, address
