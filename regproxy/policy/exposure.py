"""Find out whether private content is within reach of clients that nobody knows."""

from __future__ import annotations

from collections.abc import Iterator

from regproxy.config.settings import Config
from regproxy.config.values.host_rules import Address
from regproxy.core.addresses import is_loopback
from regproxy.policy.access import mode_of
from regproxy.policy.origins import Origins


def is_private_shared(config: Config) -> bool:
    """Return whether content that was pulled with configured credentials is served to every client."""
    tables = config.origin_tables
    if mode_of(tables.default) == "shared" and (config.credentials or config.docker_config):
        return True
    # A registry's own table may give it a login, or share what others' defaults keep.
    logins = bool(config.credentials or config.docker_config)
    own = Origins(config).all_settings()[1:]
    return any(mode_of(each) == "shared" and (logins or each.credentials is not None) for each in own)


def exposed(config: Config) -> str:
    """Return a warning where private content is shared with whoever reaches a port, "" where it is not."""
    if config.unknown_clients == "deny" or not is_private_shared(config):
        return ""
    ports = ", ".join(str(address) for address in _listened(config) if _is_reached(config, address))
    if not ports:
        return ""
    return (
        f"whoever reaches {ports} may have private content that is pulled with the configured credentials"
        " (REGPROXY_ACCESS=verified and REGPROXY_UNKNOWN_CLIENTS=deny keep it from them: docs/access.md)"
    )


def _is_reached(config: Config, address: Address) -> bool:
    """Return whether others than this machine may reach a listener; behind a balancer they do."""
    return bool(config.proxy_protocol) or not is_loopback(address.host)


def _listened(config: Config) -> Iterator[Address]:
    yield config.listen
    yield from config.transparent_listen
    yield from config.tls_listen
