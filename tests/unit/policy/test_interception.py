"""What a CONNECT comes to, and which addresses may be connected to, from values alone."""

from __future__ import annotations

import pytest

from regproxy.config.sources.assembly import load
from regproxy.policy.interception import ConnectDecision, Interception


def interception(**env: str) -> Interception:
    return Interception(load(env))


I, T, R = ConnectDecision.INTERCEPT, ConnectDecision.TUNNEL, ConnectDecision.REFUSE  # noqa: E741

CONNECTS = [
    # what the drop-in always intercepts, and what it does by default
    ({}, "registry-1.docker.io", 443, I),
    ({}, "auth.docker.io", 443, I),
    ({}, "docker.caching.proxy.internal", 443, I),
    ({}, "ghcr.io", 443, I),
    ({}, "quay.io", 443, I),
    # the name is a whole name
    ({}, "evilghcr.io", 443, T),
    ({}, "ghcr.io.example.com", 443, T),
    ({}, "sub.ghcr.io", 443, T),
    # other hosts: tunnels on the allowed ports
    ({}, "example.com", 443, T),
    ({}, "example.com", 80, R),
    ({}, "example.com", 22, R),
    ({}, "ghcr.io", 22, R),
    ({}, "ghcr.io", 8443, R),
    ({"REGPROXY_CONNECT_PORTS": "443 8443"}, "example.com", 8443, T),
    ({"REGPROXY_CONNECT_PORTS": "443 8443"}, "ghcr.io", 8443, I),
    ({"REGPROXY_CONNECT_PORTS": "8443"}, "example.com", 443, R),
    ({"REGPROXY_CONNECT_PORTS": "*"}, "example.com", 22, T),
    ({"REGPROXY_CONNECT_PORTS": "*"}, "ghcr.io", 8443, I),
    ({"REGISTRIES": r"~^reg\d\.example$"}, "reg1.example", 443, I),
    ({"REGISTRIES": r"~^reg\d\.example$"}, "reg1.example.evil", 443, T),
    ({"REGISTRIES": "https://reg.example/"}, "reg.example", 443, I),
    # a registry keeps 443, whatever else may be connected to
    ({"REGPROXY_CONNECT_PORTS": "8443"}, "ghcr.io", 443, I),
    # a registry with a port is that port's alone
    ({"REGISTRIES": "reg.test:5000"}, "reg.test", 5000, I),
    ({"REGISTRIES": "reg.test:5000"}, "reg.test", 5001, R),
    ({"REGISTRIES": "reg.test:5000"}, "reg.test", 443, T),
    ({"REGISTRIES": "reg.test:5000"}, "other.test", 5000, R),
    # masks
    ({"REGISTRIES": "*.example.com"}, "a.b.example.com", 443, I),
    ({"REGISTRIES": "*.example.com"}, "example.com", 443, T),
    ({"REGISTRIES": ".example.com"}, "example.com", 443, I),
    ({"REGISTRIES": "reg.*"}, "reg.example.com", 443, I),
    ({"REGISTRIES": "*.example.com:5000"}, "a.example.com", 5000, I),
    # a target that is allowed with its port may be reached there
    ({"REGPROXY_ALLOW_TARGETS": "db.test:5432"}, "db.test", 5432, T),
    ({"REGPROXY_ALLOW_TARGETS": "db.test:5432"}, "db.test", 5433, R),
    ({"REGPROXY_ALLOW_TARGETS": "db.test"}, "db.test", 5432, R),
    ({"REGISTRIES": "reg.test:5000", "REGPROXY_ALLOW_TARGETS": "reg.test:5000"}, "reg.test", 5000, I),
]


@pytest.mark.parametrize("env, host, port, want", CONNECTS, ids=str)
def test_plan_connect(env: dict[str, str], host: str, port: int, want: ConnectDecision) -> None:
    rules = interception(**env)
    first = rules.plan_connect(host, port)
    assert first.decision is want
    assert rules.plan_connect(host, port) == first  # remembered
    assert bool(first.reason) == (want is R)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254"])
def test_an_expression_names_nobody_exactly(address: str) -> None:
    rules = interception(REGISTRIES=r"~reg\.test")
    assert rules.plan_connect("reg.test", 443).decision is I
    assert not rules.address_allowed("reg.test", 443, address)
    assert not rules.address_allowed("reg.test", 443, "10.0.0.1", answered=True, itself=True)
    assert not rules.is_written("reg.test")


def test_a_refused_port_says_what_to_do() -> None:
    reason = interception().plan_connect("reg.test", 5000).reason
    for part in ("5000", "443", "reg.test:5000", "REGISTRIES", "REGPROXY_CONNECT_PORTS=*"):
        assert part in reason


def test_what_is_remembered_of_connects_is_bounded() -> None:
    rules = interception()
    for number in range(10_000):
        assert rules.plan_connect(f"h{number}.test", 443).decision is T
    assert len(rules._connects) < 10_000
    assert rules.plan_connect("ghcr.io", 443).decision is I


SPECIAL = [
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "0.0.0.0",
    "::",
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "168.63.129.16",
    "100.100.100.200",
    "224.0.0.1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
]
PRIVATE = ["192.0.2.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"]

NAMED = [
    {"REGPROXY_ALLOW_TARGETS": "reg.test"},
    {"REGPROXY_ALLOW_TARGETS": ".test"},
    {"REGPROXY_ALLOW_TARGETS": "reg.test:443"},
    {"REGPROXY_RESOLVE": "reg.test=127.0.0.9"},
    {"REGISTRIES": "reg.test"},
    {"REGISTRIES": "reg.test:443"},
]
NOT_NAMED: list[dict[str, str]] = [
    {},
    {"REGPROXY_ALLOW_TARGETS": "other.test"},
    {"REGPROXY_ALLOW_TARGETS": "reg.test:5000"},
    {"REGPROXY_RESOLVE": "other.test=127.0.0.9"},
    {"REGISTRIES": "reg.test:5000"},
    # a mask names nobody: whoever can register a name below it could point that at 127.0.0.1
    {"REGISTRIES": "*.test"},
    {"REGISTRIES": "reg.*"},
]


@pytest.mark.parametrize("address", SPECIAL, ids=str)
def test_special_addresses_are_for_hosts_that_are_named(address: str) -> None:
    for env in NOT_NAMED:
        assert not interception(**env).address_allowed("reg.test", 443, address), env
    for env in NAMED:
        assert interception(**env).address_allowed("reg.test", 443, address), env


MODES = ("allow", "registries", "deny")
BELOW = {"REGISTRIES": "*.test"}
LOGIN = {"AUTH_REGISTRIES": "reg.test:u:p"}
WRITTEN = {"REGISTRIES": "reg.test:5000"}
PRIVATE_TARGETS: list[tuple[dict[str, str], bool, bool, str]] = [
    # the settings, whether an answer has named reg.test:443, whether its own, modes that let it be private
    ({}, False, False, "allow"),
    ({}, True, False, ""),
    ({}, True, True, ""),
    ({"REGISTRIES": "reg.test"}, False, False, "allow registries"),
    ({"REGISTRIES": "reg.test"}, True, False, "allow registries"),
    (BELOW, False, False, "allow registries"),
    (BELOW, True, False, "allow registries"),
    (LOGIN, False, False, "allow registries"),
    (LOGIN, True, False, "allow registries"),
    (WRITTEN, False, False, "allow"),
    (WRITTEN, True, False, ""),
    (WRITTEN, True, True, "allow registries"),
    # anybody can have a name that these match
    ({"REGISTRIES": "reg.*"}, False, False, "allow"),
    ({"REGISTRIES": "reg.*"}, True, False, ""),
    ({"REGISTRIES": r"~reg\.test"}, False, False, "allow"),
    # exceptions, and addresses that the settings themselves have
    ({"REGPROXY_ALLOW_TARGETS": ".test"}, True, False, "allow registries deny"),
    ({"REGPROXY_ALLOW_TARGETS": "reg.test:443"}, False, False, "allow registries deny"),
    ({"REGPROXY_RESOLVE": "reg.test=10.0.0.1"}, False, False, "allow registries deny"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env, answered, itself, modes", PRIVATE_TARGETS, ids=str)
def test_who_may_be_at_a_private_address(
    env: dict[str, str], answered: bool, itself: bool, modes: str, mode: str
) -> None:
    rules = interception(REGPROXY_PRIVATE_TARGETS=mode, **env)
    for address in PRIVATE:
        allowed = rules.address_allowed("reg.test", 443, address, answered=answered, itself=itself)
        assert allowed is (mode in modes.split()), address
    assert rules.address_allowed("reg.test", 443, "8.8.8.8", answered=answered, itself=itself)


def test_registries_are_the_default() -> None:
    for address in PRIVATE:
        assert not interception().address_allowed("app.test", 443, address)
        assert interception(REGISTRIES="app.test").address_allowed("app.test", 443, address)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "::1", "fd00::1"])
def test_denied_are_names_but_not_addresses_that_the_settings_have(address: str) -> None:
    """Whoever answers for a registry's name may not lead into this network; an address is what it is."""
    env = {"REGPROXY_PRIVATE_TARGETS": "deny"}
    bracketed = f"[{address}]" if ":" in address else address
    assert not interception(REGISTRIES="reg.test", **env).address_allowed("reg.test", 443, address)
    assert interception(REGISTRIES=bracketed, **env).address_allowed(address, 443, address)
    assert not interception(REGISTRIES=f"{bracketed}:5000", **env).address_allowed(address, 443, address)
