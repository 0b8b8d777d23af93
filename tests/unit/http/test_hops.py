"""Whom a request was sent to, as one text."""

from __future__ import annotations

import pytest

from regproxy.http.hops import Hop, hop, parse_hops


def test_there_and_back() -> None:
    text = f"{hop('reg.test', '192.0.2.1', 443, 0.1)} {hop('::1', '2001:db8::1', 8443, 1.2345)}"
    assert text == "reg.test/192.0.2.1:443/0.100 ::1/[2001:db8::1]:8443/1.234"
    assert parse_hops(text) == [
        Hop("reg.test", "192.0.2.1", 443, "0.100"),
        Hop("::1", "2001:db8::1", 8443, "1.234"),
    ]


@pytest.mark.parametrize(
    "text", ["", " ", "192.0.2.1", 'a/b":1/1', "a/b:1/1\n", "a/b:123456/1", "a/b/c:1/1", "\udc80"]
)
def test_what_is_none(text: str) -> None:
    assert parse_hops(text) == []
