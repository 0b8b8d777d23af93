"""Decide which hosts are intercepted, tunnelled or refused at a CONNECT, and which addresses may be reached.

From values alone: no socket, no clock, no disk. See docs/configuration.md, "Addresses that may be reached".
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from regproxy.config.settings import Config
from regproxy.config.values.host_rules import HostRule
from regproxy.config.values.lists import ANY_PORT
from regproxy.core.addresses import Reach, reach_of
from regproxy.policy.origins import intercepts, names_suffice

_KNOWN_HOSTS_MAX: Final = 4096


class ConnectDecision(Enum):
    """What is done with a CONNECT."""

    INTERCEPT = auto()
    TUNNEL = auto()
    REFUSE = auto()


class ConnectPlan(Struct, frozen=True):
    """The decision on a CONNECT. `reason`: what to tell a client that is refused, "" for others."""

    decision: ConnectDecision
    reason: str = ""


class Interception:
    """One configuration's rules for CONNECTs and for the addresses of origins and tunnels."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connects: dict[tuple[str, int], ConnectPlan] = {}
        # Hosts and ports (None: any) that the configuration has logins for, or sends them to.
        self._logins = frozenset(_login_hosts(config))
        self._written = frozenset(_written_names(config)) | {host for host, _ in self._logins}

    # --- CONNECT -----------------------------------------------------------------------------------------

    def plan_connect(self, host: str, port: int) -> ConnectPlan:
        """Return the plan: intercept registries, tunnel other hosts on the allowed ports, refuse the rest."""
        known = self._connects.get((host, port))
        if known is None:
            known = self._plan_connect(host, port)
            if len(self._connects) >= _KNOWN_HOSTS_MAX:
                self._connects.clear()
            self._connects[host, port] = known
        return known

    def _plan_connect(self, host: str, port: int) -> ConnectPlan:
        config = self._config
        ports = ", ".join(str(p) for p in sorted(config.connect_ports))
        allowed = port in config.connect_ports or ANY_PORT in config.connect_ports
        if intercepts(config, host, port):
            return ConnectPlan(ConnectDecision.INTERCEPT)
        if any(rule.port == port and rule.matches(host, port) for rule in config.allow_targets):
            return ConnectPlan(ConnectDecision.TUNNEL)
        if not allowed:
            return ConnectPlan(
                ConnectDecision.REFUSE,
                f"port {port} may not be reached through this proxy (allowed: {ports}); "
                f"name it in REGISTRIES as {HostRule(host, port)}, or in REGPROXY_CONNECT_PORTS"
                " (REGPROXY_CONNECT_PORTS=* allows every port)",
            )
        return ConnectPlan(ConnectDecision.TUNNEL)

    # --- addresses ---------------------------------------------------------------------------------------

    def address_allowed(
        self, host: str, port: int, address: str, *, answered: bool = False, itself: bool = False
    ) -> bool:
        """Tell whether `host`, which resolved to `address`, may be connected to.

        `answered`: an origin's answer has named it, by a redirect or as the realm of tokens, and no client.
        `itself`: it is the host of that origin, at any port: its token server or storage is often there.

        Public addresses always may. Loopback, link-local and metadata addresses are for hosts that names()
        takes. So are private ones; the rest is REGPROXY_PRIVATE_TARGETS:

        deny         nobody else
        registries   an origin's own host if the settings have it, hosts with a login, and hosts below a
                     domain in REGISTRIES
        allow        these, and every host that a client has named
        """
        reach = reach_of(address)
        if reach is Reach.PUBLIC or self.names(host, port):
            return True
        config = self._config
        mode = config.private_targets
        if reach is Reach.SPECIAL or mode == "deny":
            return False
        if (not answered and mode == "allow") or (itself and self.is_written(host)):
            return True
        if (host, port) in self._logins or (host, None) in self._logins:
            return True
        # Names below a domain are given by its owner; anybody can have one that `reg.*` matches.
        below = (rule for rule in config.registries if rule.pattern.startswith((".", "*.")))
        return any(rule.matches(host, port) for rule in below)

    def names(self, host: str, port: int) -> bool:
        """Tell whether REGISTRIES (without a mask), REGPROXY_RESOLVE or REGPROXY_ALLOW_TARGETS has a host.

        REGISTRIES only where names_suffice(). Origins with a table, and mirrors, are not asked about here:
        see `Way.named`.
        """
        config = self._config
        return (
            host in config.resolve
            or any(rule.matches(host, port) for rule in config.allow_targets)
            or (
                any(rule.pattern == host and rule.matches(host, port) for rule in config.registries)
                and names_suffice(config, host)
            )
        )

    def is_written(self, host: str) -> bool:
        """Tell whether the configuration has this very name, for any port: then no client has made it up."""
        return host in self._written


def _login_hosts(config: Config) -> Iterator[tuple[str, int | None]]:
    for credential in config.credentials:
        yield credential.host, credential.port
    for settings in config.origin_tables.own.values():
        if settings.credentials is not None and settings.credentials.token_server is not None:
            yield settings.credentials.token_server


def _written_names(config: Config) -> Iterator[str]:
    tables = config.origin_tables.own
    yield from (rule.pattern for rule in (*config.registries, *config.allow_targets) if rule.is_exact)
    yield from (host for host, _ in tables)
    for settings in tables.values():
        yield from (mirror.host for mirror in settings.mirrors)
        if settings.address is not None:
            yield settings.address
