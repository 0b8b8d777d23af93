"""Let a request for private content pass only if its registry lets the client in.

The registry is asked by HEAD for what the client asks for: first without credentials (that works for public
content, and is good for an hour), then with the client's own, then with the configured login where that is
meant for this client by name. What it says is remembered by all workers.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from regproxy.core.errors import Refused, UpstreamError
from regproxy.core.lru import Bounded, Seldom
from regproxy.core.single_flight import Flights
from regproxy.fill.fill import UpstreamAnswer
from regproxy.http.messages import READS, Request
from regproxy.http.origin import Origin
from regproxy.policy.access import PUBLIC_SECONDS
from regproxy.policy.principals import Principal
from regproxy.policy.verdicts import STALE_ON
from regproxy.registry.error_bodies import error_body
from regproxy.registry.evidence import Evidence, evidence
from regproxy.registry.targets import Kind
from regproxy.server.context import Services
from regproxy.server.exchange import Exchange
from regproxy.server.guards import PASSED_SECONDS
from regproxy.server.passthrough import Passthrough
from regproxy.server.patience import in_time
from regproxy.server.responder import Responder
from regproxy.server.rights import PUBLIC
from regproxy.server.routes import Route
from regproxy.upstream.fetch import Ask, Fetched

log = logging.getLogger(__name__)

PASSED_MAX: Final = 8192  # askers that a worker remembers
REFUSED_MAX: Final = 1024
REFUSED_SECONDS: Final = 10.0  # for which a refusal is not asked for again
OUTAGE_SECONDS: Final = 30.0  # for which a registry in trouble is not asked again
_CONTENT: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})
_CODES: Final = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN"}

# What a registry says to a HEAD: how many bytes where it does not show of what, and its refusal.
_Said = Evidence | int | UpstreamAnswer

# Who asks for what: registry's host and port, repository, credential, client.
_Key = tuple[str, int, str, bytes, Principal]


class _Way(Struct, frozen=True):
    """One way to be let in. `mark`: under which it is remembered; `lasts`: for how many seconds.

    `request`, `ask`: how the registry is asked.
    """

    mark: str
    lasts: float
    request: Request
    ask: Ask


class _Troubled(UpstreamError):
    """A registry's answer that it is in trouble: maybe with HEAD alone."""


class AccessGuard:
    """The Guard of private content. One for each worker."""

    def __init__(self, services: Services, responder: Responder, passthrough: Passthrough) -> None:
        self._services = services
        self._responder = responder
        self._count = services.metrics.access_verdict
        self._rights = services.rights
        self._access = services.rights.access
        self._lookup = services.lookup
        self._passthrough = passthrough
        self._passed: dict[_Key, float] = {}
        self._refused: Bounded[tuple[object, ...], tuple[UpstreamAnswer, float]] = Bounded(REFUSED_MAX)
        self._private: Bounded[tuple[Origin, str], float] = Bounded(PASSED_MAX)
        self._flights: Flights[tuple[object, ...], _Said] = Flights()
        self._seldom = Seldom()

    # --- called for each request -------------------------------------------------------------------------

    def passes(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether the client is known to be let in, and where the content is.

        Other requests than for content are passed on, and are for the registry to judge.
        """
        by_digest = route.by_digest
        if by_digest is None and (route.target.kind not in _CONTENT or route.request.method not in READS):
            return True
        if self._rights.mode(origin) != "shared":
            until = self._passed.get(_key(exchange, origin, route))
            if until is None or exchange.started >= until or route.shared.own:
                return False
        return by_digest is None or not self._has_to_ask(origin, route)

    async def admit(self, exchange: Exchange, origin: Origin, route: Route) -> Route | None:
        """Ask the registry, and return the route: the client is let in. Raises RegproxyError."""
        exchange.kind = route.by_digest.kind if route.by_digest is not None else route.target.kind.value
        if self._rights.mode(origin) != "shared":
            if route.shared.own and not self._services.policy.offline:
                # It may be a field of the client's own that lets it in: the registry sees all of them.
                await self._passthrough.run(exchange, origin, route)
                return None
            let_in = await self._is_let_in(exchange, origin, route)
            if not let_in or self._is_another(exchange, origin, route):
                # What the registry says can't be judged here: it may judge the request itself.
                await self._passthrough.run(exchange, origin, route)
                return None
        if self._has_to_ask(origin, route) and not self._services.policy.offline:
            await self._find_place(exchange, origin, route)
        return route

    # --- whether the client is let in --------------------------------------------------------------------

    async def _is_let_in(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return True if the registry lets the client in, False if its answers say neither yes nor no.

        Raises RegproxyError, the registry's refusal among them.
        """
        repository, ways = route.shared.repository, self._ways(origin, route, exchange.principal)
        refusal: UpstreamAnswer | None = None
        trouble: UpstreamError | None = None
        unclear = False
        left = max(self._rights.remains(origin, repository, way.mark, way.lasts) for way in ways)
        if left > 0:
            self._count(origin.host, "allowed")
            self._pass(exchange, origin, route, min(left, self._access.ttl, PASSED_SECONDS))
            return True
        for way in ways:
            # Without anything else to show, the client has to hear what the registry wants.
            if way.mark == PUBLIC and len(ways) > 1 and self._is_private(origin, repository):
                continue
            try:
                said = await self._ask(origin, route, way)
            except UpstreamError as error:
                trouble = error
                continue
            if said is Evidence.CLEAR:
                self._note(exchange, origin, route, way)
            if isinstance(said, int):
                exchange.said_size = said
            if said is Evidence.CLEAR or isinstance(said, int):
                self._count(origin.host, "allowed")
                return True
            if isinstance(said, UpstreamAnswer):
                refusal = said
            unclear = unclear or said is Evidence.NONE
            if way.mark != PUBLIC:
                trouble = None  # it can be asked, and does not say yes
        if trouble is not None:
            return self._in_outage(exchange, origin, route, trouble)
        if self._rights.mode(origin) == "denied":
            denied = f"{origin.host}/{route.target.repository} is not public: not served by this proxy"
            self._note_refusal(exchange, origin, denied)
            raise Refused(denied)
        # A client that shows nothing is still to be asked who it is, which the answer to an anonymous token
        # does not do.
        asks = len(ways) == 1 and not route.asks_proxy
        if refusal is not None and not unclear and not (asks and refusal.response.status != 401):
            status = refusal.response.status
            if status == 401 and not route.credential:
                self._count(origin.host, "asked_for_login")
            else:
                self._note_refusal(exchange, origin, f"{origin.host} answers {status}")
            raise refusal
        self._count(origin.host, "left_to_registry")
        return False

    def _note_refusal(self, exchange: Exchange, origin: Origin, message: str) -> None:
        self._count(origin.host, "refused")
        self._responder.note_refusal(exchange, "access", "", message)

    def _is_another(self, exchange: Exchange, origin: Origin, route: Route) -> bool:
        """Return whether a registry's answer, which did not show what it was of, was not of what is held."""
        size = self._lookup.size_of(origin, route.target) if exchange.said_size is not None else None
        return size not in (None, exchange.said_size)

    def _ways(self, origin: Origin, route: Route, principal: Principal) -> list[_Way]:
        """Return the ways in which the client may be let in, in the order in which they are tried."""
        rights, access, request = self._rights, self._access, route.shared.request
        bare = replace(
            request, headers=tuple(field for field in request.headers if field[0] != b"authorization")
        )
        itself = Ask(own_account=True, itself=True, lends=False)
        ways = [_Way(PUBLIC, PUBLIC_SECONDS, bare, itself)]
        if rights.mode(origin) == "denied":
            return ways
        if route.credential:
            mark = rights.mark("credential", route.credential)
            ways.append(_Way(mark, access.ttl, request, replace(itself, own_account=False)))
        if access.is_named(principal, origin, route.target.repository):
            ways.append(_Way(self._named(principal), access.ttl, bare, replace(itself, lends=True)))
        return ways

    def _named(self, principal: Principal) -> str:
        return self._rights.mark("login", f"{principal.kind}:{principal.name}".encode())

    def _proven(self, principal: Principal) -> str:
        return self._rights.mark("principal", f"{principal.kind}:{principal.name}".encode())

    async def _ask(self, origin: Origin, route: Route, way: _Way) -> _Said:
        """Return what the registry says to whoever asks this way. Raises UpstreamError.

        Equal askers share the question.
        """
        if self._services.policy.offline:
            raise UpstreamError(f"{origin.host} is not asked (REGPROXY_OFFLINE=true)")
        # All that the registry is told: what one client adds must not decide for another.
        key = (origin, way.request.path, way.mark, way.request.headers)
        answer, until = self._refused.get(key) or (None, 0.0)
        if answer is not None and time.monotonic() < until:
            return answer
        limit = self._services.config.stale_after if self._access.outage != "deny" else 0.0
        said = await in_time(self._flights.join(key, lambda: self._head(origin, route, way)), limit)
        if isinstance(said, UpstreamAnswer):
            self._refused.put(key, (said, time.monotonic() + REFUSED_SECONDS))
            if way.mark == PUBLIC and said.response.status in (401, 403):
                self._private.put((origin, route.shared.repository), time.monotonic() + self._access.ttl)
        return said

    def _is_private(self, origin: Origin, repository: str) -> bool:
        """Return whether a request without credentials was refused lately."""
        return time.monotonic() < (self._private.get((origin, repository)) or 0.0)

    async def _head(self, origin: Origin, route: Route, way: _Way) -> _Said:
        fetched = await self._services.upstream.fetch(origin, way.request, "HEAD", way.ask)
        self._services.upstream.release(fetched.connection, fetched.response)
        status = fetched.response.status
        if status in STALE_ON or status == 408:
            raise _Troubled(f"{fetched.origin.host} answered {status}")
        if status != 200:
            return _refusal(origin, route, fetched)
        response = fetched.response
        found = evidence(route.target, response, self._lookup.size_of(origin, route.target))
        return int(response.get(b"content-length") or 0) if found is Evidence.WEAK else found

    # --- what is remembered ------------------------------------------------------------------------------

    def _note(self, exchange: Exchange, origin: Origin, route: Route, way: _Way) -> None:
        """Note that the registry has just let the client in this way."""
        principal, repository = exchange.principal, route.shared.repository
        self._rights.note(origin, repository, way.mark)
        if way.mark != PUBLIC and principal.proven:
            # For an outage, in which tokens can't be had.
            self._rights.note(origin, repository, self._proven(principal))
        self._pass(exchange, origin, route, min(self._access.ttl, PASSED_SECONDS))

    def _pass(self, exchange: Exchange, origin: Origin, route: Route, seconds: float) -> None:
        """Let the client's next requests pass without a question."""
        if len(self._passed) >= PASSED_MAX:
            del self._passed[next(iter(self._passed))]
        self._passed[_key(exchange, origin, route)] = time.monotonic() + seconds

    def _in_outage(self, exchange: Exchange, origin: Origin, route: Route, trouble: UpstreamError) -> bool:
        """Let a client pass whose registry can't be asked, as far as the settings allow it.

        False: they do not, and the registry may judge the request itself. Raises `trouble`.
        """
        outage, principal, marks = self._access.outage, exchange.principal, [PUBLIC]
        if self._rights.mode(origin) == "denied":
            # Only what was public lately: no outage makes the rest anybody's.
            outage = "same-repository" if outage == "serve" else outage
        else:
            marks = [way.mark for way in self._ways(origin, route, principal)]
            marks += [self._proven(principal)] if principal.proven else []
        repository, grace = route.shared.repository, self._access.grace
        if outage == "deny" or (
            outage == "same-repository"
            and not any(self._rights.recall(origin, repository, mark, grace) for mark in marks)
        ):
            if isinstance(trouble, _Troubled) and self._rights.mode(origin) == "verified":
                self._count(origin.host, "left_to_registry")
                return False
            self._count(origin.host, "refused_in_outage")
            raise trouble
        self._count(origin.host, "allowed_in_outage")
        if self._seldom.lets(origin, time.monotonic()):
            log.warning(
                "%s can't say who may have its content (%s): REGPROXY_ACCESS_OUTAGE=%s decides",
                *(origin.host, trouble, outage),
            )
        trouble.__traceback__ = None
        self._pass(exchange, origin, route, OUTAGE_SECONDS)
        return True

    # --- where content is --------------------------------------------------------------------------------

    def _has_to_ask(self, origin: Origin, route: Route) -> bool:
        """Return whether content is stored of which only the registry knows whether this repository has it.

        A HEAD is for the registry to answer anyway. Where its word is not enough, the content is fetched.
        """
        if route.by_digest is None or route.asks_presence or route.shared.own:
            return False
        if not self._lookup.is_doubtful(origin, route):
            return False
        return self._lookup.believes(origin, route.target.reference)

    async def _find_place(self, exchange: Exchange, origin: Origin, route: Route) -> None:
        """Ask the registry whether it has content in this repository. Raises its refusal, UpstreamError."""
        lends = self._rights.lends(exchange.principal, origin, route.target.repository)
        itself = self._rights.mode(origin) != "shared"
        ask = Ask(own_account=route.asks_proxy, itself=itself, lends=lends)
        fetched = await self._services.upstream.fetch(origin, route.shared.request, "HEAD", ask)
        self._services.upstream.release(fetched.connection, fetched.response)
        if fetched.response.status != 200:
            raise _refusal(origin, route, fetched)
        self._lookup.shown_present(origin, route, fetched.response, exchange.started)


def _key(exchange: Exchange, origin: Origin, route: Route) -> _Key:
    return origin.host, origin.port, route.shared.repository, route.credential, exchange.principal


def _refusal(origin: Origin, route: Route, fetched: Fetched) -> UpstreamAnswer:
    """Return a registry's answer to a HEAD as a refusal, with a body for a GET."""
    response = fetched.response
    text = f"{origin.host} answers {response.status} for this request in {route.target.repository}"
    headers = (field for field in response.headers if field[0] != b"content-type")
    response = replace(response, headers=(*headers, (b"content-type", b"application/json")))
    body = error_body(_CODES.get(response.status, "UNKNOWN"), text)
    return UpstreamAnswer(response, body, origin, fetched.hops, fetched.seconds)
