"""Choose which configured login may be sent to which server, and track logins suspended after a refusal."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from regproxy.auth.credential_providers import Holder, Wallet
from regproxy.auth.lockout import Rest, Standings
from regproxy.auth.token_cache import TokenKey
from regproxy.config.credentials import CredentialSource, Login, LoginKind
from regproxy.config.settings import Config
from regproxy.core.errors import CredentialError
from regproxy.core.lru import Bounded, Seldom
from regproxy.http.origin import Origin
from regproxy.policy.access import Access
from regproxy.policy.origins import Origins
from regproxy.policy.principals import ANONYMOUS
from regproxy.policy.sites import same_site

log = logging.getLogger(__name__)

REASONS_KEPT: Final = 1024

_DIRECT: Final[frozenset[LoginKind]] = frozenset({"basic", "bearer"})
_FOR_TOKENS: Final[frozenset[LoginKind]] = frozenset({"basic", "identity"})


Prove = Callable[[Origin, Origin, Login], Awaitable[None]]


def standing_key(login: Login, server: Origin) -> tuple[Login, str, int]:
    """Return the key of a login's standing with a server."""
    return login, server.host, server.port


class Choice(Struct, frozen=True):
    """The login to use; `configured`: the registry has one, though it may be suspended now.

    `narrow`: it is the token server's own, and that is on another host than the registry: a token may be for
    that one repository only.
    """

    login: Login | None = None
    configured: bool = False
    narrow: bool = False


class _Candidate(Struct, frozen=True):
    holder: Holder
    owner: Origin
    kinds: frozenset[LoginKind]
    narrow: bool = False


class Logins:
    """The configured logins, for registries and their token servers. One per worker."""

    def __init__(
        self,
        config: Config,
        origins: Origins,
        standings: Standings,
        clock: Callable[[], float],
        prove: Prove,
    ) -> None:
        """Set up the providers. `prove` finds out whether a server accepts a login that is in doubt."""
        self._origins = origins
        self._access = Access(config, origins)
        self._standings = standings
        self._clock = clock
        self._wallet = Wallet(config.credentials, config.docker_config, self._table, clock)
        self._written = {credential.host for credential in config.credentials}
        self._prove = prove
        tables = any(settings.credentials is not None for settings in origins.all_settings())
        self.any: Final = bool(config.credentials or config.docker_config or tables)
        self._reasons: Bounded[Origin, str] = Bounded(REASONS_KEPT)
        self._seldom = Seldom()

    async def direct(self, origin: Origin, scope: Hashable = None, *, eager_only: bool = False) -> Choice:
        """Return what may be sent to the registry itself: a username and password, or a configured token.

        `scope`: as in Standings.
        """
        if not self.secure(origin):
            return Choice()
        holders = self._wallet.holders(origin.host, origin.port)
        candidates = (_Candidate(each, origin, _DIRECT) for each in holders if each.eager or not eager_only)
        return await self._first(origin, origin, candidates, scope)

    async def of_server(self, server: Origin, asked: Hashable = None) -> Choice:
        """Return a token server's own login."""
        if not self.secure(server):
            return Choice()
        holders = self._wallet.holders(server.host, server.port)
        candidates = [_Candidate(each, server, _FOR_TOKENS) for each in holders]
        return await self._first(server, server, candidates, asked)

    async def serves(self, registry: Origin, server: Origin) -> bool:
        """Tell whether a server's own login may get tokens of a registry that has named this server."""
        if (registry.host, registry.port) == (server.host, server.port) or self._lends(registry, server):
            return True
        if registry.host != server.host:
            return False
        # Another port of the host may belong to another party, unless both have the same login.
        own = await self._found(server)
        return own is not None and own == await self._found(registry)

    async def _found(self, server: Origin) -> Login | None:
        """Return a server's login for tokens, suspended or not."""
        for holder in self._wallet.holders(server.host, server.port):
            with suppress(CredentialError):
                login = await holder.provider.login(server.host, server.port)
                if login is not None and login.kind in _FOR_TOKENS:
                    return login
        return None

    async def for_tokens(
        self, origin: Origin, server: Origin, scope: Hashable = None, asked: Hashable = None
    ) -> Choice:
        """Return what may be sent to the token server of a registry: the registry's login, or the server's
        own.

        `scope`: for a configured token, which is sent to the registry itself; `asked`: for the token server.
        """
        own = self._wallet.holders(origin.host, origin.port)
        # A configured token goes to the registry itself.
        ready = [_Candidate(holder, origin, frozenset({"bearer"})) for holder in own if self.secure(origin)]
        choice = await self._first(origin, origin, ready, scope)
        if choice.login is not None:
            return choice
        if not self.secure(server):
            if choice.configured:
                self._say(origin, f"credentials are not sent to {server.host} over plain HTTP")
            return Choice(None, choice.configured)
        found = await self._first(origin, server, self._candidates(origin, server, own, scope), asked)
        configured = choice.configured or found.configured
        if choice.configured and not found.configured:
            self._say(
                origin,
                f"its tokens come from {server.host}, which is in another domain: credentials go there if"
                f" token_server says so, or if they are configured for {server.host}",
            )
        elif not configured and server.host in self._written and not same_site(origin.host, server.host):
            self._say(
                origin,
                f"its tokens come from {server.host}, whose credentials serve no registry of another domain:"
                " a table for this one, with credentials and token_server, has them sent there",
            )
        return Choice(found.login, configured, found.narrow)

    async def leads_to(self, key: TokenKey, to: Origin) -> Origin | None:
        """Return who is asked where a token server redirects to, None where it is not followed.

        A registry's own login goes to any host of the site. A token server's own goes only where it is
        configured for, or where that server has led to by itself: the registry that has named its URL must
        not choose the host.
        """
        registry, realm, login = key.origin, key.realm, key.login
        server, to = realm.origin, self._origins.canonical(to)
        if not self.secure(to) and (login is not None or not self._origins.plain(registry)):
            return None
        if login is None or (to.host, to.port) == (server.host, server.port):
            return to
        if same_site(server.host, to.host):
            if login in (await self._found(registry), await self._found(to)):
                return to
            named = unquote(" ".join((realm.target, realm.service, *key.scopes))).lower()
            if to.host not in (registry.host, server.host) and to.host not in named:
                return to
        self._say(registry, f"credentials are not sent to {to.host}, where {server.host} redirects to")
        return None

    def secure(self, server: Origin) -> bool:
        """Tell whether a secret may be sent: over plain HTTP only where plain HTTP is configured."""
        return server.scheme == "https" or self._origins.plain(server)

    def refused(
        self,
        origin: Origin,
        server: Origin,
        login: Login,
        answer: str,
        scope: Hashable = None,
        *,
        alone: bool = False,
        whole: bool = False,
    ) -> Rest:
        """Record a server's refusal: the login is suspended and its provider looks again, or only the scope
        is suspended.

        `scope`, `alone`, `whole`: as in Standings.
        """
        text = f"the credentials of {login.label!r} were refused by {server.host} ({answer})"
        key, now = standing_key(login, server), self._clock()
        if rest := self._standings.rests(key, now):
            return Rest(rest, True)  # sent before the first refusal arrived
        found = self._standings.refused(key, text, now, scope, alone=alone, whole=whole)
        if not found.whole:
            if self._seldom.lets(server, now):
                log.warning(
                    "%s: %s for one repository or scope: they rest for it for %g s, other repositories go on",
                    *(origin.host, text, found.seconds),
                )
            return found
        for holder in self._wallet.holders(origin.host, origin.port):
            holder.provider.forget(origin.host, origin.port)
        if server != origin:
            for holder in self._wallet.holders(server.host, server.port):
                holder.provider.forget(server.host, server.port)
        log.warning("%s: %s; they rest for %g s", origin.host, text, found.seconds)
        return found

    def settled(
        self, origin: Origin, server: Origin, login: Login, scope: Hashable, taken: bool, answer: str
    ) -> bool:
        """Record the answer to a request of the proxy's own; return whether it says something about the
        login.

        A refusal does if this scope had accepted the login before, or no scope has.
        """
        key = standing_key(login, server)
        if taken:
            self.accepted(origin, server, login, scope)
        elif self._standings.took(key, scope) or not self._standings.proven(key):
            self.refused(origin, server, login, answer, scope, whole=True)
        else:
            return False
        return True

    def accepted(self, origin: Origin, server: Origin, login: Login, scope: Hashable = None) -> None:
        """Record that a server has accepted a login."""
        self._standings.accepted(standing_key(login, server), self._clock(), scope)
        self._reasons.drop(origin)

    def reason(self, origin: Origin) -> str:
        """Return why the login of a registry is not in use, "" if it is or there is none."""
        return self._reasons.get(origin) or ""

    def close(self) -> None:
        """Cancel running helpers."""
        self._wallet.close()

    def _candidates(
        self, origin: Origin, server: Origin, own: list[Holder], repository: Hashable
    ) -> Iterator[_Candidate]:
        site = same_site(origin.host, server.host)
        for holder in own:
            if site or _is_server(holder.token_server, server):
                yield _Candidate(holder, origin, _FOR_TOKENS)
        # Whom a list names is known for the registry alone: another host's list has to name everybody.
        kept = self._access.withholds(ANONYMOUS, server, str(repository or ""))
        if (
            not kept
            and (server.host, server.port) != (origin.host, origin.port)
            and self._lends(origin, server)
        ):
            for holder in self._wallet.holders(server.host, server.port):
                yield _Candidate(holder, server, _FOR_TOKENS, narrow=True)

    def _lends(self, origin: Origin, server: Origin) -> bool:
        """Tell whether a token server's own login may serve a registry: on another host of its domain, or by
        its table.

        The token goes to the registry, with the scopes that the registry asks for. So no other server's login
        may: not one of another domain, nor one at another port of the same host, which may belong to another
        party.
        """
        if origin.host != server.host and same_site(origin.host, server.host):
            return True
        holders = self._wallet.holders(origin.host, origin.port)
        return any(_is_server(holder.token_server, server) for holder in holders)

    async def _first(
        self,
        origin: Origin,
        server: Origin,
        candidates: Iterable[_Candidate],
        scope: Hashable = None,
    ) -> Choice:
        """Return the first login that exists and is not suspended."""
        configured = False
        for candidate in candidates:
            owner = candidate.owner
            try:
                login = await candidate.holder.provider.login(owner.host, owner.port)
            except CredentialError as error:
                self._reasons.put(origin, str(error))
                configured = True
                continue
            if login is None:
                continue
            configured = True
            if login.kind not in candidate.kinds:
                continue
            key = standing_key(login, server)
            rest = self._standings.rests(key, self._clock(), scope)
            if not rest and self._standings.doubtful(key, scope):
                await self._prove(origin, server, login)
                rest = self._standings.rests(key, self._clock(), scope)
                if not rest and self._standings.doubtful(key, scope):
                    rest = self._standings.hold(key, self._clock())
            if not rest:
                return Choice(login, True, candidate.narrow)
            why = self._standings.reason(key, scope)
            self._reasons.put(origin, f"{why}; the next try is in {rest:.0f} s")
        return Choice(None, configured)

    def _table(self, host: str, port: int) -> CredentialSource | None:
        return self._origins.settings(Origin("https", host, port)).credentials

    def _say(self, origin: Origin, reason: str) -> None:
        if self._reasons.get(origin) != reason:
            log.warning("%s: %s", origin.host, reason)
            self._reasons.put(origin, reason)


def _is_server(named: tuple[str, int | None] | None, server: Origin) -> bool:
    return named is not None and named[0] == server.host and named[1] in (None, server.port)
