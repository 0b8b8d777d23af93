"""The Basic scheme as a server reads it."""

from __future__ import annotations

from base64 import b64encode

import pytest

from regproxy.http.basic_auth import VALUE_MAX, is_basic, parse_basic


def basic(text: str | bytes) -> bytes:
    return b"Basic " + b64encode(text.encode() if isinstance(text, str) else text)


CASES = [
    (basic("alice:secret"), ("alice", "secret")),
    (basic("alice:"), ("alice", "")),
    (basic("alice:a:b"), ("alice", "a:b")),
    (basic("jörg:pässword"), ("jörg", "pässword")),
    (b"bAsIc   " + basic("a:b")[6:], ("a", "b")),
    (basic(":secret"), None),
    (basic("alice"), None),
    (basic("alice:a\nb"), None),
    (basic("al\0ice:b"), None),
    (basic(b"alice:\xff"), None),
    (b"Basic", None),
    (b"Basic ", None),
    (b"", None),
    (b"Basic !!!!", None),
    (b"Basic YWxpY2U6c2VjcmV0=", None),
    (b"Basic YWxpY2U6c2VjcmV", None),
    (b"Bearer YWxpY2U6c2VjcmV0", None),
    (basic("alice:secret") + b"\n" + basic("bob:secret"), None),
    (basic("alice:secret") + b", x", None),
    (basic("a:" + "x" * VALUE_MAX), None),
]


@pytest.mark.parametrize("value, want", CASES)
def test_values(value: bytes, want: tuple[str, str] | None) -> None:
    assert parse_basic(value) == want


def test_schemes() -> None:
    assert is_basic(b"Basic x") and is_basic(b"basic") and is_basic(b"BASIC ??")
    assert not is_basic(b"Bearer x") and not is_basic(b"Basically x") and not is_basic(b"")
