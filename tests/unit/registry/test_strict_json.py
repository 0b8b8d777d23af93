"""JSON that has one meaning."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.registry.strict_json import read_strictly


@pytest.mark.parametrize(
    "body, want",
    [(b'{"a": [1, {"a": null}], "A": "\xc3\xa9"}', {"a": [1, {"a": None}], "A": "é"}), (b" 1 ", 1)],
)
def test_read(body: bytes, want: Any) -> None:
    assert read_strictly(body, 100) == want


@pytest.mark.parametrize(
    "body, reason",
    [
        (b'{"a": 1, "a": 1}', "twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "twice"),
        (b"[NaN]", "no JSON"),
        (b"[-Infinity]", "no JSON"),
        (b"", "no JSON"),
        (b"{} {}", "no JSON"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        (b'"\xff"', "no UTF-8"),
        (b"{}".decode().encode("utf-16"), "no UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"9" * 5_000, "no JSON|digits"),
        (b" " * 200_000 + b"1", "more than 150000"),
    ],
    ids=range(13),
)
def test_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_strictly(body, 150_000 if reason.startswith("more") else 1_000_000)
