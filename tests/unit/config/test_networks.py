"""Networks as settings have them."""

from __future__ import annotations

import pytest

from regproxy.config.networks import parse_network

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
