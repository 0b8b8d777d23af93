"""How mitmweb is set up between clients and the proxy (DEBUG), and between it and Docker Hub (DEBUG_HUB).

All that mitmweb is told is in files of a private directory: nothing of it shows in `ps`, and its own page,
which lists its options, has no password among them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import ssl
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import argon2
from cryptography.hazmat.primitives import serialization
from msgspec import Struct, to_builtins

from regproxy.config.hosts import DOCKER_HUB_NAMES, DOCKER_HUB_REGISTRY, DOCKER_HUB_TOKENS
from regproxy.config.origin_tables import Key, OriginSettings
from regproxy.config.parent_proxy import EVERY_ADDRESS, ParentProxy
from regproxy.config.settings import Config
from regproxy.config.values import ANY_PORT, Address, HostRule
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_file
from regproxy.http.origin import Origin
from regproxy.policy.origins import Origins
from regproxy.telemetry.metrics_dir import VIEWS
from regproxy.tls.ca_files import CaPair
from regproxy.tls.x509 import make_ca, pem

CLIENT, HUB = f"{VIEWS}view", f"{VIEWS}hub"  # directories below the supervisor's
LOOPBACK: Final = "127.0.0.1"
HUB_HOSTS: Final = frozenset({*DOCKER_HUB_NAMES, DOCKER_HUB_TOKENS})
_LARGE: Final = "128k"  # bodies from this size on are passed on as they come, and not kept
_PORTS: Final = range(32_000, 20_000, -1)  # below those that the kernel gives to connections
_CA: Final = "mitmproxy-ca.pem"  # mitmproxy's own name: key and certificates
_HUB_CA: Final = "hub-ca.crt"
_PASSWORD_FILE: Final = "REGPROXY_DEBUG_PASSWORD_FILE"
_PASSWORD_MIN: Final = 8  # characters
_INSTALL: Final = (
    "mitmproxy 12.1 or newer, which is not installed here: the image's debug variant has it, or"
    " pip install 'regproxy[debug]' with Python 3.12 or newer"
)


class AddonSettings(Struct, frozen=True):
    """What the addon is told. `intercepted`: expressions for hosts, with ports; none are all ports.

    `own_login`: the Proxy-Authorization that its clients have to show, "" for any. `parent_login`: the one
    that it shows itself.
    """

    intercepted: tuple[tuple[str, tuple[int, ...]], ...]
    shows_credentials: bool
    own_login: str = ""
    parent_login: str = ""


class HubView(Struct, frozen=True):
    """Where the mitmweb before Docker Hub listens on loopback, the login for it, and the file of its CA."""

    port: int
    login: str
    ca_file: str

    @classmethod
    def make(cls, directory: Path) -> HubView:
        """Choose a free port and a login, and make a CA in that private directory."""
        directory.mkdir(mode=0o700)
        certificate, key = make_ca(time.time())
        _write(directory / _CA, key + certificate)
        _write(directory / _HUB_CA, certificate)
        return cls(_free_port(), f"regproxy:{secrets.token_hex(16)}", str(directory / _HUB_CA))

    @property
    def proxy(self) -> ParentProxy:
        """The parent proxy that it is to workers."""
        return ParentProxy(LOOPBACK, self.port, _basic(self.login))


def check(config: Config) -> None:
    """Raise ConfigError where a debug view is asked for and can't be, or would give clients rights."""
    for name, wanted in (("DEBUG", config.debug), ("DEBUG_HUB", config.debug_hub)):
        if wanted and program() is None:
            raise ConfigError(name, "true", _INSTALL)
    if (config.debug or config.debug_hub) and config.debug_password_file is not None:
        _read_password(config.debug_password_file)
    if not config.debug:
        return
    if config.principals.addresses:
        text = "no address in [principal] tables: behind mitmweb every client has this machine's address"
        raise ConfigError("DEBUG", "true", text)
    if config.proxy_protocol:
        text = (
            "no REGPROXY_PROXY_PROTOCOL: mitmweb does not understand it, and has one address for every client"
        )
        raise ConfigError("DEBUG", "true", text)


def check_same(config: Config, former: Config) -> None:
    """Raise ConfigError where a reload would have other debug views: they keep the ports."""
    for name, field in (("DEBUG", "debug"), ("DEBUG_HUB", "debug_hub")):
        if getattr(config, field) != getattr(former, field):
            raise ConfigError(name, str(getattr(config, field)).lower(), "the same until the next start")


def program() -> str | None:
    """Return the path of mitmweb: beside this Python, else in PATH."""
    beside = Path(sys.executable).with_name("mitmweb")
    return str(beside) if beside.exists() else shutil.which("mitmweb")


def through(config: Config, hub: HubView) -> Config:
    """Return the configuration of workers that ask Docker Hub through the view, and trust its CA there."""
    tables = config.origin_tables
    own: dict[Key, OriginSettings] = dict(tables.own)
    for host in HUB_HOSTS:
        for key in [key for key in own if key[0] == host] or [(host, None)]:
            settings = own.get(key, tables.default)
            address = settings.address or next(iter(config.resolve.get(host, ())), None)
            own[key] = replace(
                settings, parent_proxy=hub.proxy, ca_file=hub.ca_file, verify=True, address=address
            )
    return replace(config, origin_tables=replace(tables, own=own))


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
    _write(directory / _CA, key + b"".join(map(pem, pair.certificates)))
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
    _write(trusted, b"\n".join(_trusted(own)))
    settings = AddonSettings(
        (("", ()),),
        config.debug_credentials,
        own_login=_basic(hub.login).decode(),
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


def page_password(config: Config, own: Path) -> tuple[str, Path]:
    """Return the password of the pages and the file that has it: `own`, made once, where none is named."""
    if config.debug_password_file is not None:
        return _read_password(config.debug_password_file), Path(config.debug_password_file)
    with suppress(OSError):
        if password := own.read_text().strip():
            return password, own
    password = secrets.token_urlsafe(18)
    own.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    own.unlink(missing_ok=True)
    _write(own, f"{password}\n".encode())
    return password, own


def _read_password(path: str) -> str:
    try:
        password = read_file(Path(path)).partition(b"\n")[0].decode().strip()
    except OSError as error:
        expected = f"can't be read: {error.strerror}; its first line is the pages' password"
        raise ConfigError(_PASSWORD_FILE, path, expected) from None
    except UnicodeError:
        raise ConfigError(_PASSWORD_FILE, path, "a first line of printable text") from None
    if len(password) < _PASSWORD_MIN:
        raise ConfigError(_PASSWORD_FILE, path, f"a first line of {_PASSWORD_MIN} characters or more")
    return password


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
    _write(directory / "config.yaml", json.dumps(every, indent=1).encode())
    _write(directory / "addon.json", json.dumps(to_builtins(settings)).encode())


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


def _basic(login: str) -> bytes:
    return b"Basic " + b64encode(login.encode())


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def _free_port() -> int:
    for port in _PORTS:
        with suppress(OSError), socket.socket() as sock:
            sock.bind((LOOPBACK, port))
            return port
    raise ConfigError("DEBUG_HUB", "true", f"a free port between {_PORTS.stop} and {_PORTS.start}")
