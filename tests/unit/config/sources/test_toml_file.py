"""The TOML file: what kinds of values a setting may have there."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load
from regproxy.config.values.host_rules import HostRule
from regproxy.config.values.login_entries import Credential

HUB_NAMES = ("registry-1.docker.io", "index.docker.io", "auth.docker.io", "dhi.io")
HUB = tuple(map(HostRule, (*HUB_NAMES, "docker.caching.proxy.internal")))
MORE = (HostRule("*.a.example", 5000), HostRule("gcr.io"))
TWO_NAMES = {"a.test": ("127.0.0.5",), "b": ("::1", "127.0.0.6")}


# (TOML text, field, wanted)
TOML = [
    ("allow_push = true", "allow_push", True),
    ("verify_ssl = false", "verify_ssl", False),
    ("cache_max_size = 1048576", "cache_max_size", 1 << 20),
    ("send_timeout = 90", "send_timeout", 90.0),
    ("workers = 2", "workers", 2),
    ("registries = ['*.A.example:5000', 'gcr.io']", "registries", (*HUB, *MORE)),
    ("registries = []", "registries", HUB),
    ("connect_ports = 8443", "connect_ports", {8443}),
    ("connect_ports = [443, '8443']", "connect_ports", {443, 8443}),
    ("connect_ports = []", "connect_ports", set()),
    ("auth_registries = ['a.example:u:p q']", "credentials", (Credential("a.example", None, "u", "p q"),)),
    ("resolve = {'a.test' = '127.0.0.5', b = ['::1', '127.0.0.6']}", "resolve", TWO_NAMES),
    ("[resolve]\n'A.test' = '127.0.0.5'", "resolve", {"a.test": ("127.0.0.5",)}),
    ("resolve = ['a.test=127.0.0.5']", "resolve", {"a.test": ("127.0.0.5",)}),
    ("cache_max_size = ''", "cache_max_size", 32 << 30),
    ("", "allow_push", False),
]  # fmt: skip


@pytest.mark.parametrize("text, field, want", TOML, ids=lambda value: repr(value)[:40])
def test_toml(text: str, field: str, want: object) -> None:
    assert getattr(load({}, text), field) == want
