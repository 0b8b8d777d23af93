"""Look up the login of a host in the settings, files, Docker's config.json and credential helpers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

from msgspec import Struct

from regproxy.auth.credential_helpers import Helpers
from regproxy.auth.docker_config import DockerConfig, parse_docker_config, server_name
from regproxy.auth.secret_files import Watched
from regproxy.config.credentials import (
    CredentialSource,
    DockerConfigFile,
    Files,
    Helper,
    How,
    Login,
    Pair,
    TokenFile,
    helper_program,
)
from regproxy.config.faults import try_all
from regproxy.config.origin_tables import label_of
from regproxy.config.settings import Config
from regproxy.config.values.host_rules import HostRule
from regproxy.config.values.login_entries import Credential
from regproxy.core.errors import ConfigError, CredentialError
from regproxy.core.named_file import read_text


class Provider(Protocol):
    """A source of logins by host (lower case, without brackets)."""

    async def login(self, host: str, port: int) -> Login | None:
        """Return the login for a host, None if there is none. Raises CredentialError.

        Slow lookups do not block other requests, and their wait is limited.
        """

    def forget(self, host: str, port: int) -> None:
        """Look again the next time, where that can find another login: this one was refused."""


class Static:
    """A login written in the settings, whatever the host."""

    def __init__(self, login: Login) -> None:
        self._login = login

    async def login(self, host: str, port: int) -> Login | None:
        return self._login

    def forget(self, host: str, port: int) -> None:
        """Do nothing: there is no other login."""


class Pairs:
    """AUTH_REGISTRIES: the hosts that it names, ahead of masks, of which the longest goes first, as in nginx.

    One with a port goes before one without.
    """

    def __init__(self, credentials: Iterable[Credential]) -> None:
        logins = {HostRule(pair.host, pair.port): Login(pair.username, pair.password) for pair in credentials}
        self._logins = {(rule.pattern, rule.port): login for rule, login in logins.items() if rule.is_exact}
        masks = [(rule, login) for rule, login in logins.items() if not rule.is_exact]
        self._masks = sorted(masks, key=lambda item: (-len(item[0].pattern), item[0].port is None))

    async def login(self, host: str, port: int) -> Login | None:
        found = self._logins.get((host, port)) or self._logins.get((host, None))
        if found is not None:
            return found
        return next((login for rule, login in self._masks if rule.matches(host, port)), None)

    def forget(self, host: str, port: int) -> None:
        """Do nothing: there is no other login."""


class FromFiles:
    """A username and a password, or a token, from files."""

    def __init__(self, how: Files | TokenFile, clock: Callable[[], float]) -> None:
        if isinstance(how, TokenFile):
            paths: tuple[str, ...] = (how.path,)
        else:
            paths = tuple(path for path in (how.password_file, how.username_file) if path)
        self._how = how
        self._watched = Watched(paths, self._parse, clock)

    async def login(self, host: str, port: int) -> Login | None:
        return await self._watched.value()

    def forget(self, host: str, port: int) -> None:
        self._watched.forget()

    def check(self) -> None:
        """Read the files once. Raises CredentialError, which names the one that is of no use."""
        self._watched.check()

    def _parse(self, texts: list[str]) -> Login:
        # Editors and `echo` add a line break at the end, which is not part of a password.
        words = [text.rstrip("\r\n") for text in texts]
        if not all(words):
            raise ValueError("a text: the file, or another beside it, is empty")
        if isinstance(self._how, TokenFile):
            login = Login("", words[0].strip(), self._how.kind)
            if not login.usable:
                raise ValueError("a token in one line of ASCII characters")
            return login
        username = words[1] if self._how.username_file else self._how.username
        if ":" in username:
            raise ValueError("usable: the username beside it holds a colon (RFC 7617)")
        return Login(username, words[0])


class FromHelper:
    """A login from a helper program. It is asked for `server`, or for the host."""

    def __init__(self, helper: Helper, helpers: Helpers) -> None:
        self._helper, self._helpers = helper, helpers

    async def login(self, host: str, port: int) -> Login | None:
        return await self._helpers.login(self._helper, self._server(host, port))

    def forget(self, host: str, port: int) -> None:
        self._helpers.forget(self._helper, self._server(host, port))

    def _server(self, host: str, port: int) -> str:
        return self._helper.server or server_name(host, port)


class FromDockerConfig:
    """Docker's config.json, and the helpers that it names."""

    def __init__(self, path: str, helpers: Helpers, clock: Callable[[], float]) -> None:
        self._watched = _watched_config(path, clock)
        self._helpers = helpers
        self._last = DockerConfig()

    async def login(self, host: str, port: int) -> Login | None:
        try:
            self._last = config = await self._watched.value()
        except CredentialError:
            return None  # already logged; the error is not about this host in particular
        helper, found = _helper_of(config, host, port), None
        if helper is not None:
            try:
                found = await self._helpers.login(helper, server_name(host, port))
            except CredentialError:
                if config.names(host, port):
                    raise
        return found or config.login(host, port)

    def forget(self, host: str, port: int) -> None:
        self._watched.forget()
        helper = _helper_of(self._last, host, port)
        if helper is not None:
            self._helpers.forget(helper, server_name(host, port))


def _watched_config(path: str, clock: Callable[[], float]) -> Watched[DockerConfig]:
    return Watched((path,), lambda texts: parse_docker_config(texts[0]), clock)


def _helper_of(config: DockerConfig, host: str, port: int) -> Helper | None:
    name = config.helper(host, port)
    return Helper((helper_program(name), "get")) if name else None


class Holder(Struct, frozen=True):
    """A provider to ask for a host's login. `eager`: send its login before the registry asks for one, as
    docker-registry-proxy does. `token_server`: see CredentialSource.
    """

    provider: Provider
    eager: bool = False
    token_server: tuple[str, int | None] | None = None


class Wallet:
    """All providers. One per worker. `table` returns the credential source of a host's own table."""

    def __init__(
        self,
        credentials: Iterable[Credential],
        docker_config: str | None,
        table: Callable[[str, int], CredentialSource | None],
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._clock = clock
        self._helpers = Helpers(clock)
        self._pairs = Holder(Pairs(credentials), eager=True)
        self._docker = FromDockerConfig(docker_config, self._helpers, clock) if docker_config else None
        self._made: dict[CredentialSource, Holder] = {}

    def holders(self, host: str, port: int) -> list[Holder]:
        """Return the providers to ask for a host's login, in order."""
        source = self._table(host, port)
        found = [self._holder(source)] if source is not None else []
        found.append(self._pairs)
        if self._docker is not None:
            found.append(Holder(self._docker))
        return found

    def close(self) -> None:
        """Cancel running helpers."""
        self._helpers.close()

    def _holder(self, source: CredentialSource) -> Holder:
        holder = self._made.get(source)
        if holder is None:
            eager = isinstance(source.how, Pair)
            holder = Holder(self._provider(source), eager, source.token_server)
            self._made[source] = holder  # at most one for each table
        return holder

    def _provider(self, source: CredentialSource) -> Provider:
        how = source.how
        if isinstance(how, Pair):
            return Static(how.login)
        if isinstance(how, Helper):
            return FromHelper(how, self._helpers)
        if isinstance(how, DockerConfigFile):
            return FromDockerConfig(how.path, self._helpers, self._clock)
        return FromFiles(how, self._clock)


# --- at the start ----------------------------------------------------------------------------------------


def check_credential_files(config: Config) -> None:
    """Raise ConfigError where a file with logins is of no use as it is now. No helper is run."""
    try_all(partial(_check, files, how) for files, how in _sources(config))


def _sources(config: Config) -> Iterator[tuple[dict[str, str], How]]:
    """Yield where logins come from, with the files by the settings that name them."""
    if config.docker_config is not None:
        yield {"REGPROXY_DOCKER_CONFIG": config.docker_config}, DockerConfigFile(config.docker_config)
    for key, table in config.origin_tables.own.items():
        if table.credentials is not None:
            how, label = table.credentials.how, f"{label_of(key)}.credentials"
            yield {f"{label}.{name}": path for name, path in _files_of(how).items()}, how


def _files_of(how: How) -> dict[str, str]:
    """Return the files of a source by their keys; a password's is ahead of its username's."""
    if isinstance(how, DockerConfigFile):
        return {"docker_config": how.path}
    if isinstance(how, TokenFile):
        return {"token_file" if how.kind == "bearer" else "identity_token_file": how.path}
    if isinstance(how, Files):
        both = {"password_file": how.password_file, "username_file": how.username_file}
        return {key: path for key, path in both.items() if path}
    return {}


def _check(files: Mapping[str, str], how: How) -> None:
    def check_readable(setting: str, path: str) -> None:
        try:
            read_text(path)
        except OSError as error:
            raise ConfigError(setting, path, f"a file of text that can be read: {error.strerror}") from None

    try_all(partial(check_readable, setting, path) for setting, path in files.items())
    try:
        if isinstance(how, DockerConfigFile):
            _watched_config(how.path, time.monotonic).check()
        elif isinstance(how, Files | TokenFile):
            FromFiles(how, time.monotonic).check()
    except CredentialError as error:
        setting, path = next(iter(files.items()))
        raise ConfigError(setting, path, str(error).removeprefix(f"{path}: ")) from None
