"""Hosts, masks of hosts, and what is listened on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values.host_rules import (
    Address,
    parse_address,
    parse_host,
    parse_listen,
    parse_rule,
    split_host_port,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates too: what os.environ makes of bytes that are no UTF-8


HOSTS = [
    ("gcr.io", "gcr.io"),
    ("GCR.io.", "gcr.io"),
    ("localhost", "localhost"),
    ("my_registry", "my_registry"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("127.0.0.1", "127.0.0.1"),
    ("[::1]", "::1"),
    ("::1", "::1"),
    ("[2001:DB8:0:0::1]", "2001:db8::1"),
]
BAD_HOSTS = [
    "", ".", "a..b", "-a.example", "a-.example", "bücher.example", "a b", "a/b", "user@host", "host:5000",
    "[::1", "[127.0.0.1]", "[a.example]", "a" * 64 + ".example", "a." * 127 + "a", "a\nb", "a.example\n",
    "*.example.com",
]  # fmt: skip


@pytest.mark.parametrize("text, want", HOSTS, ids=str)
def test_host(text: str, want: str) -> None:
    assert parse_host(text) == want


@pytest.mark.parametrize("text", BAD_HOSTS, ids=lambda text: repr(text[:20]))
def test_bad_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"host name|IP address|without brackets"):
        parse_host(text)


@pytest.mark.parametrize(
    "text, want",
    [
        ("reg.example", ("reg.example", None)),
        ("reg.example:5000", ("reg.example", 5000)),
        ("[::1]", ("[::1]", None)),
        ("[::1]:5000", ("[::1]", 5000)),
        ("::1", ("::1", None)),
        ("2001:db8::5000", ("2001:db8::5000", None)),
    ],
    ids=str,
)
def test_host_and_port(text: str, want: tuple[str, int | None]) -> None:
    assert split_host_port(text) == want


@pytest.mark.parametrize(
    "text, want, shown",
    [
        (":3128", Address("", 3128), ":3128"),
        ("0.0.0.0:3128", Address("0.0.0.0", 3128), "0.0.0.0:3128"),
        ("[::]:3128", Address("::", 3128), "[::]:3128"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
    ],
    ids=str,
)
def test_listen(text: str, want: Address, shown: str) -> None:
    assert parse_listen(text) == want
    assert str(want) == shown


@pytest.mark.parametrize(
    "text", ["", "3128", "::3128", "0.0.0.0", "[::]", "a b:1", ":65536", ":", "http://a:80"]
)
def test_bad_listen(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)


# (rule, host, port, whether it matches)
RULES = [
    ("gcr.io", "gcr.io", 443, True),
    ("gcr.io", "GCR.IO.", 443, True),
    ("gcr.io", "eu.gcr.io", 443, False),
    ("gcr.io", "xgcr.io", 443, False),
    ("gcr.io", "gcr.io", 5000, True),
    ("reg.example:5000", "reg.example", 5000, True),
    ("reg.example:5000", "reg.example", 443, False),
    ("*.gcr.io", "eu.gcr.io", 443, True),
    ("*.gcr.io", "a.b.gcr.io", 443, True),
    ("*.gcr.io", "gcr.io", 443, False),
    ("*.gcr.io", ".gcr.io", 443, False),
    ("*.gcr.io", "eu.gcr.io.evil.example", 443, False),
    ("*.GCR.io:5000", "eu.gcr.io", 5000, True),
    ("*.gcr.io:5000", "eu.gcr.io", 443, False),
    (".gcr.io", "gcr.io", 443, True),
    (".gcr.io", "eu.gcr.io", 443, True),
    (".gcr.io", "xgcr.io", 443, False),
    ("reg.*", "reg.example", 443, True),
    ("reg.*", "reg.example.com", 443, True),
    ("reg.*", "reg", 443, False),
    ("reg.*", "reg.", 443, False),
    ("reg.*", "registry.example", 443, False),
    ("[::1]:5000", "::1", 5000, True),
    ("[::1]", "[0:0::1]", 443, True),
    ("::1", "::2", 443, False),
    ("::1", "::not-an-address", 443, False),
]


@pytest.mark.parametrize("rule, host, port, want", RULES, ids=str)
def test_rule(rule: str, host: str, port: int, want: bool) -> None:
    assert parse_rule(rule).matches(host, port) is want


@pytest.mark.parametrize("text", ["gcr.io", "*.gcr.io:5000", ".gcr.io", "reg.*", "[::1]:5000", "[::1]"])
def test_rule_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_rule(text)) == text


@pytest.mark.parametrize(
    "text, want",
    [
        (r"~^reg\d+\.example$", r"regular expressions"),
        ("*", "mask with one"),
        ("a.*.example", "mask with one"),
        ("*.*", "host name"),
        ("*.a.*", "host name"),
        ("*a.example", "mask with one"),
        ("..example", "host name"),
        ("https://gcr.io", "without https://"),
        ("gcr.io/project", "without a path"),
        ("gcr.io:https", "port from 1"),
        ("gcr.io:", "port from 1"),
        ("", "host name"),
        (".", "host name"),
    ],
    ids=str,
)
def test_bad_rule(text: str, want: str) -> None:
    with pytest.raises(ValueError, match=want):
        parse_rule(text)


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="an IP address"):
        parse_address("localhost")


@pytest.mark.parametrize("parse", [parse_listen, parse_rule])
@given(text=ANY_TEXT)
def test_any_text_is_parsed_or_a_value_error(parse: object, text: str) -> None:
    try:
        parse(text)  # type: ignore[operator]
    except ValueError as error:
        assert str(error)
