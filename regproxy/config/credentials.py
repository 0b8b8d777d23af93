"""Parse where a registry's credentials come from: the table `[origin."host".credentials]`.

Nothing is read or run here. Error texts name keys and never values.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from msgspec import Struct

from regproxy.config.misspelt import key_hint
from regproxy.config.values.globs import parse_glob
from regproxy.config.values.host_rules import parse_host, split_host_port
from regproxy.config.values.numbers import parse_positive_time

HELPER_PREFIX: Final = "docker-credential-"
HELPER_SECONDS: Final = 10.0
LABEL_MAX: Final = 64  # characters

_TOKEN = re.compile(r"[!-~]+")

LoginKind = Literal["basic", "identity", "bearer"]


@dataclass(frozen=True, slots=True)
class Login:
    """A credential. `secret` is a password, or for `identity` an OAuth2 refresh token, or for `bearer` a
    registry's token that is sent unchanged.
    """

    username: str
    secret: str = field(repr=False)
    kind: LoginKind = "basic"

    @property
    def label(self) -> str:
        """Its name in logs and metrics: the username, or "token"."""
        name = "".join(char if char.isprintable() else "?" for char in self.username)
        return name[:LABEL_MAX] or "token"

    @property
    def usable(self) -> bool:
        """Whether it can be sent: encoded as UTF-8, and a token as a field value."""
        try:
            (self.username + self.secret).encode()
        except UnicodeEncodeError:
            return False  # JSON may hold halves of surrogate pairs
        return self.kind != "bearer" or _TOKEN.fullmatch(self.secret) is not None

    @property
    def basic(self) -> bytes:
        """The Authorization value (RFC 7617, UTF-8)."""
        return b"Basic " + b64encode(f"{self.username}:{self.secret}".encode())


class Pair(Struct, frozen=True):
    """A username and password written in the settings."""

    login: Login


class Files(Struct, frozen=True):
    """A username (or the file with it) and the file with the password."""

    username: str
    username_file: str
    password_file: str


class TokenFile(Struct, frozen=True):
    """A file with only a token: a registry's (`bearer`), or an OAuth2 refresh token (`identity`)."""

    path: str
    kind: LoginKind


class DockerConfigFile(Struct, frozen=True):
    """A config.json as written by `docker login`."""

    path: str


@dataclass(frozen=True, slots=True)
class Helper:
    """A program that gets a server's name and prints a JSON object with Username and Secret."""

    command: tuple[str, ...] = field(repr=False)
    server: str = ""
    timeout: float = HELPER_SECONDS

    @property
    def name(self) -> str:
        """The program's name, without its path and arguments, which may be secrets."""
        return self.command[0].rpartition("/")[2]


How = Pair | Files | TokenFile | DockerConfigFile | Helper


class CredentialSource(Struct, frozen=True):
    """The source of a registry's login. `token_server`: (host, port) of a server in another domain to which
    it may be sent; port None is any. `principals`: names of clients whose requests it may go with, None for
    all; `repositories`: patterns (see `globs`) of those that it is for, empty for all.
    """

    how: How
    token_server: tuple[str, int | None] | None = None
    principals: tuple[str, ...] | None = None
    repositories: tuple[str, ...] = ()


_KEYS: Final = (
    *("username", "password", "username_file", "password_file", "token_file", "identity_token_file"),
    *("docker_config", "helper", "exec", "timeout", "server", "token_server", "principals"),
    "repositories",
)
# The kind of source for each key.
_WAYS: Final = {
    "username": "pair",
    "password": "pair",
    "username_file": "pair",
    "password_file": "pair",
    "token_file": "token_file",
    "identity_token_file": "identity_token_file",
    "docker_config": "docker_config",
    "helper": "helper",
    "exec": "exec",
}
_WANT_WAY: Final = (
    "exactly one of: username with password or password_file; username_file with password_file; token_file;"
    " identity_token_file; docker_config; helper; exec"
)


def parse_credentials_table(table: object) -> CredentialSource:
    """Return the source that a table describes. Raises ValueError, which says what would be right, without
    any value.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"a table with {_WANT_WAY}")
    for key in table:
        if key not in _KEYS:
            raise ValueError(f"no key {str(key)!r}{key_hint(str(key), _KEYS, lists=False)}")
    ways = {way for key, way in _WAYS.items() if key in table}
    if len(ways) != 1:
        raise ValueError(_WANT_WAY)
    way = ways.pop()
    if way not in ("helper", "exec"):
        _without(table, ("timeout", "server"), "helper or exec")
    server = _text(table, "token_server")
    return CredentialSource(
        _how(way, table),
        _host_port(server) if server else None,
        _names(table, "principals") if "principals" in table else None,
        tuple(parse_glob(name) for name in _names(table, "repositories")),
    )


def _how(way: str, table: Mapping[str, object]) -> How:
    if way == "pair":
        return _pair(table)
    if way == "token_file":
        return TokenFile(_text(table, way), "bearer")
    if way == "identity_token_file":
        return TokenFile(_text(table, way), "identity")
    if way == "docker_config":
        return DockerConfigFile(_text(table, way))
    command = (helper_program(_text(table, way)), "get") if way == "helper" else _command(table)
    timeout = table.get("timeout", HELPER_SECONDS)
    if isinstance(timeout, bool) or not isinstance(timeout, str | int | float):
        raise ValueError("timeout as a time above 0, such as 10s")
    try:
        seconds = parse_positive_time(str(timeout)) if isinstance(timeout, str) else float(timeout)
        if not 0 < seconds <= 600:
            raise ValueError
    except ValueError:
        raise ValueError("timeout as a time above 0 and up to 10m, such as 10s") from None
    return Helper(command, _text(table, "server"), seconds)


def _pair(table: Mapping[str, object]) -> How:
    username, username_file = _text(table, "username"), _text(table, "username_file")
    password, password_file = _text(table, "password"), _text(table, "password_file")
    if bool(username) == bool(username_file) or bool(password) == bool(password_file):
        raise ValueError(_WANT_WAY)
    if ":" in username:
        raise ValueError("a username without a colon (RFC 7617)")
    if password_file:
        return Files(username, username_file, password_file)
    if username_file:
        raise ValueError(_WANT_WAY)
    return Pair(Login(username, password))


def helper_program(name: str) -> str:
    """Return the program of a credential helper: `ecr-login` is docker-credential-ecr-login."""
    return name if "/" in name or name.startswith(HELPER_PREFIX) else HELPER_PREFIX + name


def _command(table: Mapping[str, object]) -> tuple[str, ...]:
    value = table["exec"]
    texts = isinstance(value, list) and all(isinstance(word, str) and "\0" not in word for word in value)
    if not isinstance(value, list) or not texts or not value or not value[0]:
        raise ValueError(
            'exec as a list of a program and its arguments, such as ["/usr/bin/get-login", "-q"]'
        )
    return tuple(value)


def _text(table: Mapping[str, object], key: str) -> str:
    """Return a text; "" only if the key is absent."""
    if key not in table:
        return ""
    value = table[key]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key} as a text that is not empty")
    return value


def _names(table: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return a list of texts; empty only if the key is absent."""
    value = table.get(key, [])
    texts = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    if not isinstance(value, list) or not texts or (key in table and not value):
        raise ValueError(f"{key} as a list of names that is not empty")
    return tuple(value)


def _without(table: Mapping[str, object], keys: tuple[str, ...], owner: str) -> None:
    for key in keys:
        if key in table:
            raise ValueError(f"{key} only beside {owner}")


def _host_port(text: str) -> tuple[str, int | None]:
    try:
        host, port = split_host_port(text)
        return parse_host(host), port
    except ValueError as error:
        raise ValueError(f"token_server as {error}") from None
