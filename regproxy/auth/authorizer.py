"""Choose the Authorization for a registry: the client's own, a configured login, or a token that the proxy
gets.

Configured logins go to the host that they are configured for, and to a token server in the registry's own
domain. A registry's login does not follow its redirects: a host that these lead to is shown credentials of
its own at most. Plain HTTP is used only where that is configured. See docs/configuration.md, "Credentials".
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final

from regproxy.auth.challenge_memory import ChallengeMemory
from regproxy.auth.grants import Grant, client_grant, login_grant, token_grant
from regproxy.auth.lockout import Standings
from regproxy.auth.login_ledger import PING, LoginLedger, TokenCounter
from regproxy.auth.login_probe import Canary
from regproxy.auth.login_selection import Logins, standing_key
from regproxy.auth.login_trials import Trials
from regproxy.auth.token_cache import NoToken, TokenCache, TokenExchange, TokenKey
from regproxy.auth.token_loans import TokenLoans
from regproxy.auth.token_realms import NamedRealm, Realms
from regproxy.config.settings import Config
from regproxy.core.errors import Refused, UpstreamError
from regproxy.core.lru import Bounded, Seldom
from regproxy.http.messages import Request, Response
from regproxy.http.origin import Origin
from regproxy.policy.access import Access
from regproxy.policy.lending import is_shaped, loan, overrides
from regproxy.policy.origins import Origins
from regproxy.policy.principals import ANONYMOUS as ANYBODY
from regproxy.registry.challenges import bearer_of, parse_challenges
from regproxy.registry.targets import Kind, Target, parse_target
from regproxy.registry.token_protocol import PLAIN, Realm

log = logging.getLogger(__name__)

REFUSALS_KEPT: Final = 4096  # credentials of clients that a registry has refused
_SHOWN: Final = 200  # characters of a path in the log
_CONTENT: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})
REFUSED_SECONDS: Final = 60.0  # for which a client's credentials that were refused are not shown again
YOUNG: Final = 10.0  # seconds; a token that is refused at this age is not fetched anew


class Authorizer:
    """Chooses the Authorization of requests. One per worker. `loans`: tokens that clients ask for.

    If a token server is in trouble, its UpstreamError is raised, as if it came from the registry.
    """

    def __init__(
        self,
        config: Config,
        exchange: TokenExchange,
        clock: Callable[[], float] = time.monotonic,
        *,
        origins: Origins | None = None,
        counter: TokenCounter | None = None,
        wall: Callable[[], float] = time.time,
        realms: Realms | None = None,
    ) -> None:
        self._origins = origins or Origins(config)
        self._access = Access(config, self._origins)
        self._standings = standings = Standings()
        self._trials = Trials(standings, clock)
        self._clock = clock
        self._counter = counter
        self._realms = realms or Realms(None, clock)
        self._pushes = config.allow_push and config.login_for == "push"
        self._seldom, self._pings = Seldom(), Seldom()
        self._exchange = exchange
        self._canary = Canary(exchange, clock, lambda key, to: self._logins.leads_to(key, to))
        self._logins = Logins(
            *(config, self._origins, standings, clock),
            lambda origin, server, login: self._ledger.prove_at(origin, server, login),
        )
        self._challenges = challenges = ChallengeMemory(self._origins)
        self._ledger = LoginLedger(self._logins, standings, challenges, self._canary, counter)
        self._tokens = TokenCache(exchange, self._ledger, self._trials, clock, wall)
        self.loans = TokenLoans(self._logins, self._realms, self._tokens, pushes=self._pushes)
        # Clients' credentials by a hash, and until when they are not shown again.
        self._refused: Bounded[tuple[Origin, str, bytes], float] = Bounded(REFUSALS_KEPT)

    # --- called by the pipeline -----------------------------------------------------------------------------

    async def authorization(
        self,
        origin: Origin,
        target: Target,
        request: Request,
        *,
        own_account: bool = False,
        lends: bool = True,
    ) -> Grant | None:
        """Return what to send first, None for nothing. `own_account`: the request is the proxy's own, not a
        client's. `lends`: configured logins may be used for it.
        """
        client, eager_only = client_grant(request), True
        if client is not None and self._origins.settings(origin).credentials_first == "client":
            if not self._was_refused(origin, target, client):
                return client
            # What the registry has just refused to it is not shown again, if there is anything else.
            eager_only = False
        try:
            ours = await self._ours(origin, target, own_account, lends, eager_only=eager_only)
            return ours or client
        except UpstreamError:
            if client is None:
                raise
            return client

    async def refused(
        self,
        origin: Origin,
        target: Target,
        request: Request,
        response: Response,
        grant: Grant | None,
        *,
        own_account: bool = False,
        lends: bool = True,
    ) -> Grant | None:
        """Return what to try, once, after a 401 to `grant`; None: the 401 goes to the client.

        Raises UpstreamError where a token server is in trouble.
        """
        ours = grant is not None and grant.is_ours
        if grant is not None and not ours:
            self._refused.put(_refusal_key(origin, target, grant), self._clock() + REFUSED_SECONDS)
        clean = response if ours or not is_shaped(request) else await self._challenge(origin)
        if clean is not None:
            self._challenges.learn(origin, target, clean)
            await self._share(origin, clean)
        if grant is None or not grant.is_ours:
            return await self._ours(origin, target, own_account, lends)
        another = None
        await self._ledger.judge_first(origin, grant)
        if self._note_refusal(origin, target, grant):
            another = await self._ours(origin, target, own_account, lends)
        # Sending the same value again would get another 401.
        if another is not None and another.value != grant.value:
            return another
        client = client_grant(request)
        return None if client is None or self._was_refused(origin, target, client) else client

    def _was_refused(self, origin: Origin, target: Target, client: Grant) -> bool:
        """Return whether a registry has lately refused a client's credentials for this repository."""
        return self._clock() < (self._refused.get(_refusal_key(origin, target, client)) or 0.0)

    async def hidden(
        self,
        origin: Origin,
        target: Target,
        request: Request,
        response: Response,
        *,
        own_account: bool = False,
        lends: bool = True,
    ) -> Grant | None:
        """Return what to try, once, after an answer that is_hiding() to a request without credentials."""
        if not self._logins.any or not lends:
            return None
        if not is_shaped(request):
            self._challenges.learn(origin, target, response)
        if self._challenges.asks_by(origin, target.repository) is None:
            choice = await self._logins.direct(origin, target.repository)
            if choice.login is not None:
                return login_grant(choice.login, target.repository)
            # A login that can't be sent to the registry itself may be for its token server: learn which.
            clean = await self._challenge(origin) if choice.configured else None
            if clean is not None:
                self._challenges.learn(origin, target, clean)
        return await self._ours(origin, target, own_account, lends)

    def found(self, origin: Origin, target: Target, grant: Grant, status: int) -> None:
        """Record the answer to a grant of hidden(): a login that helped is sent at once from now on."""
        if (
            status < 400
            and grant.sort == "login"
            and self._challenges.asks_by(origin, target.repository) is None
        ):
            self._challenges.put(origin, target, "basic")

    async def redirected(
        self, registry: Origin, at: Origin, method: str, path: str, response: Response
    ) -> Grant | None:
        """Return what to try, once, after a 401 of `at`, the host that a registry's redirect has led to.

        That is a login of that host's own, where `Origins.lends` and it is for everybody, else an anonymous
        token. Only for URLs of content as a pull has them, as a redirect may lead anywhere; None for others.
        """
        target, found = parse_target(path), loan(method, path, pushes=False)
        if found is None or found.endpoint != "content" or target.kind not in _CONTENT:
            return None
        if not self._logins.secure(at):
            return None
        self._challenges.learn(at, target, response)
        # The client has not shown that it may have private content there, and what leads there may be a
        # registry of its own.
        everybodys = self._access.lends(ANYBODY, at, target.repository, lambda: False)
        if everybodys and self._origins.lends(registry, at):
            return await self._ours(at, target, True, True)
        asks = self._challenges.asks_by(at, target.repository)
        return await self._anonymous(at, target, asks) if isinstance(asks, Realm) else None

    @asynccontextmanager
    async def trial(self, origin: Origin, grant: Grant | None) -> AsyncIterator[bool]:
        """Send a login within this context, as in Trials.trial. True: the login must not be sent."""
        login = grant.login if grant is not None and grant.sort == "login" else None
        if login is None or grant is None:
            yield False
            return
        key = standing_key(login, origin)
        async with self._trials.trial(
            key, grant.scope, lambda: self._ledger.prove_at(origin, origin, login)
        ) as rests:
            yield rests

    async def note(self, origin: Origin, target: Target, response: Response, grant: Grant) -> None:
        """Record a 401 to one of the proxy's own grants."""
        if grant.is_ours:
            self._challenges.learn(origin, target, response)
            await self._ledger.judge_first(origin, grant)
            self._note_refusal(origin, target, grant)

    def accepted(self, origin: Origin, grant: Grant | None, status: int) -> None:
        """Record an answer other than 401 to `grant`. Not every such answer proves the login: some registries
        answer 404 before they check it.
        """
        if status >= 400 or grant is None or grant.sort != "login" or grant.login is None:
            return
        if grant.scope == PING and not self._canary.tells(origin):
            return  # the ping may be answered without a login too
        self._logins.accepted(origin, origin, grant.login, grant.scope)

    async def passing(self, origin: Origin, request: Request) -> Grant | None:
        """Return the host's own login, to add to a request that is passed on; None: add none.

        Such requests are pings, listings and pushes: see lending. The request must be trimmed() before the
        login is added.
        """
        if request.get(b"authorization") is not None:
            return None
        asks = self._challenges.asks_by(origin)
        eager_only = asks != "basic"
        found = loan(request.method, request.path, pushes=self._pushes)
        if found is None or overrides(request):
            await self._withhold(origin, request, eager_only=eager_only)
            return None
        if isinstance(asks, Realm) and asks.origin != origin:
            return None
        scope: Hashable = ("passed", request.method, found.endpoint, found.repository)
        if found.endpoint == "ping":
            scope = PING
        return await self._direct(origin, scope, eager_only=eager_only)

    async def passed(self, origin: Origin, request: Request, grant: Grant | None, response: Response) -> None:
        """Record the answer to a request that passing() was asked about: `request` as sent, with `grant`."""
        # Pages that are not part of the registry API may ask for other logins.
        if response.status == 401 and loan(request.method, request.path, pushes=True) is not None:
            clean = await self._challenge(origin) if is_shaped(request) else response
            if clean is not None:
                await self._share(origin, clean)
        if response.status == 401 and grant is not None and not _bearer(response):
            await self._ledger.judge_first(origin, grant)
        self.judge(origin, request, grant, response)

    async def may_show(self, origin: Origin, grant: Grant | None) -> bool:
        """Tell whether to send a login in a request that can't be repeated, as its body is streamed.

        The login must be known to be accepted; a ping finds that out. Where a registry answers pings without
        a login too, one request may send it after 1 s, 2 s, 4 s and so on, until it is accepted.
        """
        login = grant.login if grant is not None and grant.sort == "login" else None
        if login is None or grant is None:
            return True
        key = standing_key(login, origin)
        if not self._standings.proven(key):
            await self._ledger.prove_at(origin, origin, login)
        if self._standings.proven(key):
            return True
        now = self._clock()
        rests = self._standings.rests(key, now, grant.scope) > 0
        return self._canary.is_open(origin) and not rests and self._standings.hold(key, now) == 0

    def judge(self, origin: Origin, request: Request, grant: Grant | None, response: Response) -> None:
        """Record the result of a login that passing() returned."""
        status, login = response.status, grant.login if grant is not None else None
        if login is None or grant is None:
            return
        if status != 401:
            self.accepted(origin, grant, status)
        elif not _bearer(response):
            # A refusal may be about what the client asked for; not for the ping, which is the same for all
            # clients.
            alone = parse_target(request.path).kind is not Kind.PING
            self._logins.refused(origin, origin, login, "status 401", grant.scope, alone=alone)

    async def _challenge(self, registry: Origin) -> Response | None:
        """Return the registry's 401 to a ping of the proxy's own; None if it is no 401, or if one was sent
        lately.

        For requests whose fields may have shaped the 401: what is learned from it is used for all clients.
        """
        if not self._pings.lets(registry, self._clock()):
            return None
        try:
            answer = await self._exchange.exchange(registry, "GET", "/v2/", PLAIN, b"")
        except (UpstreamError, Refused):
            return None
        return answer[1] if answer[0] == 401 else None

    async def _share(self, registry: Origin, response: Response) -> None:
        """Tell all workers of a realm that a 401 names, before a client follows it."""
        realm = self._challenges.realm_of(response)
        if realm is not None:
            await self.loans.learn(NamedRealm(registry, realm))

    async def _withhold(self, origin: Origin, request: Request, *, eager_only: bool) -> None:
        """Count and log that a request is sent without the configured login."""
        if not self._logins.any:
            return
        if not (await self._logins.direct(origin, eager_only=eager_only)).configured:
            return
        if self._counter is not None:
            self._counter.login_withheld(origin.name)
        if self._seldom.lets(origin, self._clock()):
            kept = "pulls and pushes" if self._pushes else "pulls"
            what = f"{request.method} {request.path.partition('?')[0][:_SHOWN]}"
            log.info(
                "%s: %s was sent without the configured credentials: they are used for %s only",
                *(origin.name, what, kept),
            )

    def reason(self, origin: Origin) -> str:
        """Return why a registry's configured credentials are not in use, "" if they are."""
        return self._logins.reason(origin)

    def close(self) -> None:
        """Cancel running requests."""
        self._tokens.close()
        self._canary.close()
        self._logins.close()
        self._realms.close()

    # --- the proxy's own credentials ------------------------------------------------------------------------

    async def _ours(
        self, origin: Origin, target: Target, own_account: bool, lends: bool, *, eager_only: bool = False
    ) -> Grant | None:
        """Return one of the proxy's own credentials, of the kind that the registry asks for as far as that is
        known. Without `lends`, an anonymous token at most.
        """
        asks = self._challenges.asks_by(origin, target.repository)
        if isinstance(asks, Realm):
            if lends:
                return await self._token(origin, target, asks, own_account)
            return await self._anonymous(origin, target, asks) if own_account else None
        if not lends:
            return None
        if asks is None and not eager_only:
            return None
        return await self._direct(origin, target.repository, eager_only=asks is None)

    async def _direct(self, origin: Origin, scope: Hashable, *, eager_only: bool) -> Grant | None:
        login = (await self._logins.direct(origin, scope, eager_only=eager_only)).login
        return None if login is None else login_grant(login, scope)

    async def _token(
        self, origin: Origin, target: Target, realm: Realm, own_account: bool, *, again: bool = True
    ) -> Grant | None:
        """Return a token for the configured user, or an anonymous one if that fails.

        None if no login is configured and a client asks: it can get a token itself.
        """
        repository = target.repository
        asked = ("token", realm.target, realm.service, *self._challenges.scopes(origin, target))
        choice = await self._logins.for_tokens(origin, realm.origin, repository, asked)
        login = choice.login
        if login is not None and login.kind == "bearer":
            return login_grant(login, repository)
        if not (own_account or choice.configured):
            return None
        if login is not None:
            scopes = self._challenges.scopes(origin, target, narrow=choice.narrow)
            try:
                return await self._grant(TokenKey(origin, realm, scopes, login, choice.narrow))
            except NoToken as error:
                if error.login and again:
                    # The provider may have another login by now.
                    return await self._token(origin, target, realm, own_account, again=False)
        return await self._anonymous(origin, target, realm)

    async def _anonymous(self, origin: Origin, target: Target, realm: Realm) -> Grant | None:
        if not (self._logins.secure(realm.origin) or self._origins.plain(origin)):
            return None
        try:
            scopes = self._challenges.scopes(origin, target, anonymous=True)
            return await self._grant(TokenKey(origin, realm, scopes, None))
        except NoToken:
            return None

    async def _grant(self, key: TokenKey) -> Grant:
        return token_grant(key, await self._tokens.token(key))

    def _note_refusal(self, origin: Origin, target: Target, grant: Grant) -> bool:
        """Record a 401 to one of the proxy's own grants; return whether another may be had."""
        asks, key = self._challenges.asks_by(origin, target.repository), grant.key
        if key is None:
            basic = grant.value.startswith(b"Basic ")
            # A registry that wants tokens has not checked the username and password.
            if grant.login is not None and not (basic and isinstance(asks, Realm)):
                self._logins.refused(origin, origin, grant.login, "status 401", grant.scope)
            return True
        scopes = self._challenges.scopes(origin, target, narrow=key.narrow, anonymous=key.login is None)
        other = (asks, scopes) != (key.realm, key.scopes)
        value = grant.value.decode("ascii").removeprefix("Bearer ")
        return self._tokens.give_up(key, value, YOUNG) or other


def _refusal_key(origin: Origin, target: Target, client: Grant) -> tuple[Origin, str, bytes]:
    return origin, target.repository, hashlib.sha256(client.value).digest()


def _bearer(response: Response) -> bool:
    return bearer_of(parse_challenges(response.all(b"www-authenticate"))) is not None
