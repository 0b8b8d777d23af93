"""The proxy's address: what may be in a script."""

from __future__ import annotations

import pytest

from regproxy.core.errors import ConfigError
from regproxy.onboarding.proxy_address import ProxyAddress

GOOD = {
    "proxy.example:3128": ("proxy.example", 3128),
    "proxy": ("proxy", 80),
    "10.0.0.1:65535": ("10.0.0.1", 65535),
    "[2001:db8::1]:3128": ("2001:db8::1", 3128),
    "[::ffff:10.0.0.1]": ("::ffff:10.0.0.1", 80),
    "my_proxy-1.example.": ("my_proxy-1.example.", 80),
}
BAD = [
    *(
        "",
        ":3128",
        "a:",
        "a:0",
        "a:65536",
        "a:1:2",
        "a b",
        "a\n",
        "a\r\nb",
        "a\0",
        "-a",
        "a'",
        'a"',
        "a`id`",
        "a$x",
    ),
    *(
        "a;b",
        "a|b",
        "a&b",
        "a<b",
        "a>b",
        "a(b)",
        "a*",
        "a?",
        "a#b",
        "a\\b",
        "a/b",
        "a@b",
        "a%20",
        "a,b",
        "a=b",
    ),
    *("[::1", "::1", "[::1%eth0]", "[x]", "[]", "ä", "a٣:1", "a:٣"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good(text: str) -> None:
    address = ProxyAddress.parse(text)
    assert address is not None
    assert (address.authority, address.endpoint, address.url) == (text, GOOD[text], f"http://{text}")
    assert ProxyAddress.of_url(f"http://{text}/") == ProxyAddress.of_url(text) == address


@pytest.mark.parametrize("text", BAD)
def test_bad(text: str) -> None:
    assert ProxyAddress.parse(text) is None


@pytest.mark.parametrize(
    "url", ["https://a:1", "socks5://a", "http://a/x", "http://a?x", "http://", "http://[a", "http://a:x"]
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ConfigError, match="--proxy"):
        ProxyAddress.of_url(url)


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@a:1", "u:s3cret@a:1", "http://u:s3cret@a/x", "http://u:s3cret@[a"]
)
def test_no_login_is_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProxyAddress.of_url(url)
    assert "s3cret" not in str(caught.value)
