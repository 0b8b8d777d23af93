"""The names that a configuration wants a CA for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from regproxy.config.settings import ALWAYS_INTERCEPTED
from regproxy.config.sources.assembly import load
from regproxy.tls.ca_files import CaFiles
from regproxy.tls.ca_files import load as load_ca
from regproxy.tls.ca_scope import domain_of, wanted
from regproxy.tls.name_constraints import SigningScope


@pytest.mark.parametrize(
    "pattern, domain",
    [
        ("ghcr.io", "ghcr.io"),
        ("127.0.0.5", "127.0.0.5"),
        ("::1", "::1"),
        ("*.corp.example", "corp.example"),
        (".corp.example", "corp.example"),
        ("*.example", "example"),
        ("reg.*", None),
        ("10.*", None),
        ("*.0.1", None),  # 127.0.0.1 is below it
        (r"~^reg[0-9]+\.example\.com$", "example.com"),
        (r"~*^REG\.Example\.COM$", "example.com"),
        (r"~^(a|b)\.my-corp\.example$", "my-corp.example"),
        (r"~^(a|b)\.my\-corp\.example$", "my-corp.example"),
        (r"~[(|]\.example\.com$", "example.com"),
        (r"~^\w+(\.eu)?\.example\.com$", "example.com"),
        (r"~\\.example\\.com$", "example.com"),  # as nginx's configuration has it
        (r"~\.exam+ple\.com$", "com"),
        (r"~^a\.example\.com$|^b\.example\.org$", None),
        (r"~\.example\.com", None),  # not to the end
        (r"~\.example\.com?$", None),
        (r"~(\.example\.com$)", None),
        (r"~\.example.com$", None),
        (r"~\Q.\E\.example\.com$", None),
        (r"~\.0\.1$", None),
        (r"~\.co\d$", None),
        (r"~.*", None),
    ],
)
def test_domains(pattern: str, domain: str | None) -> None:
    assert domain_of(pattern) == domain


HERE = {"REGISTRIES": "", "REGPROXY_TLS_LISTEN": "127.0.0.7:1"}
FILES = {"REGPROXY_TLS_CERT_FILE": "/x", "REGPROXY_TLS_KEY_FILE": "/x"}
EVERY = "every DNS name every address"


@pytest.mark.parametrize(
    "env, names",
    [
        ({"REGISTRIES": ""}, ""),
        ({"REGISTRIES": "reg.example:5000"}, "reg.example"),
        ({"REGISTRIES": "127.0.0.5:5000 [::1]"}, "127.0.0.5 ::1"),
        ({"REGISTRIES": "*.a.example", "REGPROXY_CA_NAMES": ".b.example"}, "a.example b.example"),
        ({"REGISTRIES": "", "REGPROXY_TLS_NAMES": "proxy.example"}, ""),  # nobody listens
        (HERE | {"REGPROXY_TLS_NAMES": "proxy.example .lan 127.0.0.9"}, "lan proxy.example 127.0.0.9"),
        (HERE, "localhost own.machine 127.0.0.7"),
        (HERE | FILES, ""),
        ({"REGISTRIES": "reg.*"}, EVERY),
        ({"REGISTRIES": "reg.example", "REGPROXY_CA_CONSTRAINTS": "false"}, EVERY),
    ],
    ids=str,
)
def test_wanted(env: dict[str, str], names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides what is always intercepted."""
    monkeypatch.setattr("socket.gethostname", lambda: "Own.Machine")
    scope = wanted(load(env)).scope
    if not scope.is_limited:
        assert names == EVERY
        return
    found = scope.names()
    assert set(ALWAYS_INTERCEPTED) <= set(found)
    assert [name for name in found if name not in ALWAYS_INTERCEPTED] == names.split()


def test_what_can_not_be_said_is_told() -> None:
    notes = wanted(load({"REGISTRIES": r"reg.* ~^a[0-9]\.example\.com$ ghcr.io"})).notes
    assert notes == (
        "reg.* can't be said by a name constraint: the CA may sign every name",
        r"~^a[0-9]\.example\.com$ is widened to all of example.com",
    )


def test_the_machines_name_is_no_reason_for_a_new_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container it is another one with each start."""
    env = {"REGISTRIES": "", "REGPROXY_TLS_LISTEN": "127.0.0.7:1"}
    pairs = load_ca(CaFiles(tmp_path / "crt", tmp_path / "key"), time.time(), make=wanted(load(env)).scope)
    monkeypatch.setattr("socket.gethostname", lambda: "0123456789ab")
    assert wanted(load(env)).lacking(pairs[0]) == []
    assert not pairs[0].covers("0123456789ab")
    other = wanted(load(env | {"REGPROXY_TLS_NAMES": "proxy.example"}))
    assert other.lacking(pairs[0]) == ["proxy.example"]


def test_lacking(tmp_path: Path) -> None:
    now = time.time()
    limited = load_ca(
        CaFiles(tmp_path / "a", tmp_path / "a.key"), now, make=SigningScope(frozenset({"docker.io"}))
    )
    free = load_ca(CaFiles(tmp_path / "b", tmp_path / "b.key"), now, make=SigningScope())
    want = wanted(load({"REGISTRIES": "reg.* quay.io"}))
    assert want.lacking(limited[0])[-2:] == ["quay.io", "reg.*"]
    assert want.lacking(free[0]) == []
