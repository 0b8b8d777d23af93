"""Who gets which credentials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.auth import Credentials, Origin, keep_across
from regproxy.config import Credential
from regproxy.errors import BadResponse
from regproxy.heads import parse_request

HUB = b"Basic aHViOnNlY3JldA=="  # hub:secret
ANY_PORT = b"Basic YW55OnNlY3JldA=="  # any:secret
PORT_5000 = b"Basic cDUwMDA6c2VjcmV0"  # p5000:secret
UMLAUT = b"Basic w7w6cMOkc3M6MQ=="  # ü:päss:1, in UTF-8
CREDENTIALS = Credentials(
    (
        Credential("auth.docker.io", None, "hub", "secret"),
        Credential("reg.example", None, "any", "secret"),
        Credential("reg.example", 5000, "p5000", "secret"),
        Credential("only.example", 5000, "p5000", "secret"),
        Credential("2001:db8::1", None, "any", "secret"),
        Credential("text.example", None, "ü", "päss:1"),
    )
)

PAIRS = [
    ("auth.docker.io", 443, HUB),
    ("AUTH.docker.io", 443, HUB),
    ("auth.docker.io.", 443, HUB),
    # Docker Hub's pair is the token server's; its other names get nothing.
    ("registry-1.docker.io", 443, None),
    ("docker.io", 443, None),
    ("index.docker.io", 443, None),
    ("evil.auth.docker.io", 443, None),
    ("auth.docker.io.evil.example", 443, None),
    ("xauth.docker.io", 443, None),
    ("reg.example", 443, ANY_PORT),
    ("reg.example", 8443, ANY_PORT),
    ("reg.example", 5000, PORT_5000),
    ("only.example", 5000, PORT_5000),
    ("only.example", 443, None),
    ("2001:db8::1", 443, ANY_PORT),
    ("[2001:DB8::1]", 443, ANY_PORT),
    ("text.example", 443, UMLAUT),
    ("", 443, None),
]


@pytest.mark.parametrize("host, port, want", PAIRS)
def test_pair_of_exactly_that_host(host: str, port: int, want: bytes | None) -> None:
    assert CREDENTIALS.basic_for(host, port) == want


def test_no_credentials() -> None:
    assert Credentials(()).basic_for("reg.example", 443) is None


def test_the_last_of_two_wins() -> None:
    pairs = [Credential("a", None, "x", "1"), Credential("A", None, "any", "secret")]
    assert Credentials(pairs).basic_for("a", 443) == ANY_PORT


@pytest.mark.parametrize(
    "field, host, want",
    [
        ("Accept: */*", "auth.docker.io", HUB),
        ("Accept: */*", "registry-1.docker.io", None),
        ("Authorization: Bearer t", "auth.docker.io", None),
        ("AUTHORIZATION: Basic YTpi", "auth.docker.io", None),
        # There is one, and it is the client's.
        ("Authorization:", "auth.docker.io", None),
        # Meant for the proxy, not for the origin.
        ("Proxy-Authorization: Basic YTpi", "auth.docker.io", HUB),
    ],
)
def test_the_client_wins(field: str, host: str, want: bytes | None) -> None:
    head = f"GET /token?service=registry.docker.io HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n"
    assert CREDENTIALS.may_inject(parse_request(head.encode()), host, 443) == want


def test_repr_shows_hosts_only() -> None:
    shown = repr(CREDENTIALS)
    hosts = "2001:db8::1, auth.docker.io, only.example:5000, reg.example, reg.example:5000, text.example"
    assert shown == f"Credentials({hosts})"


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


ACROSS = [
    ("https://reg.example/v2/a", "https://reg.example/b", True),
    ("https://reg.example/", "https://REG.example.:443/", True),
    ("https://reg.example/", "http://reg.example/", False),
    ("https://reg.example/", "http://reg.example:443/", False),
    ("https://reg.example/", "https://reg.example:8443/", False),
    ("https://reg.example/", "https://cdn.reg.example/", False),
    ("https://reg.example/", "https://example/", False),
    ("https://reg.example/", "https://bucket.s3.amazonaws.com/x", False),
]


@pytest.mark.parametrize("start, end, want", ACROSS)
def test_keep_across(start: str, end: str, want: bool) -> None:
    assert keep_across(Origin.of(start), Origin.of(end)) is want
    assert keep_across(Origin.of(end), Origin.of(start)) is want
