"""Read Docker's config.json: logins, and the helpers that have them (docker/cli, cli/config/configfile)."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from regproxy.config.credentials import Login

# `docker login` without a registry: one login for all of Docker Hub's names.
HUB_SERVER: Final = "https://index.docker.io/v1/"
HUB_HOSTS: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io"})
# The username with which a helper marks a refresh token.
TOKEN_USER: Final = "<token>"

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"(?:https?://)?([^/]+)(?:/v[12]/?|/)?")


class DockerConfig(Struct, frozen=True):
    """Logins and helper names by server (`host` or `host:port`), and the helper for all other servers."""

    logins: Mapping[str, Login] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    def helper(self, host: str, port: int) -> str:
        """Return the name of the helper that has this host's login; "" if none has."""
        return next((self.helpers[key] for key in _names(host, port) if key in self.helpers), self.store)

    def names(self, host: str, port: int) -> bool:
        """Tell whether this host has a helper of its own."""
        return any(key in self.helpers for key in _names(host, port))

    def login(self, host: str, port: int) -> Login | None:
        """Return the login that the file itself has for this host."""
        return next((self.logins[key] for key in _names(host, port) if key in self.logins), None)


def server_name(host: str, port: int) -> str:
    """Return the name by which helpers know a registry."""
    return HUB_SERVER if host in HUB_HOSTS else _names(host, port)[-1]


def _names(host: str, port: int) -> tuple[str, ...]:
    """Return the possible keys of a host. A key without a port means 443 or 80."""
    if host in HUB_HOSTS:
        return ("index.docker.io", "docker.io", "registry-1.docker.io")
    bracketed = f"[{host}]" if ":" in host else host
    exact = f"{bracketed}:{port}"
    return (exact, bracketed) if port in (80, 443) else (exact,)


def parse_docker_config(text: str) -> DockerConfig:
    """Return the contents of a config.json. Raises ValueError, without any of its text, if it isn't one.

    Entries that can't be used, such as those for a path on a host, are left out.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("a docker config.json, a JSON object") from None
    if not isinstance(document, dict):
        raise ValueError("a docker config.json, a JSON object")
    logins = ((_key(key), _login(entry)) for key, entry in _items(document, "auths"))
    helpers = ((_key(key), _helper(name)) for key, name in _items(document, "credHelpers"))
    return DockerConfig(
        {key: login for key, login in logins if key and login is not None and login.usable},
        {key: name for key, name in helpers if key and name},
        _helper(document.get("credsStore")),
    )


def _items(document: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    table = document.get(name)
    return list(table.items()) if isinstance(table, dict) else []


def _key(text: str) -> str:
    match = _KEY.fullmatch(text.strip())
    return match[1].lower() if match is not None else ""


def _helper(name: object) -> str:
    """Return a helper's name, "" if unusable. It is not a path: the program is docker-credential-<name>."""
    return name if isinstance(name, str) and _HELPER.fullmatch(name) is not None else ""


def _login(entry: Any) -> Login | None:
    if not isinstance(entry, dict):
        return None
    words = {key: value for key, value in entry.items() if isinstance(value, str)}
    username, password = words.get("username", ""), words.get("password", "")
    if words.get("auth"):
        username, password = _decoded(words["auth"])
    if words.get("registrytoken"):
        return Login(username, words["registrytoken"], "bearer")
    if words.get("identitytoken"):
        return Login(username, words["identitytoken"], "identity")
    return Login(username, password) if username and password else None


def _decoded(auth: str) -> tuple[str, str]:
    try:
        text = b64decode(auth, validate=False).decode().rstrip("\0")
    except (binascii.Error, ValueError):
        return "", ""
    username, _, password = text.partition(":")
    return username, password


def parse_helper_answer(body: bytes) -> Login | None:
    """Return the login that a helper printed, None for an empty one. Raises ValueError if it is malformed."""
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ValueError("a JSON object with Username and Secret")
    username, secret = answer.get("Username", ""), answer.get("Secret", "")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise ValueError("a JSON object with Username and Secret")
    if not secret:
        return None
    identity = username in (TOKEN_USER, "")
    login = Login("", secret, "identity") if identity else Login(username, secret)
    if not login.usable:
        raise ValueError("a Username and Secret in UTF-8")
    return login
