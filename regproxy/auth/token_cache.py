"""Cache registry tokens: fetch each once for all requests that need it, and renew it before it expires."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from msgspec import Struct

from regproxy.auth.lockout import Rest
from regproxy.auth.login_trials import Trials
from regproxy.config.credentials import Login
from regproxy.core.errors import BadResponse, RateLimited, Refused, UpstreamError, UpstreamTimeout
from regproxy.core.lru import Bounded
from regproxy.core.single_flight import Flights
from regproxy.http.messages import Headers, Response
from regproxy.http.origin import Origin, follow
from regproxy.policy.verdicts import MAX_REDIRECTS, REDIRECTS
from regproxy.registry.rate_limits import parse_retry
from regproxy.registry.token_protocol import (
    DEFAULT_LIFETIME,
    Issued,
    Realm,
    RealmAsk,
    get,
    parse_answer,
    parse_realm,
    post,
)

TOKENS_KEPT: Final = 1024
EXCHANGE_SECONDS: Final = 30.0  # for all requests for one token
REFRESHED_AT: Final = 0.8  # of the lifetime
MARGIN: Final = (
    5.0  # seconds before its expiry in which a token is no longer sent; at most a tenth of its lifetime
)
RETRY_SECONDS: Final = 5.0  # after a refresh that failed
REFUSED_SECONDS: Final = 10.0  # for which a refusal is remembered
PAUSE_SECONDS: Final = 5.0  # after a 429 that states no time
PAUSE_MAX: Final = 300.0
_SAME_METHOD: Final = frozenset({307, 308})  # RFC 9110 15.4: others make a GET of a POST, without its form


class TokenExchange(Protocol):
    """Sends single requests to a server. Upstream implements it."""

    async def exchange(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        registry: Origin | None = None,
    ) -> tuple[int, Response, bytes]:
        """Send one request and return status, head and body of its answer.

        `headers` are all but Host and Content-Length. `registry`: the one whose answer has named this server;
        OffLimits if that answer may not lead there. No redirect is followed; more than 64 KiB of body are a
        BadResponse. Raises UpstreamError, or Refused where the address is not allowed.
        """


class Ledger(Protocol):
    """Records how logins fare."""

    def refused(self, key: TokenKey, login: Login, answer: str, *, alone: bool) -> Rest:
        """Record that the server has refused a login: the login is suspended, or only its scope.

        `alone`: see Standings.
        """

    def accepted(self, key: TokenKey, login: Login) -> None:
        """Record that the server has accepted a login."""

    async def prove(self, key: TokenKey) -> None:
        """Find out whether the server accepts the login of a token at all, whatever the token is for."""

    def failed(self, server: Origin, login: Login) -> bool:
        """Tell whether it was refused, and not accepted since."""

    def proven(self, server: Origin, login: Login) -> bool:
        """Tell whether it was accepted, and not refused since."""

    def count(self, registry: str, login: Login | None, outcome: str) -> None:
        """Count an answer: "issued", "refused" or "error"."""

    async def leads_to(self, key: TokenKey, to: Origin) -> Origin | None:
        """Return who is asked where a redirect leads to; None: whoever this key's login must not be shown."""


class NoToken(Exception):
    """The token server has refused. `login`: the refusal is about the login, whatever the scope."""

    def __init__(self, message: str, *, login: bool = False) -> None:
        super().__init__(message)
        self.login = login


class TokenKey(Struct, frozen=True):
    """Identity of a token: its registry, realm, scopes and login (None: anonymous).

    `narrow`: see Choice in login_selection.
    """

    origin: Origin
    realm: Realm
    scopes: tuple[str, ...]
    login: Login | None
    narrow: bool = False

    @property
    def scope(self) -> Hashable:
        """The scope of its login's standing."""
        return ("token", self.realm.target, self.realm.service, *self.scopes)


async def ask_realm(
    exchange: TokenExchange,
    leads_to: Callable[[TokenKey, Origin], Awaitable[Origin | None]],
    key: TokenKey,
    ask: RealmAsk,
) -> tuple[int, Response, bytes]:
    """Ask the server of a token's realm one thing, and whom it redirects to; a POST by 307 and 308 alone.

    Returns the redirect itself where it is not followed. `leads_to`: see Ledger. Raises as `exchange` does.
    """
    at, redirects = key.realm.origin, REDIRECTS if ask.method == "GET" else _SAME_METHOD
    for turn in range(MAX_REDIRECTS + 1):
        answer = await exchange.exchange(
            *(at, ask.method, ask.target, ask.headers, ask.body), registry=key.origin
        )
        location = answer[1].get(b"location")
        if answer[0] not in redirects or location is None or turn == MAX_REDIRECTS:
            break
        host = f"[{at.host}]" if ":" in at.host else at.host
        try:
            realm = parse_realm(follow(f"{at.scheme}://{host}:{at.port}{ask.target}", location), "")
        except BadResponse:
            break
        to = await leads_to(key, realm.origin)
        if to is None:
            break
        at, ask = to, replace(ask, target=realm.target)
    return answer


@dataclass(slots=True)
class _KeptToken:
    value: str = field(repr=False)
    since: float
    refresh_at: float
    usable_until: float


class TokenCache:
    """The tokens of a worker."""

    def __init__(
        self,
        exchange: TokenExchange,
        ledger: Ledger,
        trials: Trials,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._trials = trials
        self._clock = clock
        self._wall = wall
        self._kept: Bounded[TokenKey, _KeptToken] = Bounded(TOKENS_KEPT)
        self._refusals: Bounded[TokenKey, tuple[float, str]] = Bounded(TOKENS_KEPT)
        self._pauses: Bounded[tuple[Origin, Login | None], float] = Bounded(TOKENS_KEPT)
        self._flights: Flights[TokenKey, str] = Flights()

    async def token(self, key: TokenKey) -> str:
        """Return a token that is valid for at least a moment. Raises NoToken, or UpstreamError."""
        kept, now = self._kept.get(key), self._clock()
        if kept is not None and now < kept.usable_until:
            if now >= kept.refresh_at:
                kept.refresh_at = now + RETRY_SECONDS
                self._flights.start(key, lambda: self._fetch(key))
            return kept.value
        refusal = self._refusals.get(key)
        if refusal is not None and now < refusal[0]:
            raise NoToken(refusal[1])
        return await self._flights.join(key, lambda: self._fetch(key))

    async def issue(self, key: TokenKey) -> Issued:
        """Fetch a token for a client and return it. Raises as token() does."""
        refusal = self._refusals.get(key)
        if refusal is not None and self._clock() < refusal[0]:
            raise NoToken(refusal[1])
        value = await self._flights.join(key, lambda: self._fetch(key))
        kept = self._kept.get(key)
        left = DEFAULT_LIFETIME if kept is None else kept.usable_until - self._clock()
        return Issued(value, max(1.0, left))

    def give_up(self, key: TokenKey, value: str, after: float) -> bool:
        """Forget a token that a registry has refused. False if it is younger than `after` seconds: another
        would be no better.
        """
        kept = self._kept.get(key)
        if kept is None or kept.value != value:
            return True
        if self._clock() - kept.since < after:
            return False
        self._kept.drop(key)
        return True

    def close(self) -> None:
        """Cancel running requests."""
        self._flights.close()

    async def _fetch(self, key: TokenKey) -> str:
        """Fetch a token. A login that was not accepted lately is not tried by all requests at once."""
        server, login = key.realm.origin, key.login
        if login is None:
            return await self._ask(key)
        place = login, server.host, server.port
        async with self._trials.trial(place, key.scope, lambda: self._ledger.prove(key)) as rests:
            if rests:
                raise NoToken("it was refused a moment ago", login=True)
            return await self._ask(key)

    async def _ask(self, key: TokenKey) -> str:
        outcome = "error"
        try:
            self._check_pause(key)
            began = self._clock()
            status, response, body = await self._talk(key)
            if status in (400, 401, 403) and key.login is not None:
                await self._judge_first(key, key.login)
            try:
                self._check(key, status, response)
                issued = parse_answer(body, response.get(b"date"), self._wall())
            except NoToken:
                outcome = "refused"
                raise
            except BadResponse as error:
                raise BadResponse(f"{key.realm.origin.host}: {error}") from None
            outcome = "issued"
        finally:
            self._ledger.count(key.origin.name, key.login, outcome)
        if key.login is not None:
            self._ledger.accepted(key, key.login)
        end = issued.lifetime - min(MARGIN, issued.lifetime / 10)
        kept = _KeptToken(issued.value, began, began + issued.lifetime * REFRESHED_AT, began + end)
        self._kept.put(key, kept)
        self._refusals.drop(key)
        return issued.value

    async def _judge_first(self, key: TokenKey, login: Login) -> None:
        """Test a login that was neither accepted nor refused before: a refusal may be about the scope of the
        token.
        """
        server = key.realm.origin
        if not self._ledger.proven(server, login) and not self._ledger.failed(server, login):
            await self._ledger.prove(key)

    async def _talk(self, key: TokenKey) -> tuple[int, Response, bytes]:
        realm, login = key.realm, key.login
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                if login is not None and login.kind == "identity":
                    return await self._send(key, post(realm, key.scopes, login))
                answer = await self._send(key, get(realm, key.scopes, login))
                if login is not None and answer[0] in (404, 405):
                    return await self._send(key, post(realm, key.scopes, login))
                return answer
        except TimeoutError:
            raise UpstreamTimeout(f"{realm.origin.host}: no token within {EXCHANGE_SECONDS:g} s") from None
        except Refused as error:
            raise NoToken(str(error)) from None

    async def _send(self, key: TokenKey, ask: RealmAsk) -> tuple[int, Response, bytes]:
        return await ask_realm(self._exchange, self._ledger.leads_to, key, ask)

    def _check(self, key: TokenKey, status: int, response: Response) -> None:
        """Raise the error that an answer without a token means."""
        server, login = key.realm.origin, key.login
        if 200 <= status < 300:
            return
        if status == 429:
            seconds = min(parse_retry(response, self._wall()) or PAUSE_SECONDS, PAUSE_MAX)
            self._pauses.put((server, login), self._clock() + seconds)
            raise RateLimited(f"{server.host} gives no token: too many requests", max(1, round(seconds)))
        if status >= 500 or status == 408:
            raise UpstreamError(f"{server.host} answers {status} in place of a token")
        text = f"{server.host} answers {status} in place of a token"
        seconds = REFUSED_SECONDS
        if login is not None and status in (400, 401, 403):
            # 403 is about this repository; so is 400, except OAuth2's invalid_grant (RFC 6749 5.2). For a
            # login that never got a token, each counts as a 401.
            alone = status == 403 or (status == 400 and login.kind != "identity")
            rest = self._ledger.refused(key, login, f"status {status}", alone=alone)
            if rest.whole:
                raise NoToken(text, login=True)
            seconds = max(seconds, rest.seconds)
        self._refusals.put(key, (self._clock() + seconds, text))
        raise NoToken(text)

    def _check_pause(self, key: TokenKey) -> None:
        until = self._pauses.get((key.realm.origin, key.login))
        if until is not None and (rest := until - self._clock()) > 0:
            host = key.realm.origin.host
            raise RateLimited(f"{host} gives no token: too many requests", max(1, round(rest)))
