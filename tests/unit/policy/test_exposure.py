"""Whether private content is within reach of whoever reaches a port."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load
from regproxy.policy.exposure import exposed, is_private_shared

LOGIN = {"AUTH_REGISTRIES": "reg.test:u:p"}
OWN = '[origin."reg.test".credentials]\nusername = "u"\npassword = "p"\n'
LISTED = OWN + 'principals = ["ci"]\n'

SHARED = [
    ({}, "", False),
    (LOGIN, "", True),
    ({"REGPROXY_DOCKER_CONFIG": "/config.json"}, "", True),
    ({}, OWN, True),
    ({}, LISTED, False),
    ({"REGPROXY_ACCESS": "verified"}, OWN, False),
    ({**LOGIN, "REGPROXY_ACCESS": "verified"}, "", False),
    ({**LOGIN, "REGPROXY_ACCESS": "denied"}, "", False),
    ({**LOGIN, "REGPROXY_ACCESS": "verified"}, '[origin."reg.test"]\naccess = "shared"\n', True),
    ({"REGPROXY_ACCESS": "verified"}, '[origin."reg.test"]\naccess = "shared"\n', False),
    ({}, '[origin."reg.test"]\naccess = "verified"\n' + OWN.replace("\n", "\n", 1), False),
]


@pytest.mark.parametrize("env, toml, want", SHARED)
def test_what_is_shared(env: dict[str, str], toml: str, want: bool) -> None:
    assert is_private_shared(load(env, toml)) is want


HERE = {"REGPROXY_LISTEN": "127.0.0.1:3128"}
EXPOSED = [
    (LOGIN, "whoever reaches [::]:3128 may have"),
    ({}, ""),
    ({**LOGIN, "REGPROXY_UNKNOWN_CLIENTS": "deny"}, ""),
    ({**LOGIN, **HERE}, ""),
    ({**LOGIN, "REGPROXY_LISTEN": "[::1]:3128"}, ""),
    ({**LOGIN, "REGPROXY_LISTEN": "127.8.0.1:3128"}, ""),
    ({**LOGIN, "REGPROXY_LISTEN": "127.1:3128"}, ""),
    ({**LOGIN, "REGPROXY_LISTEN": "[::ffff:127.0.0.1]:3128"}, ""),
    ({**LOGIN, "REGPROXY_LISTEN": "192.0.2.1:3128"}, "whoever reaches 192.0.2.1:3128 may have"),
    ({**LOGIN, **HERE, "REGPROXY_TLS_LISTEN": "192.0.2.1:443"}, "whoever reaches 192.0.2.1:443 may"),
    # A balancer on this machine is reached by others.
    ({**LOGIN, **HERE, "REGPROXY_PROXY_PROTOCOL": "127.0.0.1"}, "whoever reaches 127.0.0.1:3128 may have"),
    ({**LOGIN, **HERE, "REGPROXY_TRANSPARENT_LISTEN": ":443"}, "whoever reaches "),
]


@pytest.mark.parametrize("env, want", EXPOSED)
def test_the_warning(env: dict[str, str], want: str) -> None:
    said = exposed(load(env))
    assert said.startswith(want) and bool(said) is bool(want)
