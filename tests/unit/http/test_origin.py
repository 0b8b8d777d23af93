"""Origins: which URLs have the same one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.core.errors import BadResponse
from regproxy.http.origin import Origin

ORIGINS = [
    ("https://reg.example/v2/", Origin("https", "reg.example", 443)),
    ("HTTPS://Reg.Example.:443", Origin("https", "reg.example", 443)),
    ("http://reg.example?x=/", Origin("http", "reg.example", 80)),
    ("https://cdn.example:8443/x?sig=a%20b#f", Origin("https", "cdn.example", 8443)),
    ("https://[2001:DB8::1]:5000/x", Origin("https", "2001:db8::1", 5000)),
    ("https://127.0.0.1/", Origin("https", "127.0.0.1", 443)),
]


@pytest.mark.parametrize("url, want", ORIGINS)
def test_origin_of(url: str, want: Origin) -> None:
    assert Origin.of(url) == want


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/v2/x",
        "//cdn.example/x",
        "ftp://a/",
        "file:///etc/passwd",
        "https:///x",
        "https://",
        "https:/a",
        "https://reg.example@evil.example/",
        "https://reg.example:pw@evil.example/",
        "https://reg.example\\@evil.example/",
        "https://a b/",
        "https://a\r\nb/",
        "https://a:0/",
        "https://a:65536/",
        "https://a:x/",
        "https://ä.example/",
        " https://a/",
    ],
)
def test_no_origin(url: str) -> None:
    with pytest.raises(BadResponse):
        Origin.of(url)


@given(st.text(max_size=30) | st.text(":/@[]\\?#.ahtps0159", max_size=30).map("https://".__add__))
def test_origin_raises_nothing_else(url: str) -> None:
    try:
        origin = Origin.of(url)
    except BadResponse:
        return
    assert origin.scheme in ("http", "https")
    assert origin.host
    assert origin.host == origin.host.lower()
    assert 0 < origin.port < 65536


SAME = [
    ("https://reg.example/v2/a", "https://reg.example/b", True),
    ("https://reg.example/", "https://REG.example.:443/", True),
    ("https://reg.example/", "http://reg.example/", False),
    ("https://reg.example/", "http://reg.example:443/", False),
    ("https://reg.example/", "https://reg.example:8443/", False),
    ("https://reg.example/", "https://cdn.reg.example/", False),
    ("https://reg.example/", "https://example/", False),
    ("https://reg.example/", "https://bucket.s3.amazonaws.com/x", False),
]


@pytest.mark.parametrize("start, end, want", SAME)
def test_what_is_the_same_one(start: str, end: str, want: bool) -> None:
    """Only there credentials go along with a redirect."""
    assert (Origin.of(start) == Origin.of(end)) is want


AUTHORITIES = [
    (Origin("https", "reg.test", 443), b"reg.test"),
    (Origin("http", "reg.test", 80), b"reg.test"),
    (Origin("http", "reg.test", 443), b"reg.test:443"),
    (Origin("https", "::1", 443), b"[::1]"),
    (Origin("https", "::1", 5000), b"[::1]:5000"),
]


@pytest.mark.parametrize("origin, want", AUTHORITIES, ids=str)
def test_authority(origin: Origin, want: bytes) -> None:
    assert origin.authority == want
