"""Cookies: for whom, where and how long they are good."""

from __future__ import annotations

import pytest

from regproxy.admin.cookies import LIFE, NAME, check, issue, set_cookie, value_of
from regproxy.admin.visitors import Scope, Token

WRITE = Token("w" * 32, Scope.WRITE, local=False)
READ = Token("r" * 32, Scope.READ, local=True)
NOW = 1_700_000_000.5


def test_a_login() -> None:
    value, login = issue(READ, "proxy.example:3129", NOW)
    assert check(value, [WRITE, READ], "PROXY.example:3129", NOW + LIFE - 1) == login
    assert login.token is READ
    assert READ.text not in value
    assert issue(READ, "proxy.example:3129", NOW)[0] != value


def test_where_it_is_none() -> None:
    value, _ = issue(WRITE, "a:1", NOW)
    assert check(value, [WRITE], "a:2", NOW) is None
    assert check(value, [WRITE], "a:1", NOW + LIFE) is None
    assert check(value, [READ], "a:1", NOW) is None
    assert check(value, [Token("W" * 32, Scope.WRITE, local=False)], "a:1", NOW) is None
    assert check(value, [], "a:1", NOW) is None


@pytest.mark.parametrize("value", ["", "x", "\xff", "A" * 80, "A" * 10_000, "=", "a b"])
def test_others(value: str) -> None:
    assert check(value, [WRITE], "a:1", NOW) is None


def test_any_change() -> None:
    value, _ = issue(WRITE, "a:1", NOW)
    for at in range(len(value)):
        changed = value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :]
        assert check(changed, [WRITE], "a:1", NOW) is None


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("", ""),
        (f"{NAME}=x", "x"),
        (f"a=b; {NAME}=x=y; c=d", "x=y"),
        (f"x{NAME}=x", ""),
        (NAME, ""),
    ],
)
def test_a_field(header: str, value: str) -> None:
    assert value_of(header) == value


def test_attributes() -> None:
    assert set_cookie("v", secure=True).endswith(b"HttpOnly; SameSite=Strict; Secure")
    assert b"Max-Age=0" in set_cookie("", secure=False)
