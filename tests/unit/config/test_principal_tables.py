"""The TOML file's [principal.NAME] tables, and the settings of who may use the proxy."""

from __future__ import annotations

import pytest

from regproxy.config.faults import ConfigErrors
from regproxy.config.settings import describe
from regproxy.config.sources.assembly import load
from regproxy.core.errors import ConfigError

TABLES = """
[principal.ci]
addresses = ["192.0.2.0/24", "2001:db8::/32"]
users = ["jenkins", "gitlab"]
certificates = ["CN:builder", "dns:Build.Example", "URI:spiffe://example/ci", "email:ci@example"]

[principal."team.dev"]
addresses = ["192.0.2.128/25"]
"""


def test_tables() -> None:
    tables = load({}, TABLES).principals
    assert tables.names == ("ci", "team.dev")
    assert {str(network): name for network, name in tables.addresses.items()} == {
        "192.0.2.0/24": "ci",
        "2001:db8::/32": "ci",
        "192.0.2.128/25": "team.dev",
    }
    assert tables.users == {"jenkins": "ci", "gitlab": "ci"}
    said = {"CN:builder", "DNS:build.example", "URI:spiffe://example/ci", "email:ci@example"}
    assert tables.certificates == dict.fromkeys(said, "ci")


def test_they_are_shown() -> None:
    shown = {name: (text, origin) for name, text, origin in describe(load({}, TABLES))}
    assert shown["principal.ci.users"] == ("jenkins gitlab", "toml")
    assert shown["principal.team.dev.addresses"] == ("192.0.2.128/25", "toml")


WRONG = [
    ('principal = "ci"', "f.toml: principal: tables, such as [principal.ci]"),
    ("[principal]\nci = 1", "f.toml: principal: tables, such as [principal.ci]"),
    ("[principal.ci]", "f.toml: principal.ci: addresses or users or certificates: without them it is nobody"),
    ('[principal."*"]\nusers = ["a"]', "principal.*: a name of letters, digits and . _ @ -"),
    ('[principal."CN:x"]\nusers = ["a"]', "principal.CN:x: a name of letters, digits and . _ @ -"),
    (
        '[principal.ci]\nuser = ["a"]',
        "principal.ci.user: no such setting of a principal; did you mean users?",
    ),
    ('[principal.ci]\nkey = ["a"]', "there are addresses, users, certificates"),
    (
        '[principal.ci]\naddresses = "192.0.2.1"',
        'principal.ci.addresses: an array of strings, such as ["..."]',
    ),
    ("[principal.ci]\nusers = [1]", "principal.ci.users: an array of strings"),
    (
        '[principal.ci]\naddresses = ["192.0.2.0/24", "192.0.2.9/24"]',
        "principal.ci.addresses: entry 2 of 2 ('192.0.2.9/24') is not a network without bits beyond",
    ),
    ('[principal.ci]\naddresses = ["example"]', "entry 1 of 1 ('example') is not an address or a network"),
    ('[principal.ci]\nusers = ["a:b"]', "is not a user's name as in REGPROXY_HTPASSWD, without a colon"),
    ('[principal.ci]\ncertificates = ["builder"]', "is not CN:name (of the subject), DNS:name, URI:uri"),
    ('[principal.ci]\ncertificates = ["OU:builder"]', "is not CN:name (of the subject), DNS:name, URI:uri"),
    (
        '[principal.a]\naddresses = ["192.0.2.0/24"]\n[principal.b]\naddresses = ["::ffff:192.0.2.0/120"]',
        "entry 1 of 1 ('::ffff:192.0.2.0/120') is not for one principal alone: a has it",
    ),
    (
        '[principal.a]\nusers = ["x"]\n[principal.b]\nusers = ["x"]',
        "principal.b.users: entry 1 of 1 ('x') is not for one principal alone: a has it too",
    ),
]


@pytest.mark.parametrize("text, why", WRONG)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, text, "f.toml")
    assert why in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    text = '[principal.a]\nusers = ["x:"]\naddresses = ["y"]\n'
    with pytest.raises(ConfigErrors) as caught:
        load({}, text)
    assert len(caught.value.errors) == 2


def test_unknown_clients() -> None:
    assert load({}).unknown_clients == "allow"
    assert load({"REGPROXY_UNKNOWN_CLIENTS": "Deny"}).unknown_clients == "deny"
    with pytest.raises(ConfigError, match="allow or deny"):
        load({"REGPROXY_UNKNOWN_CLIENTS": "no"})
