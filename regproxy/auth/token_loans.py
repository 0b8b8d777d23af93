"""Lend tokens, got with a token server's own login, to clients without credentials that ask that server for
one.

Only where a registry has named that server as the source of its tokens, and the login may serve that
registry; for pulls, and with `pushes` for pushes too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from regproxy.auth.login_selection import Logins
from regproxy.auth.token_cache import NoToken, TokenCache, TokenKey
from regproxy.auth.token_realms import NamedRealm, Realms
from regproxy.http.messages import Request
from regproxy.http.origin import Origin
from regproxy.policy.lending import is_plain, is_realms, loan, may_ask, parse_token_ask
from regproxy.policy.sites import same_site
from regproxy.registry.token_protocol import Issued, Realm

HTTPS_PORT: Final = 443

MayHave = Callable[[Origin, str], bool]


class TokenLoans:
    """The tokens that a worker lends. With `pushes` they may be for pushes too."""

    def __init__(self, logins: Logins, realms: Realms, tokens: TokenCache, *, pushes: bool) -> None:
        self._logins = logins
        self._realms = realms
        self._tokens = tokens
        self._pushes = pushes

    async def learn(self, named: NamedRealm) -> None:
        """Remember a realm that a registry has named, for all workers, if there is a login for it.

        Also one at a port of its own: clients have to be let through to it.
        """
        server = named.realm.origin
        if not is_plain(named.realm.target.partition("?")[0]) or self._realms.knows(named):
            return
        if server.port != HTTPS_PORT and same_site(named.registry.host, server.host):
            await self._realms.learn(named)
            return
        if not await self._logins.serves(named.registry, server):
            return
        if (await self._logins.of_server(server)).configured:
            await self._realms.learn(named)

    async def has_port(self, host: str, port: int) -> bool:
        """Tell whether a registry of the same site has named this as where its tokens are."""
        for again in (False, True):
            if again:
                # Another worker may have learned of it.
                await self._realms.look()
            if any(same_site(registry.host, host) for registry in self._realms.of(host, port)):
                return True
        return False

    async def may_lend(self, server: Origin, request: Request) -> bool:
        """Tell whether a client without credentials may be asking for a token at a realm that a registry has
        named.

        If so, call lend() with the request's body.
        """
        if (
            not self._logins.any
            or not may_ask(request)
            or loan(request.method, request.path, pushes=True) is not None
        ):
            return False
        return bool(await self._named(server, request, lambda _: True))

    async def lend(self, server: Origin, request: Request, body: bytes, may_have: MayHave) -> Issued | None:
        """Return a token that the token server issues to its own login, for a client; None: not for this
        request.

        `may_have`: tells of a registry and a repository there whether its login may serve this client.

        The client's request is parsed, cut to what is lent, and rewritten, so nothing of it is sent on and
        only the token comes back. Raises UpstreamError.
        """
        query = request.path.partition("?")[2]
        ask = parse_token_ask(query, body, pushes=self._pushes)
        if ask is None:
            return None
        found = await self._named(server, request, lambda realm: is_realms(ask, realm.target, realm.service))
        if not found:
            return None
        registry, repositories = found[-1].registry, {scope.split(":")[1] for scope in ask.scopes}
        # Each of those that have named this realm takes the token.
        if not all(may_have(named.registry, each) for named in found for each in repositories):
            return None
        key = TokenKey(registry, found[-1].realm, ask.scopes, None)
        login = (await self._logins.of_server(server, key.scope)).login
        if login is None:
            return None
        try:
            return await self._tokens.issue(replace(key, login=login))
        except NoToken:
            return None

    async def _named(
        self, server: Origin, request: Request, fits: Callable[[Realm], bool]
    ) -> list[NamedRealm]:
        """Return the realms at a path of `server` whose registries its login may serve."""
        path = request.path.partition("?")[0]
        for again in (False, True):
            if again:
                # Another worker may have learned of one.
                await self._realms.look()
            found = [
                named
                for named in self._realms.at(server, path)
                if fits(named.realm) and await self._logins.serves(named.registry, server)
            ]
            if found:
                return found
        return []
