"""Test with a request of the proxy's own whether a server accepts a login; concurrent tests are shared.

A client's request may be refused for other reasons. This one can't be, so its answer is about the login.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from regproxy.auth.token_cache import TokenExchange, TokenKey, ask_realm
from regproxy.config.credentials import Login
from regproxy.core.errors import Refused, UpstreamError
from regproxy.core.lru import Bounded, Seldom
from regproxy.core.single_flight import Flights
from regproxy.http.origin import Origin
from regproxy.registry.challenges import bearer_of, parse_challenges
from regproxy.registry.token_protocol import PLAIN, RealmAsk, get, post

REGISTRIES_KEPT: Final = 1024
UNAUTHORIZED: Final = 401
REFUSES_SECONDS: Final = 600.0  # for which it is remembered that pings without a login are refused
OPEN_SECONDS: Final = 60.0  # for which it is remembered that they are answered

Verdict = Callable[[bool, str], bool]


class Canary:
    """The login tests of a worker."""

    def __init__(
        self,
        exchange: TokenExchange,
        clock: Callable[[], float],
        leads_to: Callable[[TokenKey, Origin], Awaitable[Origin | None]],
    ) -> None:
        """`leads_to`: see token_cache.Ledger."""
        self._exchange = exchange
        self._leads_to = leads_to
        self._clock = clock
        self._seldom = Seldom()
        self._flights: Flights[tuple[Origin, Login], None] = Flights()
        # The status of a ping without a login, and until when it is valid.
        self._pings: Bounded[Origin, tuple[int, float]] = Bounded(REGISTRIES_KEPT)

    async def fly(self, registry: Origin, login: Login, key: TokenKey | None, verdict: Verdict) -> None:
        """Send a login to a token server, for a token that it has issued to that login, or to the registry in
        a ping.

        `verdict(taken, answer)` receives the result and returns whether that settles it; if not, the test is
        not repeated for a minute. Errors of the exchange are suppressed.
        """
        server = key.realm.origin if key is not None else registry
        if (server, login) not in self._flights and not self._seldom.lets((server, login), self._clock()):
            return
        with suppress(UpstreamError, Refused):
            await self._flights.join((server, login), lambda: self._fly(registry, login, key, verdict))

    async def _fly(self, registry: Origin, login: Login, key: TokenKey | None, verdict: Verdict) -> None:
        server = registry
        if key is None:
            if await self._ping(registry) != UNAUTHORIZED:
                return  # whoever gets an answer without a login shows nothing by one with it
            ask = _shown(login)
            status, response, _ = await self._exchange.exchange(
                server, ask.method, ask.target, ask.headers, ask.body, registry=registry
            )
        else:
            make = post if login.kind == "identity" else get
            ask, server = make(key.realm, key.scopes, login), key.realm.origin
            status, response, _ = await ask_realm(self._exchange, self._leads_to, key, ask)
        # A registry that wants tokens has not judged what was shown to it instead.
        judged = key is not None or bearer_of(parse_challenges(response.all(b"www-authenticate"))) is None
        taken = 200 <= status < 300
        if (taken or (status == 401 and judged)) and verdict(taken, f"status {status}"):
            self._seldom.forget((server, login))

    def is_open(self, registry: Origin) -> bool:
        """Tell whether a registry is known to answer pings without a login too, so that pings prove
        nothing.
        """
        known = self._pings.get(registry)
        return known is not None and known[0] != UNAUTHORIZED

    def tells(self, registry: Origin) -> bool:
        """Tell whether a registry is known to refuse pings without a login."""
        known = self._pings.get(registry)
        return known is not None and known[0] == UNAUTHORIZED

    async def _ping(self, server: Origin) -> int:
        """Return the status of a ping without a login."""
        known, now = self._pings.get(server), self._clock()
        if known is None or now >= known[1]:
            status, _, _ = await self._exchange.exchange(server, "GET", "/v2/", PLAIN, b"")
            known = status, now + (REFUSES_SECONDS if status == UNAUTHORIZED else OPEN_SECONDS)
            self._pings.put(server, known)
        return known[0]

    def close(self) -> None:
        """Cancel running tests."""
        self._flights.close()


def _shown(login: Login) -> RealmAsk:
    value = b"Bearer " + login.secret.encode() if login.kind == "bearer" else login.basic
    return RealmAsk("GET", "/v2/", (*PLAIN, (b"authorization", value)))
