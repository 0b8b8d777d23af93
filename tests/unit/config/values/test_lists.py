"""Lists: how entries are separated, and which one an error is about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.config.values.host_rules import HostRule
from regproxy.config.values.lists import parse_plain_redirects, parse_ports, parse_resolve, parse_rules

ANY_TEXT = st.text(st.characters())  # lone surrogates too: what os.environ makes of bytes that are no UTF-8


def test_lists_are_separated_by_blanks_or_commas() -> None:
    want = (HostRule("a.example"), HostRule("b.example", 5000))
    assert parse_rules("a.example b.example:5000") == want
    assert parse_rules("\n A.example,\tb.example:5000, a.example.\n") == want
    assert parse_rules(("a.example", " b.example:5000")) == want
    assert parse_rules("") == ()
    assert parse_ports("443, 8443 443") == {443, 8443}


def test_an_error_in_a_list_names_the_entry() -> None:
    with pytest.raises(ValueError, match=r"'https://b' is not a host name"):
        parse_rules("a https://b c")
    with pytest.raises(ValueError, match="'a b' is not"):
        parse_rules(("a b",))


def test_resolve() -> None:
    text = "A.test=127.0.0.5 a.test=::1,b.test=[2001:DB8::1] a.test=127.0.0.5"
    assert dict(parse_resolve(text)) == {"a.test": ("127.0.0.5", "::1"), "b.test": ("2001:db8::1",)}


@pytest.mark.parametrize(
    "text", ["a.test", "a.test=", "=127.0.0.1", "a.test=b.test", "a.test=127.1", "*.a=::1"]
)
def test_bad_resolve(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_resolve(text)


@pytest.mark.parametrize("text", ["off, reg.example", "true", "reg.example no", "*"])
def test_what_is_no_list_of_plain_redirects(text: str) -> None:
    with pytest.raises(ValueError, match=r"off alone|a mask with one"):
        parse_plain_redirects(text)


@pytest.mark.parametrize("parse", [parse_rules, parse_ports, parse_resolve])
@given(text=ANY_TEXT)
def test_any_text_is_parsed_or_a_value_error(parse: object, text: str) -> None:
    try:
        parse(text)  # type: ignore[operator]
    except ValueError as error:
        assert str(error)
