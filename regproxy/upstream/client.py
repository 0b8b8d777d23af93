"""Send requests to origins: pass on those of clients; ask for content, of mirrors before their registry, by
GET where a registry doesn't know HEAD.

An origin is (scheme, host, port), so requests go to the port of the CONNECT.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from regproxy.auth.authorizer import Authorizer
from regproxy.auth.grants import Grant, client_grant
from regproxy.auth.token_cache import TokenExchange
from regproxy.auth.token_loans import MayHave
from regproxy.core.errors import Refused, UpstreamError, log_level
from regproxy.core.lru import Bounded
from regproxy.http.forwarding import upstream_head
from regproxy.http.messages import NONE, Request, Response
from regproxy.http.origin import Origin
from regproxy.policy.lending import trimmed
from regproxy.policy.origins import Origins, Place
from regproxy.policy.verdicts import STALE_ON
from regproxy.registry.targets import Kind, parse_target
from regproxy.registry.token_protocol import Issued
from regproxy.upstream.admission import Gate, credential_of
from regproxy.upstream.connections.connection import SMALL_BODY, Connection
from regproxy.upstream.connections.dialer import Dialer
from regproxy.upstream.content_requests import ContentRequests, added_fields, anonymous, kind_of
from regproxy.upstream.fetch import WHOLE, Ask, Fetched
from regproxy.upstream.head_support import HeadSupport, lacks_head
from regproxy.upstream.sender import DRAIN, RequestCounters, Sender
from regproxy.upstream.token_exchange import TokenServers

log = logging.getLogger(__name__)

DISTRUST_SECONDS: Final = 300.0  # for which a mirror is not asked for what it has sent wrongly
DISTRUSTED_MAX: Final = 1024

_SAFE: Final = frozenset({"GET", "HEAD"})
_MIRRORED: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})


class Upstream:
    """The client of all origins; one for each worker.

    `authorizer` makes the Authorizer, which is given what it asks servers for tokens by.
    """

    def __init__(
        self,
        dialer: Dialer,
        origins: Origins,
        gate: Gate,
        counters: RequestCounters,
        authorizer: Callable[[TokenExchange], Authorizer],
        first_byte: float = 0.0,
        heads_itself: bool = False,
    ) -> None:
        """`first_byte`: seconds until content by digest must begin, where the read timeout is shorter.

        `heads_itself`: no mirror is asked by HEAD.
        """
        self._dialer = dialer
        self._origins = origins
        self._gate = self.gate = gate
        self._heads_itself = heads_itself
        self._heads = HeadSupport()
        self._distrusted: Bounded[tuple[Origin, str], float] = Bounded(DISTRUSTED_MAX)
        self._sender = sender = Sender(dialer, gate.breakers, counters)
        self._authorizer = authorizer(TokenServers(sender, gate))
        self._content = ContentRequests(sender, origins, gate, self._authorizer, first_byte)

    # --- connections -------------------------------------------------------------------------------------

    async def dial(self, host: str, port: int, timeout: float) -> tuple[int, str]:
        """Connect to a host: see Dialer.dial."""
        return await self._dialer.dial(host, port, timeout)

    def release(self, connection: Connection, response: Response) -> None:
        """Give a connection back after its answer has been read; it is kept alive if the origin agrees."""
        self._sender.release(connection, response)

    def close(self) -> None:
        """End tasks under way, and close every idle connection."""
        self._authorizer.close()
        self._gate.close()
        self._sender.close()

    # --- requests that are passed on ---------------------------------------------------------------------

    async def pass_on(
        self, origin: Origin, request: Request, body: bytes = b"", *, lend: bool = True
    ) -> tuple[Connection, Response]:
        """Send a request with a small body in memory. If it has no credentials and may get the configured
        ones, these are added, unless `lend` is False.
        """
        grant = await self._authorizer.passing(origin, request) if lend else None
        kind = kind_of(request)
        async with self._authorizer.trial(origin, grant) as rests:
            grant = None if rests else grant
            sent = _lent(request, grant)
            head = self._head(origin, sent, grant) + body
            connection, response = await self._gate.through(
                *(origin, credential_of(grant or client_grant(request), request), request.method, kind),
                lambda: self._sender.send(origin, head, request.method),
                # Pings and token requests are how clients get credentials of their own: never held back.
                limited=request.method in _SAFE and kind in _MIRRORED,
            )
            try:
                await self._authorizer.passed(origin, sent, grant, response)
            except BaseException:
                connection.abort()
                raise
        return connection, response

    async def begin(
        self, origin: Origin, request: Request, *, lend: bool = True
    ) -> tuple[Connection, Grant | None]:
        """Send the head of a request whose body follows; on a new connection, as it can't be sent twice.

        `lend`: as in pass_on(). The caller must pass the answer to began().
        """
        grant = await self._authorizer.passing(origin, request) if lend else None
        if not await self._authorizer.may_show(origin, grant):
            grant = None
        head = self._head(origin, _lent(request, grant), grant)
        breakers = self._gate.breakers
        breakers.admit(origin)
        try:
            connection = await self._sender.connect(origin)
        except UpstreamError as error:
            breakers.failed(origin, error)
            raise
        except BaseException:
            breakers.abandoned(origin)
            raise
        breakers.answered(origin)
        connection.send(head)
        return connection, grant

    def began(self, origin: Origin, request: Request, grant: Grant | None, response: Response) -> None:
        """Note the answer to a request that begin() has sent."""
        self._authorizer.judge(origin, request, grant, response)

    def _head(self, origin: Origin, request: Request, grant: Grant | None) -> bytes:
        return upstream_head(request, origin.authority, put=added_fields(self._origins.plain(origin), grant))

    async def may_lend(self, origin: Origin, request: Request) -> bool:
        """Return whether a token may be lent: see TokenLoans.may_lend."""
        return await self._authorizer.loans.may_lend(origin, request)

    async def is_token_server(self, host: str, port: int) -> bool:
        """Return whether a registry has named this port of its site: see TokenLoans.has_port."""
        return await self._authorizer.loans.has_port(host, port)

    async def lend(self, origin: Origin, request: Request, body: bytes, may_have: MayHave) -> Issued | None:
        """Get a token to lend: see TokenLoans.lend."""
        return await self._authorizer.loans.lend(origin, request, body, may_have)

    # --- content -----------------------------------------------------------------------------------------

    async def fetch(self, origin: Origin, request: Request, method: str, ask: Ask = WHOLE) -> Fetched:
        """Ask for unencoded content: the registry's mirrors in their order, then the registry itself.

        Redirects are followed; credentials and cookies stay with the registry. Raises UpstreamError; the
        caller reads the body and releases the connection, or aborts it.
        """
        if method == "HEAD" and kind_of(request) in _MIRRORED:
            return await self._fetch_head(origin, request, ask)
        return await self._fetch(origin, request, method, ask)

    async def _fetch_head(self, origin: Origin, request: Request, ask: Ask) -> Fetched:
        """Ask by HEAD; where the origin may not implement it, by GET, of which only the head is used."""
        target, heads = parse_target(request.path), self._heads
        ask = replace(ask, itself=ask.itself or self._heads_itself)
        if heads.needs_get(origin, target):
            return await self._fetch_head_by_get(origin, request, ask)
        head = await self._fetch(origin, request, "HEAD", ask)
        status = head.response.status
        doubtful = heads.is_doubtful(origin, target, head.origin, status)
        # A client that pushes is often told 404, and each would cost a GET.
        if not doubtful or (self._heads_itself and not lacks_head(status)):
            return head
        try:
            found = await self._fetch_head_by_get(origin, request, ask)
            heads.answered_get(origin, target, found.response.status)
        except (UpstreamError, Refused):
            # Trouble says nothing, and is no better to hear than what the HEAD said.
            if ask.spare or lacks_head(status):
                head.connection.abort()
                raise
            return head
        except BaseException:
            head.connection.abort()
            raise
        instead = found.response.status
        if instead < 300 or lacks_head(status) or (ask.spare and instead in STALE_ON):
            self._sender.release(head.connection, head.response)
            return found
        self._sender.release(found.connection, found.response)
        return head

    async def _fetch_head_by_get(self, origin: Origin, request: Request, ask: Ask) -> Fetched:
        fetched = await self._fetch(origin, request, "GET", ask)
        return replace(fetched, response=await self._head_alone(fetched))

    async def _head_alone(self, fetched: Fetched) -> Response:
        """Return the head of an answer to GET as that of one to HEAD: a small body is read and dropped, else
        the connection is closed.
        """
        connection, response, body = fetched.connection, fetched.response, fetched.response.body
        if body.kind == "length" and body.length <= SMALL_BODY:
            try:
                async with asyncio.timeout(DRAIN):
                    await connection.read_small(response)
                return replace(response, body=NONE)
            except (UpstreamError, TimeoutError):
                pass
            except BaseException:
                connection.abort()
                raise
        connection.abort()
        return replace(response, body=NONE, keep_alive=False)

    async def _fetch(self, origin: Origin, request: Request, method: str, ask: Ask) -> Fetched:
        started = time.monotonic()
        if ask.at:
            return await self._content.fetch(Place(origin), request, method, ask)
        *mirrors, itself = self._origins.places(origin)
        for place in mirrors if kind_of(request) in _MIRRORED and not ask.itself else ():
            if (self._distrusted.get((place.origin, request.path)) or 0.0) > started:
                continue
            try:
                fetched = await self._content.fetch(
                    place, anonymous(request), method, replace(ask, patient=False, lends=True)
                )
            except (UpstreamError, Refused) as error:
                level = log_level(error, logging.INFO)
                log.log(level, "%s: the mirror %s: %s", origin.host, place.origin.host, error)
                continue
            if place.settles(fetched.response.status):
                return fetched
            log.info("%s: the mirror %s says %d", origin.host, place.origin.host, fetched.response.status)
            await self._sender.finish(fetched.connection, fetched.response)
        return await self._content.fetch(itself, request, method, ask)

    def distrust(self, mirror: Origin, request: Request) -> None:
        """Stop asking a mirror for this for a while: its content was wrong."""
        self._distrusted.put((mirror, request.path), time.monotonic() + DISTRUST_SECONDS)


def _lent(request: Request, grant: Grant | None) -> Request:
    """Return the request to send with this grant; with one of ours, without fields that would change what is
    asked.
    """
    return trimmed(request) if grant is not None and grant.is_ours else request
