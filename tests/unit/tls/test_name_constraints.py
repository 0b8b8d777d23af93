"""Name constraints: which names are in a scope, and what of it a certificate states."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path

import pytest
from cryptography import x509

from regproxy.tls.name_constraints import SigningScope
from regproxy.tls.x509 import make_ca
from tests.support.authorities import subordinate_ca

V4, V6 = ipaddress.ip_network("127.0.0.0/30"), ipaddress.ip_network("2001:db8::/32")
NAMES = ("reg.example", "corp.example", "127.0.0.5", "2001:db8::5")
SOME = SigningScope.of_names(NAMES, every_domain=False, every_address=False)
NO_ADDRESS = SigningScope(frozenset({"reg.example"}), frozenset())
WITHOUT = SigningScope(None, frozenset({V4, V6}), frozenset({"bad.example"}), frozenset({V6}))


@pytest.mark.parametrize(
    "scope, name, covered",
    [
        (SOME, "reg.example", True),
        (SOME, "a.b.corp.example", True),
        (SOME, "notcorp.example", False),
        (SOME, "example", False),
        (SOME, "127.0.0.5", True),
        (SOME, "127.0.0.6", False),
        (SOME, "2001:db8::5", True),
        (SOME, "::1", False),
        (NO_ADDRESS, "127.0.0.5", False),
        (NO_ADDRESS, "::1", False),
        (SigningScope(), "anything", True),
        (SigningScope(), "::1", True),
        (WITHOUT, "127.0.0.3", True),
        (WITHOUT, "127.0.0.4", False),
        (WITHOUT, "2001:db8::5", False),
        (WITHOUT, "good.example", True),
        (WITHOUT, "a.bad.example", False),
        (SigningScope(frozenset({".dot.example"})), "a.dot.example", True),
        (SigningScope(frozenset({".dot.example"})), "dot.example", False),
    ],
    ids=str,
)
def test_covers(scope: SigningScope, name: str, covered: bool) -> None:
    assert scope.covers(name) is covered


@pytest.mark.parametrize("scope", [SOME, NO_ADDRESS, WITHOUT, SigningScope()], ids=str)
def test_what_a_certificate_states(scope: SigningScope) -> None:
    certificate = x509.load_pem_x509_certificate(make_ca(time.time(), scope)[0])
    assert SigningScope.of_certificate(certificate) == scope
    found = [e for e in certificate.extensions if isinstance(e.value, x509.NameConstraints)]
    assert [extension.critical for extension in found] == [True] * scope.is_limited


def test_no_address_is_an_exclusion_of_all() -> None:
    """Without any constraint on a form, all names of that form would be in."""
    extension = NO_ADDRESS.extension()
    assert extension is not None
    assert [name.value for name in extension.permitted_subtrees or ()] == ["reg.example"]
    assert [str(name.value) for name in extension.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]


def test_no_domain_is_one_without_names() -> None:
    scope = SigningScope(frozenset({"a.example"})).within(SigningScope(frozenset({"b.example"})))
    assert scope.domains == frozenset()
    extension = scope.extension()
    assert extension is not None
    assert [name.value for name in extension.permitted_subtrees or ()] == ["invalid"]


def test_names_within_others_are_left_out() -> None:
    scope = SigningScope.of_names(
        ["a.corp.example", "corp.example", "reg.example"], every_domain=False, every_address=True
    )
    assert scope.names() == ["corp.example", "reg.example"]


def test_joined_and_within() -> None:
    other = SigningScope(frozenset({"a.corp.example", "new.example"}), None)
    assert SOME.joined(other).names() == ["corp.example", "new.example", "reg.example"]
    assert SOME.joined(other).networks is None
    within = SOME.within(other)
    assert within.names() == ["a.corp.example", "127.0.0.5", "2001:db8::5"]
    assert (SigningScope().within(SOME), SOME.within(SigningScope())) == (SOME, SOME)


def test_one_that_openssl_has_written(tmp_path: Path) -> None:
    subordinate_ca(tmp_path / "root", tmp_path / "crt", tmp_path / "key", permitted="Reg.Example")
    certificate = x509.load_pem_x509_certificates((tmp_path / "crt").read_bytes())[0]
    assert SigningScope.of_certificate(certificate) == SigningScope(frozenset({"reg.example"}))
