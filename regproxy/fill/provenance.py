"""Decide whether what a registry says of content is believed, where content of others is stored beside it.

A digest is known to many, and a registry may say that it has what it names without having it: then it would
get, or have its clients get, what the cache holds of another registry's private content. So a registry's word
counts for content that came from it, and for content that is for everybody anyway. Anything else has to be
fetched from it, whatever is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from regproxy.http.origin import Origin


class Presences(Protocol):
    """The index, as far as it says where content is."""

    def registries_of(self, digest: str) -> set[tuple[str, int]]:
        """Return the registries (host, port) that are known to have it."""

    def put_presence(
        self, host: str, port: int, repository: str, digest: str, size: int, asked: float | None = None
    ) -> None:
        """Enter that a registry has content in a repository, unless it was deleted there after `asked`."""


class Provenance:
    """What is known of where content came from. `is_shared(host, port)`: its content is for everybody.

    `guarded` False: nothing in the cache is kept from anybody, and everything is believed.
    """

    def __init__(
        self, index: Presences | None, is_shared: Callable[[str, int], bool], *, guarded: bool
    ) -> None:
        self._index = index
        self._is_shared = is_shared
        self.guarded: Final = guarded and index is not None

    def covers(self, origin: Origin, digest: str) -> bool:
        """Return whether this registry's word is enough for its clients to have stored content."""
        if self._index is None or not self.guarded:
            return True
        registries = self._index.registries_of(digest)
        if (origin.host, origin.port) in registries:
            return True
        return bool(registries) and all(self._is_shared(*registry) for registry in registries)

    def named(self, origin: Origin, repository: str, digest: str, size: int, asked: float) -> bool:
        """Note that a registry has named stored content in a repository; False: that is not to be believed.

        `asked`: when, monotonic.
        """
        if self._index is None or not self.guarded:
            return True
        if not self.covers(origin, digest):
            return False
        self._index.put_presence(origin.host, origin.port, repository, digest, size, asked)
        return True


OPEN: Final = Provenance(None, lambda host, port: True, guarded=False)
