"""Verify the logins that clients show to this proxy, by the file in REGPROXY_HTPASSWD.

A hash takes long, so it is computed on a thread, a few at a time; what was found right is remembered by a
keyed hash of it. Guesses are slowed by address (IPv6: /64). Nobody is shut out by that: who shows a login
that is remembered never waits, any other login from there waits some seconds at most.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from msgspec import Struct

from regproxy.auth.clients.htpasswd import Users, matches, parse_htpasswd
from regproxy.auth.secret_files import Watched
from regproxy.config.settings import Config
from regproxy.core.addresses import client_of
from regproxy.core.errors import ConfigError, CredentialError, RegproxyError
from regproxy.core.lru import Bounded, Seldom
from regproxy.core.named_file import read_text
from regproxy.core.single_flight import Flights

log = logging.getLogger(__name__)

THREADS: Final = 2
QUEUE_MAX: Final = 64  # logins that are verified or wait for it
OF_ADDRESS_MAX: Final = 8  # of them from one address
ADDRESSES_MAX: Final = 4096  # whose failures are remembered
REMEMBERED_MAX: Final = 1024  # logins
REMEMBERED_SECONDS: Final = 3600.0  # since its last use
FREE_FAILURES: Final = 3
FIRST_DELAY: Final = 0.25  # seconds, doubled by each failure
LONGEST_DELAY: Final = 4.0
HALF_LIFE: Final = 60.0  # of failures, in seconds


class LoginsBusy(RegproxyError):
    """Too many logins are being verified, of one address or of all: this one was not looked at."""

    status = 429
    code = "TOOMANYREQUESTS"
    retry_after = 2


class LoginsUnavailable(RegproxyError):
    """No login can be verified: the file is missing, say. Names no secret."""

    status = 503
    code = "UNAVAILABLE"


class ClientLogin(Struct, frozen=True):
    """What a client has shown."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "ClientLogin(...)"


class LoginFailures:
    """How often an address has failed lately. Times are a monotonic clock's."""

    def __init__(self, limit: int = ADDRESSES_MAX) -> None:
        self._known: Bounded[str, tuple[float, float]] = Bounded(limit)

    def note(self, address: str, now: float) -> None:
        """Count a failure."""
        self._known.put(address, (self._count(address, now) + 1.0, now))

    def delay(self, address: str, now: float) -> float:
        """Return for how many seconds the next login from there has to wait."""
        beyond = int(self._count(address, now) - FREE_FAILURES)
        return 0.0 if beyond < 0 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(beyond, 30))

    def _count(self, address: str, now: float) -> float:
        count, at = self._known.get(address) or (0.0, now)
        return float(count * 0.5 ** (max(0.0, now - at) / HALF_LIFE))


class ClientLogins:
    """The users of one file. One for each worker; `close()` ends its threads."""

    def __init__(self, path: str) -> None:
        self._watched = Watched((path,), lambda texts: parse_htpasswd(texts[0]), time.monotonic)
        self._key = secrets.token_bytes(32)
        # What was found right: the hash it was found right by, and until when it is remembered.
        self._right: Bounded[bytes, tuple[str, float]] = Bounded(REMEMBERED_MAX)
        self._users: Users | None = None
        self._flights: Flights[bytes, bool] = Flights()
        self._of_address: dict[str, int] = {}
        self._failures = LoginFailures()
        self._seldom = Seldom()
        self._threads: ThreadPoolExecutor | None = None

    async def verify(self, login: ClientLogin, peer: str) -> bool:
        """Return whether a login is right, shown from the address `peer`.

        Raises LoginsBusy, LoginsUnavailable. Equal logins share one computation, so a client that opens many
        connections at once is no guesser.
        """
        try:
            users = await self._watched.value()
        except CredentialError as error:
            raise LoginsUnavailable(f"logins can't be verified: {error}") from None
        self._users = users
        mark = self._mark(login)
        if self._remembers(mark, login):
            return True
        address = client_of(peer)
        if mark not in self._flights:
            self._admit(address)
            self._of_address[address] = self._of_address.get(address, 0) + 1
        return await self._flights.join(mark, lambda: self._look(users, login, mark, address))

    def _mark(self, login: ClientLogin) -> bytes:
        text = f"{login.user}:{login.password}".encode()
        return hmac.digest(self._key, text, "sha256")

    def _remembers(self, mark: bytes, login: ClientLogin) -> bool:
        """Return whether this login was found right, and its user's line is still the same."""
        known = self._right.get(mark)
        if known is None or self._users is None:
            return False
        hashed, until = known
        now = time.monotonic()
        if now >= until or self._users.hashes.get(login.user) != hashed:
            self._right.drop(mark)
            return False
        self._right.put(mark, (hashed, now + REMEMBERED_SECONDS))
        return True

    def _admit(self, address: str) -> None:
        """Raise LoginsBusy where no other login can be looked at now."""
        if self._of_address.get(address, 0) >= OF_ADDRESS_MAX:
            raise LoginsBusy("too many different logins are shown from this address at once")
        if len(self._flights) >= QUEUE_MAX:
            raise LoginsBusy("too many logins are being verified")

    async def _look(self, users: Users, login: ClientLogin, mark: bytes, address: str) -> bool:
        try:
            await asyncio.sleep(self._failures.delay(address, time.monotonic()))
            hashed = self._hash_for(users, login.user)
            fits = hashed is not None and await self._matches(hashed, login.password)
        finally:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]
        if fits and hashed is not None and users.hashes.get(login.user) == hashed:
            self._right.put(mark, (hashed, time.monotonic() + REMEMBERED_SECONDS))
            return True
        now = time.monotonic()
        self._failures.note(address, now)
        if self._seldom.lets(address, now):
            log.warning("%s: wrong proxy credentials", address)
        return False

    def _hash_for(self, users: Users, user: str) -> str | None:
        """Return the hash that a password is compared with: a user's own, or one that an unknown user always
        gets, so that time does not tell who is known.
        """
        if not users.all_hashes:
            return None
        number = int.from_bytes(hmac.digest(self._key, user.encode(), "sha256")[:8])
        return users.hashes.get(user, users.all_hashes[number % len(users.all_hashes)])

    async def _matches(self, hashed: str, password: str) -> bool:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "client-logins")
        return await asyncio.get_running_loop().run_in_executor(self._threads, matches, hashed, password)

    def close(self) -> None:
        """Stop verifying."""
        self._flights.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def check_htpasswd(config: Config) -> None:
    """Raise ConfigError where the file in REGPROXY_HTPASSWD can't be used at the start."""
    path = config.htpasswd
    if path is None:
        return
    try:
        parse_htpasswd(read_text(path))
    except OSError as error:
        raise ConfigError("REGPROXY_HTPASSWD", path, f"a file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError("REGPROXY_HTPASSWD", path, f"not {error}") from None
