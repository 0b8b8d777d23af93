"""Proofs that a token is known: of what they are, and that none can be used as another."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from regproxy.admin import cookies, proofs
from regproxy.admin.visitors import Scope, Token

TOKEN = Token("t" * 32, Scope.WRITE, local=True)
HERE, THERE = "127.0.0.1:3129", "127.0.0.1:50000"
NONCE = "n" * 43


def test_each_is_of_one_token_connection_nonce_and_side() -> None:
    found = {
        make(token, address, client, nonce)
        for make in (proofs.proof_of_client, proofs.proof_of_proxy)
        for token in (TOKEN, replace(TOKEN, text="u" * 32))
        for address in (HERE, "127.0.0.1:31", "[::1]:3129")
        for client in (THERE, "127.0.0.1:50001")
        for nonce in (NONCE, "m" * 43)
    }
    assert len(found) == 48
    assert all(re.match(proofs.TEXT, each) for each in found)
    assert proofs.proof_of_client(TOKEN, HERE, THERE, NONCE) == proofs.proof_of_client(
        TOKEN, HERE, THERE, NONCE
    )


def test_none_is_a_cookie_or_what_a_form_shows() -> None:
    """Their keys are others, so that no proof can be asked for that is one of them."""
    value, login = cookies.issue(TOKEN, HERE, 0.0)
    keys = {TOKEN.key(purpose) for purpose in (b"cookies", b"forms", proofs._ASKS, proofs._ANSWERS)}
    assert len(keys) == 4
    for make in (proofs.proof_of_client, proofs.proof_of_proxy):
        assert make(TOKEN, HERE, THERE, NONCE) not in (value, login.csrf)
        assert cookies.check(make(TOKEN, HERE, THERE, NONCE), [TOKEN], HERE, 0.0) is None


def test_a_nonce_is_new() -> None:
    found = {proofs.new_nonce() for _ in range(100)}
    assert len(found) == 100
    assert all(re.match(proofs.TEXT, each) for each in found)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", HERE),
        ("::ffff:127.0.0.1", HERE),
        ("::1", "[::1]:3129"),
        ("0:0:0:0:0:0:0:1", "[::1]:3129"),
        ("fe80::1%eth0", "[fe80::1]:3129"),
        ("", ":3129"),
    ],
)
def test_one_spelling_of_an_address(host: str, text: str) -> None:
    assert proofs.address_text(host, 3129) == text


@pytest.mark.parametrize("shown", ["", "x", "\ud800", "é" * 43])
def test_what_is_no_proof(shown: str) -> None:
    right = proofs.proof_of_proxy(TOKEN, HERE, THERE, NONCE)
    assert proofs.is_same(right, right)
    assert not proofs.is_same(shown, right)
