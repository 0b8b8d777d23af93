"""What is shown of findings."""

from __future__ import annotations

import pytest

from regproxy.doctor.findings import Finding, without_login


def test_line() -> None:
    assert Finding("ok", "proxy", "answers").line() == "ok       proxy: answers"
    assert Finding("error", "a", "b\nc\x1b[31m", "d").line() == "error    a: b c [31m; d"


@pytest.mark.parametrize(
    "url, shown",
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example:3128/?x", "http://proxy.example:3128"),
        ("proxy.example:3128", "proxy.example:3128"),
        ("http://u:p@proxy.example:3128/", "http://***@proxy.example:3128"),
        ("u:p@proxy.example", "***@proxy.example"),
        ("http://u:p/q@r#s?@proxy.example", "http://***@proxy.example"),
        ("http://u:p://q@proxy.example", "http://***@proxy.example"),
        ("http://u@", "http://***@"),
        ("", ""),
    ],
)
def test_without_login(url: str, shown: str) -> None:
    assert without_login(url) == shown
