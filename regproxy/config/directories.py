"""Choose the directories of the cache and the CA: configured ones, docker-registry-proxy's volumes, or the
user's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msgspec import Struct

from regproxy.config.faults import try_all
from regproxy.config.settings import Config
from regproxy.core.errors import ConfigError, StoreError

VOLUME_CACHE = "/docker_mirror_cache"
VOLUME_CA = "/ca"


class Directories(Struct, frozen=True):
    """The chosen directories. `notes` say which were chosen and why, for the log."""

    cache: Path
    ca_crt: Path
    ca_key: Path
    notes: tuple[str, ...]


def choose(config: Config, env: Mapping[str, str]) -> Directories:
    """Return the directories, created if missing. Raises StoreError for one that can't be created or
    written.
    """
    users = _users_cache(env)
    cache, cache_note = _pick("cache", "REGPROXY_CACHE_DIR", config.cache_dir, VOLUME_CACHE, users)
    ca_crt, ca_key, ca_note = _ca(config, _users_ca(env))
    return Directories(cache, ca_crt, ca_key, (cache_note, ca_note))


def check(config: Config) -> None:
    """Raise ConfigError where choose() could not use a directory that the configuration names. Makes none."""
    named = {"REGPROXY_CACHE_DIR": config.cache_dir, "REGPROXY_CA_DIR": config.ca_dir}
    if config.ca_crt_file and config.ca_key_file:
        del named["REGPROXY_CA_DIR"]
    try_all(partial(_check, variable, Path(path)) for variable, path in named.items() if path)


def _check(variable: str, path: Path) -> None:
    if not _has_ca(path) and (why := _unmakeable(path)):
        raise ConfigError(variable, str(path), f"a directory that this user can make and write: {why}")


def _unmakeable(path: Path) -> str:
    """Return why a directory can neither be written nor be made, "" if it can."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        return f"{there} is no directory"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} is not writable by uid {os.getuid()}"


def cache_path(config: Config, env: Mapping[str, str]) -> Path:
    """Return the cache directory as choose() does, without making it.

    A volume that this user can't write is still the cache's where the user has none: a command run by another
    user than the proxy then says so of the right directory.
    """
    if config.cache_dir:
        return Path(config.cache_dir)
    volume, users = Path(VOLUME_CACHE), _users_cache(env)
    if os.access(volume, os.W_OK | os.X_OK) or (volume.is_dir() and not users.is_dir()):
        return volume
    return users


def ca_paths(config: Config, env: Mapping[str, str]) -> tuple[Path, Path]:
    """Return where the CA's certificate and key are, without making any directory."""
    return _ca(config, _users_ca(env), make=False)[:2]


def _users_cache(env: Mapping[str, str]) -> Path:
    home = Path(env.get("HOME") or "/nonexistent")
    return Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "regproxy"


def _users_ca(env: Mapping[str, str]) -> Path:
    home = Path(env.get("HOME") or "/nonexistent")
    return Path(env.get("XDG_DATA_HOME") or home / ".local" / "share") / "regproxy" / "ca"


def _ca(config: Config, users: Path, *, make: bool = True) -> tuple[Path, Path, str]:
    if config.ca_crt_file and config.ca_key_file:
        ca_crt, ca_key = Path(config.ca_crt_file), Path(config.ca_key_file)
        return ca_crt, ca_key, f"CA: {ca_crt} and {ca_key} (CA_CRT_FILE, CA_KEY_FILE)"
    ca, note = _pick("CA", "REGPROXY_CA_DIR", config.ca_dir, VOLUME_CA, users, make=make)
    return Path(config.ca_crt_file or ca / "ca.crt"), Path(config.ca_key_file or ca / "ca.key"), note


def _pick(
    what: str, variable: str, configured: str | None, volume: str, users: Path, *, make: bool = True
) -> tuple[Path, str]:
    if configured:
        path = Path(configured)
        found = path if not make or _has_ca(path) else _made(path, variable)
        return found, f"{what} directory: {configured} ({variable})"
    if os.access(volume, os.W_OK | os.X_OK):
        return Path(volume), f"{what} directory: {volume} (it exists and is writable)"
    if volume == VOLUME_CA and _has_ca(Path(volume)):
        return Path(volume), f"{what} directory: {volume} (read-only, with a CA in it)"
    why = "is not writable" if Path(volume).exists() else "does not exist"
    note = f"{what} directory: {users} ({volume} {why}; {variable} names another)"
    if not make:
        return users, note
    try:
        return _made(users, variable), note
    except StoreError as error:
        # The user's own directory is the second choice, and may be one that nobody has heard of.
        raise StoreError(f"{volume} {why}, and in its place {error}") from None


def _has_ca(path: Path) -> bool:
    """Tell whether both CA files exist, so that nothing is left to write: a mounted secret is read-only."""
    try:
        return (path / "ca.crt").exists() and (path / "ca.key").exists()
    except PermissionError:  # another user's volume, of which more is said later
        return False


def _made(path: Path, variable: str) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{variable}: {path}: {error.strerror}; name a directory that this user can make"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError(f"{variable}: {path} is not writable by this user (uid {os.getuid()})")
    return path
