"""How mitmweb is set up between clients and the proxy (DEBUG), and between it and Docker Hub (DEBUG_HUB).

All that mitmweb is told is in files of a private directory: nothing of it shows in `ps`, and its own page,
which lists its options, has no password among them.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import argon2
from cryptography.hazmat.primitives import serialization

from regproxy.config.hosts import DOCKER_HUB_REGISTRY
from regproxy.config.origin_tables import OriginSettings
from regproxy.config.settings import Config
from regproxy.config.values.host_rules import Address, HostRule
from regproxy.config.values.lists import ANY_PORT
from regproxy.core.addresses import EVERY_ADDRESS
from regproxy.debug.views import CA, LOOPBACK, HubView, basic, write
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins
from regproxy.tls.ca_files import CaPair
from regproxy.tls.x509 import pem

_LARGE: Final = "128k"  # bodies from this size on are passed on as they come, and not kept


@dataclass(frozen=True, slots=True)
class AddonSettings:
    """What the addon is told. `intercepted`: expressions for hosts, with ports; none are all ports.

    `own_login`: the Proxy-Authorization that its clients have to show, "" for any. `parent_login`: the one
    that it shows itself.
    """

    intercepted: tuple[tuple[str, tuple[int, ...]], ...]
    shows_credentials: bool
    own_login: str = field(default="", repr=False)
    parent_login: str = field(default="", repr=False)


# --- what mitmweb is told --------------------------------------------------------------------------------


def write_client_view(directory: Path, config: Config, password: str, pair: CaPair, inner_port: int) -> None:
    """Write the files of the mitmweb before the proxy, whose own port is `inner_port` on loopback.

    It signs with the CA that clients trust. Behind it is a socket that the supervisor holds, so it need not
    look at certificates there.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    key = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write(directory / CA, key + b"".join(map(pem, pair.certificates)))
    rules = tuple(_expression(rule, config) for rule in config.registries)
    settings = AddonSettings(rules, config.debug_credentials)
    options = {
        "mode": [f"upstream:http://{LOOPBACK}:{inner_port}"],
        **_listens(config.listen),
        **_page(config.debug_listen, password),
        "ssl_insecure": True,
    }
    _write_options(directory, options, settings)


def write_hub_view(directory: Path, config: Config, password: str, hub: HubView) -> None:
    """Write the files of the mitmweb before Docker Hub, which is asked as the configuration says."""
    origins, origin = Origins(config), Origin("https", DOCKER_HUB_REGISTRY, 443)
    parent, own = origins.way(origin).proxy, origins.settings(origin)
    trusted = directory / "trusted.pem"
    write(trusted, b"\n".join(_trusted(own)))
    settings = AddonSettings(
        (("", ()),),
        config.debug_credentials,
        own_login=basic(hub.login).decode(),
        parent_login=parent.authorization.decode() if parent is not None else "",
    )
    options = {
        "mode": [f"upstream:http://{Address(parent.host, parent.port)}" if parent is not None else "regular"],
        **_listens(Address(LOOPBACK, hub.port)),
        **_page(config.debug_hub_listen, password),
        "ssl_insecure": not own.verify,
        "ssl_verify_upstream_trusted_ca": str(trusted),
    }
    _write_options(directory, options, settings)


def _page(listen: Address, password: str) -> Mapping[str, Any]:
    host = "" if listen.host in EVERY_ADDRESS - {"0.0.0.0"} else listen.host
    hashed = argon2.PasswordHasher().hash(password)
    return {"web_host": host, "web_port": listen.port, "web_password": hashed, "web_open_browser": False}


def _listens(listen: Address) -> Mapping[str, Any]:
    # mitmproxy's "" is IPv4 and IPv6, its "::" IPv6 alone.
    host = "" if listen.host == "::" else listen.host
    return {"listen_host": host, "listen_port": listen.port}


def _write_options(directory: Path, options: Mapping[str, Any], settings: AddonSettings) -> None:
    """Write mitmproxy's configuration. JSON is YAML."""
    every = {
        **options,
        "scripts": [str(Path(__file__).with_name("addon.py"))],
        "stream_large_bodies": _LARGE,
        "connection_strategy": "lazy",
        "upstream_cert": False,  # or it would connect before a client has said what it wants
        "block_global": False,  # who may connect is not its business
        "http2": False,
        "onboarding": False,
        "showhost": True,
        "termlog_verbosity": "warn",
    }
    write(directory / "config.yaml", json.dumps(every, indent=1).encode())
    write(directory / "addon.json", json.dumps(asdict(settings)).encode())


def _expression(rule: HostRule, config: Config) -> tuple[str, tuple[int, ...]]:
    """Return an expression that finds the hosts of a rule, and the ports that they are intercepted on."""
    text = rule.pattern
    if text.startswith("~"):
        found = text[1:]
    elif text.startswith("*."):
        found = rf"^.+{re.escape(text[1:])}$"
    elif text.startswith("."):
        found = rf"^(?:.+\.)?{re.escape(text[1:])}$"
    elif text.endswith(".*"):
        found = rf"^{re.escape(text[:-1])}.+$"
    else:
        found = rf"^{re.escape(text)}$"
    if rule.port is not None:
        return found, (rule.port,)
    return found, () if ANY_PORT in config.connect_ports else tuple(sorted({443, *config.connect_ports}))


def _trusted(settings: OriginSettings) -> Iterator[bytes]:
    """Yield the PEM of the system's CAs, and of those that are configured."""
    system = ssl.get_default_verify_paths()
    for path in (system.cafile, settings.ca_file):
        if path is not None:
            yield Path(path).read_bytes()
