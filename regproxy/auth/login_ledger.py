"""Record which logins were accepted or refused, and settle doubts by requests of the proxy's own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

from msgspec.structs import replace

from regproxy.auth.challenge_memory import ChallengeMemory
from regproxy.auth.grants import Grant
from regproxy.auth.lockout import Rest, Standings
from regproxy.auth.login_probe import Canary
from regproxy.auth.login_selection import Logins, standing_key
from regproxy.auth.token_cache import TokenKey
from regproxy.config.credentials import Login
from regproxy.core.lru import Bounded
from regproxy.http.origin import Origin
from regproxy.registry.rate_limits import ANONYMOUS
from regproxy.registry.token_protocol import Realm

REGISTRIES_KEPT: Final = 1024  # logins and servers whose last token request is remembered
PING: Final = "ping"  # the scope of GET and HEAD /v2/, whoever asks: the same is asked


class TokenCounter(Protocol):
    """Counter of token requests, and of requests sent without a configured login."""

    def token_fetch(self, registry: str, credential: str, outcome: str) -> None:
        """Count a token request: "issued", "refused" or "error"."""

    def login_withheld(self, registry: str) -> None:
        """Count a request without a login because it is not of a kind that logins are used for."""


class LoginLedger:
    """Records in `Logins` and `Standings` how token requests with logins end (see token_cache.Ledger), and
    has the `Canary` test logins that are in doubt. One per worker.
    """

    def __init__(
        self,
        logins: Logins,
        standings: Standings,
        challenges: ChallengeMemory,
        canary: Canary,
        counter: TokenCounter | None,
    ) -> None:
        self._logins, self._standings, self._challenges = logins, standings, challenges
        self._canary, self._counter = canary, counter
        # The token for which a login was last accepted.
        self._issued: Bounded[Hashable, TokenKey] = Bounded(REGISTRIES_KEPT)

    def refused(self, key: TokenKey, login: Login, answer: str, *, alone: bool) -> Rest:
        return self._logins.refused(key.origin, key.realm.origin, login, answer, key.scope, alone=alone)

    def accepted(self, key: TokenKey, login: Login) -> None:
        self._logins.accepted(key.origin, key.realm.origin, login, key.scope)
        self._issued.put(standing_key(login, key.realm.origin), key)

    async def leads_to(self, key: TokenKey, to: Origin) -> Origin | None:
        return await self._logins.leads_to(key, to)

    def failed(self, server: Origin, login: Login) -> bool:
        return self._standings.failed(standing_key(login, server))

    def proven(self, server: Origin, login: Login) -> bool:
        return self._standings.proven(standing_key(login, server))

    def count(self, registry: str, login: Login | None, outcome: str) -> None:
        if self._counter is not None:
            self._counter.token_fetch(registry, ANONYMOUS if login is None else login.label, outcome)

    async def prove(self, key: TokenKey) -> None:
        """Request a token without a scope, as `docker login` does."""
        login, bare = key.login, replace(key, scopes=())
        if login is None or not key.scopes:
            return

        def verdict(taken: bool, answer: str) -> bool:
            return self._logins.settled(key.origin, key.realm.origin, login, bare.scope, taken, answer)

        await self._canary.fly(key.origin, login, bare, verdict)

    async def prove_at(self, origin: Origin, server: Origin, login: Login) -> None:
        """Find out whether `server` accepts a login, by a ping or a token request of the proxy's own."""
        key = None
        asks = self._challenges.asks_by(origin)
        if server != origin or isinstance(asks, Realm):
            # The last token that this login got, or one without a scope: other tokens may be refused because
            # of their scope.
            key = self._issued.get(standing_key(login, server))
            if key is None and isinstance(asks, Realm) and asks.origin == server:
                key = TokenKey(origin, asks, (), login)
            if key is None:
                return

        def verdict(taken: bool, answer: str) -> bool:
            scope = PING if key is None else key.scope
            return self._logins.settled(origin, server, login, scope, taken, answer)

        await self._canary.fly(server if key is None else origin, login, key, verdict)

    async def judge_first(self, origin: Origin, grant: Grant) -> None:
        """Before a refusal counts: test a login that was neither accepted nor refused yet by a request of the
        proxy's own, as the refusal may be about the repository.
        """
        login = grant.login if grant.sort == "login" else None
        if login is not None and not self.proven(origin, login) and not self.failed(origin, login):
            await self.prove_at(origin, origin, login)
