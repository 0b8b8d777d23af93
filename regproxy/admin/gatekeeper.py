"""Decide who may ask what of the admin port: by a token, by a cookie that stands for one, by address.

A guess is slowed by address (IPv6: /64; all loopback addresses are one). Nobody is shut out by that: a token
that was right before never waits, nor does one that the proxy has made, which nobody can guess. Any other
waits some seconds at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from regproxy.admin import cookies, proofs
from regproxy.admin.operations import Operation
from regproxy.admin.replies import Problem
from regproxy.admin.tokens import MADE, Tokens
from regproxy.admin.visitors import Login, Scope, Token, Visitor
from regproxy.auth.clients.logins import LoginFailures
from regproxy.config.values.host_rules import split_host_port
from regproxy.core.addresses import client_of, is_loopback
from regproxy.core.lru import Seldom
from regproxy.http.messages import READS, Request

log = logging.getLogger(__name__)

OF_ADDRESS_MAX: Final = 8  # tokens that are judged at a time
_LOOPBACK: Final = "127.0.0.1"
CSRF_FIELD: Final = "x-csrf-token"
_CHALLENGE: Final = b'Bearer realm="regproxy admin"'
_FAR: Final = (
    "Only clients on this host may use the admin API; set REGPROXY_ADMIN_TOKEN_FILE or"
    " REGPROXY_ADMIN_READ_TOKEN_FILE to allow other hosts."
)


class CsrfForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a form of the page sends; a script has the header X-CSRF-Token instead."""

    csrf_token: Annotated[str, Meta(max_length=256)] | None = None


class AdmissionCounters(Protocol):
    """The metrics of logins."""

    def admin_login(self, outcome: str) -> None:
        """Count a login: accepted, refused or slowed. One by a cookie is none."""


class Gatekeeper:
    """Lets in who may. One for each worker."""

    def __init__(
        self, tokens: Tokens, counters: AdmissionCounters, clock: Callable[[], float] = time.time
    ) -> None:
        self._tokens = tokens
        self._counters = counters
        self._clock = clock
        self._right: set[bytes] = set()
        self._failures = LoginFailures()
        self._judged: dict[str, int] = {}
        self._seldom = Seldom()

    async def admit(self, operation: Operation, request: Request, peer: str) -> Visitor:
        """Return who asks. Raises Problem 401, 403 and 429.

        Writes by cookie are to be checked by check_form() besides, once their body is known.
        """
        local = is_loopback(peer)
        if operation.scope is not Scope.OPEN or not local:
            self._check_address(local=local)
        at_home = local and _is_home(request.authority)
        if operation.scope is Scope.OPEN or (operation.scope is Scope.LOCAL and at_home):
            return Visitor(Scope.OPEN, peer)
        visitor = await self._identify(request, peer)
        if visitor is None:
            raise _unknown("a token is needed: Authorization: Bearer TOKEN")
        if operation.scope is Scope.WRITE and visitor.scope is not Scope.WRITE:
            headers = ((b"www-authenticate", _CHALLENGE + b', error="insufficient_scope"'),)
            raise Problem(403, "this token is read-only", headers)
        if visitor.login is not None and request.method not in READS:
            check_same_origin(request)
        return visitor

    async def log_in(self, text: str, request: Request, peer: str) -> tuple[str, Login]:
        """Return a new cookie's value for a token, and its login. Raises Problem 401, 403 and 429."""
        self._check_address(local=is_loopback(peer))
        if request.get(b"origin") is not None or request.get(b"sec-fetch-site") is not None:
            check_same_origin(request)
        token = await self._judge(_equals(text.strip()), peer)
        return cookies.issue(token, request.authority, self._clock())

    async def prove(self, proof: str, what: tuple[str, str, str], request: Request, peer: str) -> str:
        """Check the proof of a client that knows a token, and return the proxy's own proof for it.

        `what` both cover: the two ends of the client's connection, and a nonce. Raises Problem 401, 403 and
        429.
        """
        self._check_address(local=is_loopback(peer))
        if request.get(b"origin") is not None or request.get(b"sec-fetch-site") is not None:
            check_same_origin(request)

        def is_proven(token: Token) -> bool:
            return proofs.is_same(proof, proofs.proof_of_client(token, *what))

        return proofs.proof_of_proxy(await self._judge(is_proven, peer), *what)

    async def knows(self, visitor: Visitor) -> bool:
        """Return whether what a visitor was let in by is still good: for an answer that goes on."""
        until = visitor.login.until if visitor.login is not None else math.inf
        return until > self._clock() and visitor.token in await self._good_for(visitor.peer)

    def _check_address(self, *, local: bool) -> None:
        if not local and self._tokens.all_local:
            raise Problem(403, _FAR)

    async def _identify(self, request: Request, peer: str) -> Visitor | None:
        shown = request.all(b"authorization")
        if not shown:
            return await self._by_cookie(request, peer)
        scheme, _, text = shown[0].decode("latin-1").partition(" ")
        if len(shown) > 1 or scheme.lower() != "bearer" or not text.strip():
            raise _unknown("one token is needed: Authorization: Bearer TOKEN")
        token = await self._judge(_equals(text.strip()), peer)
        return Visitor(token.scope, peer, token=token)

    async def _by_cookie(self, request: Request, peer: str) -> Visitor | None:
        header = b"; ".join(request.all(b"cookie")).decode("latin-1")
        value = cookies.value_of(header)
        if not value:
            return None
        tokens = await self._good_for(peer)
        login = cookies.check(value, tokens, request.authority, self._clock())
        return None if login is None else Visitor(login.token.scope, peer, login, login.token)

    async def _good_for(self, peer: str) -> list[Token]:
        """Return the tokens that a client at this address may show."""
        tokens, local = await self._tokens.current(), is_loopback(peer)
        return [token for token in tokens if local or not token.local]

    async def _judge(self, is_shown: Callable[[Token], bool], peer: str) -> Token:
        """Return the token that was shown, by `is_shown`. Raises Problem 401, 429."""
        # Any user of this machine can connect from 2^24 loopback addresses.
        address = _LOOPBACK if is_loopback(peer) else client_of(peer)
        good = await self._good_for(peer)
        sure = [token for token in good if _was_made(token) or _mark(token.text) in self._right]
        found = _shown(sure, is_shown)
        if found is None:
            await self._wait(address)
            found = _shown(await self._good_for(peer), is_shown)
        if found is None:
            self._refuse(address)
            raise _unknown("unknown token", error=True)
        if (mark := _mark(found.text)) not in self._right:
            # Few: each of them was right once.
            self._right.add(mark)
            self._counters.admin_login("accepted")
        return found

    async def _wait(self, address: str) -> None:
        """Wait as long as earlier guesses from this address make it. Raises Problem 429."""
        delay = self._failures.delay(address, time.monotonic())
        if not delay:
            return
        if self._judged.get(address, 0) >= OF_ADDRESS_MAX:
            self._counters.admin_login("slowed")
            detail = "too many wrong tokens come from this address: one at a time"
            raise Problem(429, detail, ((b"retry-after", b"5"),))
        self._judged[address] = self._judged.get(address, 0) + 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._judged[address] -= 1
            if not self._judged[address]:
                del self._judged[address]

    def _refuse(self, address: str) -> None:
        now = time.monotonic()
        self._failures.note(address, now)
        self._counters.admin_login("refused")
        if self._seldom.lets(address, now):
            log.warning("%s: a wrong token for the admin port", address)


def _was_made(token: Token) -> bool:
    """Return whether a token looks like one that the proxy has made: by its file, and its length.

    Nobody guesses such a token: slowing it would only shut out its owner while others show wrong ones.
    """
    return token.local and len(token.text) >= MADE


def _mark(text: str) -> bytes:
    """Return a digest. All have one length, so comparing them does not tell by its time what a token is."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _equals(text: str) -> Callable[[Token], bool]:
    """Return a function that tells whether a token has this text."""
    mark = _mark(text)
    return lambda token: hmac.compare_digest(_mark(token.text), mark)


def _shown(tokens: list[Token], is_shown: Callable[[Token], bool]) -> Token | None:
    """Return the token that was shown. All are compared, so the time does not tell which one it is."""
    found = [token for token in tokens if is_shown(token)]
    return found[-1] if found else None


def check_same_origin(request: Request) -> None:
    """Raise Problem 403 unless a browser says that a page of this very address has sent this request."""
    origin = request.get(b"origin")
    site = request.get(b"sec-fetch-site")
    told = origin is not None or site is not None
    same = origin is None or _authority(origin) == request.authority.lower()
    if not told or not same or site not in (None, b"same-origin"):
        raise Problem(403, "a request with a cookie has to come from a page at this address")


def check_form(visitor: Visitor, request: Request, shown: str) -> None:
    """Raise Problem 403 unless a write by cookie shows what its page has read from here.

    `shown`: by the form's field; a script has the header.
    """
    if visitor.login is None or request.method in READS:
        return
    text = shown or (request.get(CSRF_FIELD.encode()) or b"").decode("latin-1")
    if not hmac.compare_digest(text.encode(), visitor.login.csrf.encode()):
        detail = f"a request with a cookie has to show the session's `csrf_token` in {CSRF_FIELD}"
        raise Problem(403, f"{detail} (GET /api/v1/session)")


def _is_home(authority: str) -> bool:
    """Return whether a Host field names this machine. A page of another name may lead a browser here (DNS
    rebinding), and read what is answered without a token.
    """
    try:
        return is_loopback(split_host_port(authority.lower())[0])
    except ValueError:
        return False


def _authority(origin: bytes) -> str:
    return origin.decode("latin-1").partition("://")[2].lower()


def _unknown(detail: str, *, error: bool = False) -> Problem:
    challenge = _CHALLENGE + (b', error="invalid_token"' if error else b"")
    return Problem(401, detail, ((b"www-authenticate", challenge),))
