"""Remember whom a registry lets into a repository, for all workers, and say whose requests carry its login.

Askers are named by marks: keyed hashes of a credential or a client's name. Nothing that could be shown to a
registry is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Final, Protocol

from regproxy.config.origin_tables import AccessMode
from regproxy.fill.fill import CacheRequest
from regproxy.http.origin import Origin
from regproxy.policy.access import PUBLIC_SECONDS, Access
from regproxy.policy.principals import Principal
from regproxy.server.exchange import Exchange
from regproxy.server.routes import Route

PUBLIC: Final = "public"  # the mark of a request without credentials
_MARK: Final = 32  # hex digits
_MODES_MAX: Final = 4096


class AccessRecords(Protocol):
    """What is recorded of who was let in: see cache.index.attestations."""

    def put_access(self, host: str, port: int, repository: str, who: str) -> None:
        """Record that a registry has let someone into a repository just now."""

    def accessed_at(self, host: str, port: int, repository: str, who: str) -> float:
        """Return when someone was recorded last (epoch); 0: never."""


class Rights:
    """Who may have what, by the settings and by what registries have said. One for each worker.

    `key`: of the marks, the same in all workers.
    """

    __slots__ = ("_key", "_modes", "_records", "access")

    def __init__(self, access: Access, records: AccessRecords, key: bytes) -> None:
        self.access = access
        self._records = records
        self._key = key
        self._modes: dict[tuple[str, int], AccessMode] = {}

    def mode(self, origin: Origin) -> AccessMode:
        """Return a registry's access mode."""
        if not self.access.guarded:
            return "shared"
        place = (origin.host, origin.port)
        mode = self._modes.get(place)
        if mode is None:
            if len(self._modes) >= _MODES_MAX:
                self._modes.clear()
            mode = self._modes[place] = self.access.mode(origin)
        return mode

    def lends(self, principal: Principal, origin: Origin, repository: str) -> bool:
        """Return whether the registry's configured login may go with a client's request."""
        if not self.access.restricted:
            return True
        return self.access.lends(principal, origin, repository, lambda: self.is_public(origin, repository))

    def wanted(self, exchange: Exchange, origin: Origin, route: Route, *, own_account: bool) -> CacheRequest:
        """Return the request for a registry; nobody gets more by it than its client may have."""
        target = route.target
        lends = self.lends(exchange.principal, origin, target.repository)
        private = self.mode(origin) != "shared"
        return CacheRequest(origin, route.shared.request, target, own_account, lends, private)

    def is_public(self, origin: Origin, repository: str) -> bool:
        """Return whether a request without credentials has worked in this repository lately."""
        return self.recall(origin, repository, PUBLIC, PUBLIC_SECONDS)

    # --- who was let in ----------------------------------------------------------------------------------

    def mark(self, kind: str, value: bytes) -> str:
        """Return the mark of an asker. `kind` keeps credentials and names apart."""
        return hmac.new(self._key, kind.encode() + b"\0" + value, hashlib.sha256).hexdigest()[:_MARK]

    def note(self, origin: Origin, repository: str, who: str) -> None:
        """Remember that a registry has just let an asker in."""
        self._records.put_access(origin.host, origin.port, repository, who)

    def recall(self, origin: Origin, repository: str, who: str, seconds: float) -> bool:
        """Return whether a registry has let an asker in within the last seconds."""
        return self.remains(origin, repository, who, seconds) > 0

    def remains(self, origin: Origin, repository: str, who: str, seconds: float) -> float:
        """Return for how many of so many seconds after a registry has let an asker in that still holds."""
        age = time.time() - self._records.accessed_at(origin.host, origin.port, repository, who)
        # A clock that was set back makes nothing valid for longer.
        return max(0.0, seconds - age) if age >= 0 else 0.0
