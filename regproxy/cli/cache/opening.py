"""The cache directory that a command is for, and what its commands have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from regproxy.cache import layout
from regproxy.cli.common.ending import fail
from regproxy.config.directories import cache_path
from regproxy.config.settings import Config
from regproxy.config.sources import loading
from regproxy.config.values.numbers import parse_positive_time
from regproxy.core.errors import RegproxyError, StoreError

if TYPE_CHECKING:
    from regproxy.cache.index.index import Index


NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Image name, as for docker pull, or sha256:...")
]


class Cache(Struct, frozen=True):
    """A cache directory that can be used, and its index."""

    root: Path
    config: Config
    index: Index


@contextmanager
def opened(path: Path | None) -> Iterator[Cache]:
    """Open the cache that the configuration names; end the command with code 2 where it can't be used."""
    from regproxy.cache.index.index import Index

    try:
        config = loading.read(path, os.environ)
        root = cache_path(config, os.environ)
        _become_owner(root)
        _check(root)
        index = Index.open(layout.index(root))
        try:
            yield Cache(root, config, index)
        finally:
            index.close()
    except RegproxyError as error:
        fail(error)
    except OSError as error:
        fail(StoreError(f"{error.filename or 'the cache'}: {error.strerror or error}"))


def _become_owner(root: Path) -> None:
    """Drop root for the directory's owner: files that root makes would be inaccessible to the proxy."""
    status = root.stat() if os.geteuid() == 0 and root.is_dir() else None
    if status is not None and status.st_uid != 0:
        os.setgroups([])
        os.setgid(status.st_gid)
        os.setuid(status.st_uid)


def _check(root: Path) -> None:
    """Raise StoreError where this is no cache, or one that this user may not use."""
    check_is_cache(root)
    blobs = layout.blobs(root)
    for place in (root, blobs) if blobs.is_dir() else (root,):
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            who = f"uid {os.geteuid()}; run this as its owner, uid {place.stat().st_uid}"
            raise StoreError(f"{place} is not writable by {who}")


def check_is_cache(root: Path) -> None:
    """Raise StoreError where this is no cache, or none that this user can look at."""
    try:
        if not root.is_dir():
            raise StoreError(f"{root}: no such directory; REGPROXY_CACHE_DIR, or --config, names the cache's")
        held = layout.blobs(root).is_dir() or layout.index(root).exists()
    except PermissionError:
        raise StoreError(f"{root} can't be reached by uid {os.geteuid()}; run this as its owner") from None
    if not held:
        raise StoreError(f"{root} holds no cache: there is no blobs/ in it; REGPROXY_CACHE_DIR names another")


def place_of(registry: str) -> tuple[str, int] | None:
    """Return the registry that an option names, None for none; end the command where it is no name."""
    from regproxy.cache.pins import PinError, parse_registry

    if not registry:
        return None
    try:
        return parse_registry(registry)
    except PinError as error:
        fail(error)


def parsed_age(text: str) -> float:
    """Return the seconds of an option such as 30d, 0 where it was not given."""
    if not text:
        return 0.0
    try:
        return parse_positive_time(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None
