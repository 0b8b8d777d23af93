"""Find out who a client is: by what it shows, else by its address."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Final

from regproxy.auth.clients.certificates import said_by
from regproxy.auth.clients.logins import ClientLogin, ClientLogins
from regproxy.config.settings import Config
from regproxy.core.errors import RegproxyError
from regproxy.core.lru import Bounded
from regproxy.http.basic_auth import parse_basic
from regproxy.policy.principals import ANONYMOUS, Principal, Principals

KNOWN_MAX: Final = 1024
KNOWN_SECONDS: Final = 1.0  # until a login that was right is looked up again
REALM: Final = b'Basic realm="regproxy", charset="UTF-8"'


class LoginWanted(RegproxyError):
    """A client that shows no login, or none that is right, and would be let in with one."""

    status = 407
    code = "UNAUTHORIZED"


class NotKnown(RegproxyError):
    """A client that is none of those that may use this proxy, and no login would change that."""

    status = 403
    code = "DENIED"


class Clients:
    """The clients of one configuration. One for each worker."""

    __slots__ = ("_closed", "_key", "_known", "_logins", "_principals")

    def __init__(self, config: Config) -> None:
        self._principals = Principals(config.principals)
        self._logins = ClientLogins(config.htpasswd) if config.htpasswd is not None else None
        self._closed = config.unknown_clients == "deny"
        # Who has shown what, by a keyed hash of it; until when.
        self._known: Bounded[bytes, tuple[Principal, float]] = Bounded(KNOWN_MAX)
        self._key = secrets.token_bytes(32)

    def at(self, peer: str) -> Principal:
        """Return who connects from an address."""
        return self._principals.of_address(peer)

    def with_certificate(self, certificate: bytes, at: Principal) -> Principal:
        """Return who has shown a certificate (DER) that was verified; `at`: who has its address."""
        found = self._principals.of_certificate(said_by(certificate))
        return at if found is ANONYMOUS else found

    def recall(self, shown: bytes | None, at: Principal) -> Principal | None:
        """Return who a client is, None: identify() has to find out, or to refuse it.

        `shown`: the value of its Proxy-Authorization, or what stands for it; `at`: who it is without.
        """
        if shown is None or self._logins is None:
            return None if self._closed and at is ANONYMOUS else at
        known = self._known.get(self._mark(shown))
        return known[0] if known is not None and time.monotonic() < known[1] else None

    async def identify(
        self, shown: bytes | None, at: Principal, peer: str, *, takes_logins: bool = True
    ) -> Principal:
        """Return who a client is that recall() does not know. `takes_logins`: it can be asked for a login.

        Raises LoginWanted, NotKnown, LoginsBusy, LoginsUnavailable. A login that is wrong is no better where
        none is wanted: its owner would not learn that it is.
        """
        logins = self._logins
        if logins is None or not takes_logins:
            if self._closed and at is ANONYMOUS:
                raise NotKnown("this proxy is not for clients that it does not know")
            return at
        if shown is None:
            if self._closed and at is ANONYMOUS:
                raise LoginWanted("this proxy wants a user and password")
            return at
        login = parse_basic(shown)
        if login is None:
            raise LoginWanted(
                "the proxy credentials are not understood: Basic is, with user:password in UTF-8"
            )
        if not await logins.verify(ClientLogin(*login), peer):
            raise LoginWanted("the user or password for this proxy is wrong")
        principal = self._principals.of_user(login[0])
        self._known.put(self._mark(shown), (principal, time.monotonic() + KNOWN_SECONDS))
        return principal

    def _mark(self, shown: bytes) -> bytes:
        return hashlib.blake2b(shown, key=self._key, digest_size=32).digest()

    def close(self) -> None:
        """Stop verifying logins."""
        if self._logins is not None:
            self._logins.close()


def clients(config: Config) -> Clients | None:
    """Return the clients of a configuration, None where every client is alike to it."""
    tells = config.principals.names or config.htpasswd or config.client_ca_file
    return Clients(config) if tells or config.unknown_clients == "deny" else None
