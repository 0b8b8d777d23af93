"""The debug views as the rest of the proxy knows them: their places, logins and password.

What mitmweb itself is told is in `mitmweb`, which wants more libraries than a start without a view.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from regproxy.config.hosts import DOCKER_HUB_NAMES, DOCKER_HUB_TOKENS
from regproxy.config.origin_tables import Key, OriginSettings
from regproxy.config.parent_proxy import ParentProxy
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError
from regproxy.core.named_file import read_file
from regproxy.core.secret_file import make_once
from regproxy.telemetry.metrics_dir import VIEWS

CLIENT, HUB = f"{VIEWS}view", f"{VIEWS}hub"  # directories below the supervisor's
LOOPBACK: Final = "127.0.0.1"
HUB_HOSTS: Final = frozenset({*DOCKER_HUB_NAMES, DOCKER_HUB_TOKENS})
_PORTS: Final = range(32_000, 20_000, -1)  # below those that the kernel gives to connections
CA: Final = "mitmproxy-ca.pem"  # mitmproxy's own name: key and certificates
_HUB_CA: Final = "hub-ca.crt"
_PASSWORD_FILE: Final = "REGPROXY_DEBUG_PASSWORD_FILE"
_PASSWORD_MIN: Final = 8  # characters
_INSTALL: Final = (
    "mitmproxy 12.1 or newer, which is not installed here: the image's debug variant has it, or"
    " pip install 'regproxy[debug]' with Python 3.12 or newer"
)


@dataclass(frozen=True, slots=True)
class HubView:
    """Where the mitmweb before Docker Hub listens on loopback, the login for it, and the file of its CA."""

    port: int
    login: str = field(repr=False)
    ca_file: str

    @classmethod
    def make(cls, directory: Path) -> HubView:
        """Choose a free port and a login, and make a CA in that private directory."""
        from regproxy.tls.x509 import make_ca  # not for a start without a view

        directory.mkdir(mode=0o700)
        certificate, key = make_ca(time.time())
        write(directory / CA, key + certificate)
        write(directory / _HUB_CA, certificate)
        return cls(_free_port(), f"regproxy:{secrets.token_hex(16)}", str(directory / _HUB_CA))

    @property
    def proxy(self) -> ParentProxy:
        """The parent proxy that it is to workers."""
        return ParentProxy(LOOPBACK, self.port, basic(self.login))


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
    for name, now, before in (
        ("DEBUG", config.debug, former.debug),
        ("DEBUG_HUB", config.debug_hub, former.debug_hub),
    ):
        if now != before:
            raise ConfigError(name, str(now).lower(), "the same until the next start")


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


def page_password(config: Config, own: Path) -> tuple[str, Path]:
    """Return the password of the pages and the file that has it: `own`, made once, where none is named."""
    if config.debug_password_file is not None:
        return _read_password(config.debug_password_file), Path(config.debug_password_file)
    try:
        # Both views may be the first to ask.
        make_once(own, f"{secrets.token_urlsafe(18)}\n".encode(), lambda found: bool(found.strip()))
        return own.read_text().strip(), own
    except OSError as error:
        raise ConfigError(_PASSWORD_FILE, str(own), f"can't be made or read: {error.strerror}") from None


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


def basic(login: str) -> bytes:
    """Return the value of Proxy-Authorization for a login, user:password."""
    return b"Basic " + b64encode(login.encode())


def write(path: Path, content: bytes) -> None:
    """Write a file for this user alone."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def _free_port() -> int:
    for port in _PORTS:
        with suppress(OSError), socket.socket() as sock:
            sock.bind((LOOPBACK, port))
            return port
    raise ConfigError("DEBUG_HUB", "true", f"a free port between {_PORTS.stop} and {_PORTS.start}")
