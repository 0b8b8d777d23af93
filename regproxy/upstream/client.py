"""Send requests to origins over idle or new connections, and follow redirects.

An origin is (scheme, host, port), so requests go to the port of the CONNECT.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from regproxy.auth.authorizer import Authorizer, Exchange, Grant, client_grant
from regproxy.auth.token_loans import MayHave
from regproxy.core.errors import BadResponse, Refused, UpstreamError, UpstreamTimeout, log_level
from regproxy.core.lru import Bounded, Seldom
from regproxy.core.request_context import Attributes, current_span, within
from regproxy.http.forwarding import upstream_head
from regproxy.http.messages import NONE, Framing, Headers, Request, Response
from regproxy.http.origin import Origin, follow
from regproxy.policy.lending import loan, trimmed
from regproxy.policy.origins import Origins, Place
from regproxy.policy.sharing import SENT
from regproxy.policy.verdicts import MAX_REDIRECTS, REDIRECTS, STALE_ON, is_hiding, is_refused_otherwise
from regproxy.registry.targets import Kind, Target, parse_target
from regproxy.registry.token_protocol import Issued
from regproxy.upstream.admission import Gate, credential_of
from regproxy.upstream.backoff import Backoff
from regproxy.upstream.connection import SMALL_BODY, Connection, ConnectionLost
from regproxy.upstream.dialer import Dialer
from regproxy.upstream.fetch import WHOLE, Ask, Fetched, as_200
from regproxy.upstream.head_support import HeadSupport, lacks_head
from regproxy.upstream.pool import Idle

__all__ = ["WHOLE", "Ask", "Connection", "ConnectionLost", "Counters", "Fetched", "Upstream", "authority"]

log = logging.getLogger(__name__)

DISTRUST_SECONDS: Final = 300.0  # for which a mirror is not asked for what it has sent wrongly
DISTRUSTED_MAX: Final = 1024
INTERIM_MAX: Final = 16  # 1xx answers before the one that counts

# The client's fields that a fetch sends on: others may share its answer. Credentials are decided apart.
_TOLD: Final = SENT - {b"authorization"}
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_TOKENS: Final = "tokens"  # a credential of its own: token servers' quotas are no registry's
_TOKEN_SECONDS: Final = 20.0  # for one request to a token server
_DRAIN: Final = 5.0  # seconds for a body that is read only to reuse the connection
_SAFE: Final = frozenset({"GET", "HEAD"})
_OTHER_SCHEME: Final = re.compile(
    rb"^(?:proxy-)?authorization:(?![ \t]*(?:basic|bearer)[ \t])", re.IGNORECASE | re.MULTILINE
)
_MIRRORED: Final = frozenset({Kind.BLOB, Kind.MANIFEST, Kind.TAG})
_BY_DIGEST: Final = frozenset({Kind.BLOB, Kind.MANIFEST})
_IDENTITY: Final = (b"accept-encoding", b"identity")


T = TypeVar("T")


class Counters(Protocol):
    """The counters of requests to origins."""

    def upstream_request(self, host: str, code: int | str, seconds: float) -> None:
        """Count one answer by its status, or a failure by a word, and the seconds until its head."""

    def first_byte(self, host: str, seconds: float) -> None:
        """Count the seconds from a request that was sent to the head of its answer."""


class Upstream:
    """The client of all origins; one for each worker.

    `authorizer` makes the Authorizer, which gets this object to ask for tokens.
    """

    def __init__(
        self,
        dialer: Dialer,
        origins: Origins,
        gate: Gate,
        counters: Counters,
        authorizer: Callable[[Exchange], Authorizer],
        first_byte: float = 0.0,
        heads_itself: bool = False,
    ) -> None:
        """`first_byte`: seconds until content by digest must begin, where the read timeout is shorter.

        `heads_itself`: no mirror is asked by HEAD.
        """
        self._dialer = dialer
        self._origins = origins
        self._gate = self.gate = gate
        self._counters = counters
        self._first_byte = first_byte
        self._heads_itself = heads_itself
        self._idle = Idle()
        self._heads = HeadSupport()
        self._lets_in: Bounded[Origin, bool] = Bounded(DISTRUSTED_MAX)  # without any Authorization
        self._distrusted: Bounded[tuple[Origin, str], float] = Bounded(DISTRUSTED_MAX)
        self._seldom, self._backoff = Seldom(), Backoff()
        self._authorizer = authorizer(self)

    # --- connections -------------------------------------------------------------------------------------

    async def dial(self, host: str, port: int, timeout: float) -> tuple[int, str]:
        """Connect to a host: see Dialer.dial."""
        return await self._dialer.dial(host, port, timeout)

    def release(self, connection: Connection, response: Response) -> None:
        """Give a connection back after its answer has been read; it is kept alive if the origin agrees."""
        self._idle.give(connection, response)

    def close(self) -> None:
        """End tasks under way, and close every idle connection."""
        self._authorizer.close()
        self._gate.close()
        self._idle.close()

    # --- requests ----------------------------------------------------------------------------------------

    async def _request(
        self,
        origin: Origin,
        head: bytes,
        method: str,
        *,
        fresh: bool = False,
        answer_of: Origin | None = None,
        patience: float = 0.0,
    ) -> tuple[Connection, Response]:
        """Send a request, with any small body in `head`, and read the head of its final answer.

        If the origin has just closed an idle connection, try once more on a new one. `fresh`: only on a new
        one. `answer_of`: see Dialer.connect. `patience`: seconds until the answer must begin, where the read
        timeout is shorter. Raises UpstreamError.
        """
        above = current_span()
        if above is None:
            return await self._request_untraced(origin, head, method, fresh, answer_of, patience)
        with within(above.child(method, _told(origin, head, method))) as span:
            head = _traced(head, span.traceparent)
            found = await self._request_untraced(origin, head, method, fresh, answer_of, patience)
            span.put({"http.response.status_code": found[1].status})
            return found

    async def _request_untraced(
        self,
        origin: Origin,
        head: bytes,
        method: str,
        fresh: bool,
        answer_of: Origin | None,
        patience: float,
    ) -> tuple[Connection, Response]:
        started = time.monotonic()
        try:
            # A request that is not idempotent must not be repeated (RFC 9110 9.2.2): it gets no connection
            # that may turn out to be closed.
            idle = None
            if method in _IDEMPOTENT and not fresh:
                idle = self._idle.take(origin, lambda idle: self._dialer.may_reuse(idle, answer_of))
            if idle is not None:
                with suppress(ConnectionLost):
                    return await self._ask(idle, head, method, started, patience)
            connection = await self._connect(origin, answer_of)
            return await self._ask(connection, head, method, started, patience)
        except UpstreamError:
            self._counters.upstream_request(origin.name, "error", time.monotonic() - started)
            raise

    async def _connect(self, origin: Origin, answer_of: Origin | None = None) -> Connection:
        return await self._gate.breakers.run(origin, self._dialer.connect(origin, answer_of))

    async def _ask(
        self, connection: Connection, head: bytes, method: str, started: float, patience: float = 0.0
    ) -> tuple[Connection, Response]:
        # NTLM and Negotiate authenticate a connection, not a request (RFC 4559 6); unknown schemes may too.
        connection.private = connection.private or _OTHER_SCHEME.search(head) is not None
        connection.wait_at_least(patience)
        sent = time.monotonic()
        try:
            connection.send(head)
            response = await connection.read_head(method)
            for _ in range(INTERIM_MAX):
                if response.status >= 200:
                    break
                response = await connection.read_head(method)
            else:
                raise BadResponse(f"{connection.origin.host}: more than {INTERIM_MAX} interim answers")
        except BaseException:
            connection.abort()
            raise
        host, now = connection.origin.name, time.monotonic()
        self._counters.upstream_request(host, response.status, now - started)
        self._counters.first_byte(host, now - sent)
        return connection, response

    def _fields(self, origin: Origin, grant: Grant | None) -> tuple[tuple[bytes, bytes], ...]:
        """Return the fields to add to a request."""
        # Without this an origin behind plain HTTP would call itself http:// in URLs for clients.
        proto = ((b"x-forwarded-proto", b"https"),) if self._origins.plain(origin) else ()
        return (*proto, (b"authorization", grant.value)) if grant is not None else proto

    # --- requests that are passed on ---------------------------------------------------------------------

    async def pass_on(
        self, origin: Origin, request: Request, body: bytes = b"", *, lend: bool = True
    ) -> tuple[Connection, Response]:
        """Send a request with a small body in memory. If it has no credentials and may get the configured
        ones, these are added, unless `lend` is False.
        """
        grant = await self._authorizer.passing(origin, request) if lend else None
        kind = _kind(request)
        async with self._authorizer.trial(origin, grant) as rests:
            grant = None if rests else grant
            sent = _lent(request, grant)
            head = upstream_head(sent, authority(origin), put=self._fields(origin, grant)) + body
            connection, response = await self._gate.through(
                *(origin, credential_of(grant or client_grant(request), request), request.method, kind),
                lambda: self._request(origin, head, request.method),
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
        head = upstream_head(_lent(request, grant), authority(origin), put=self._fields(origin, grant))
        breakers = self._gate.breakers
        breakers.admit(origin)
        try:
            connection = await self._connect(origin)
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

    async def may_lend(self, origin: Origin, request: Request) -> bool:
        """Return whether a token may be lent: see TokenLoans.may_lend."""
        return await self._authorizer.loans.may_lend(origin, request)

    async def is_token_server(self, host: str, port: int) -> bool:
        """Return whether a registry has named this port of its site: see TokenLoans.has_port."""
        return await self._authorizer.loans.has_port(host, port)

    async def lend(self, origin: Origin, request: Request, body: bytes, may_have: MayHave) -> Issued | None:
        """Get a token to lend: see TokenLoans.lend."""
        return await self._authorizer.loans.lend(origin, request, body, may_have)

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
        """Send one request to a token server: see `token_cache.Exchange`."""
        above = current_span()
        if above is None:
            return await self._exchange(origin, method, target, headers, body, registry)
        with within(above.child("token", {"server.address": origin.host, "server.port": origin.port})):
            return await self._exchange(origin, method, target, headers, body, registry)

    async def _exchange(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        registry: Origin | None,
    ) -> tuple[int, Response, bytes]:
        framing = Framing("length", len(body)) if method == "POST" else Framing("none", 0)
        request = Request(method, target, 1, headers, framing, True, False)
        head = upstream_head(request, authority(origin), target=target)
        connection, response = await self._gate.through(
            *(origin, _TOKENS, method, Kind.TOKEN),
            lambda: self._in_token_time(
                origin,
                self._request(origin, head + body, method, fresh=method == "POST", answer_of=registry),
            ),
            limited=False,
        )
        try:
            content = await self._in_token_time(origin, connection.read_small(response))
        except BaseException:
            connection.abort()
            raise
        self.release(connection, response)
        return response.status, response, content

    async def _in_token_time(self, origin: Origin, answer: Coroutine[Any, Any, T]) -> T:
        """Await a token within _TOKEN_SECONDS: many requests may wait for it."""
        try:
            async with asyncio.timeout(_TOKEN_SECONDS):
                return await answer
        except TimeoutError:
            raise UpstreamTimeout(f"{origin.host}: no token within {_TOKEN_SECONDS:g} s") from None

    # --- content -----------------------------------------------------------------------------------------

    async def fetch(self, origin: Origin, request: Request, method: str, ask: Ask = WHOLE) -> Fetched:
        """Ask for unencoded content: the registry's mirrors in their order, then the registry itself.

        Redirects are followed; credentials and cookies stay with the registry. Raises UpstreamError; the
        caller reads the body and releases the connection, or aborts it.
        """
        if method == "HEAD" and _kind(request) in _MIRRORED:
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
            self.release(head.connection, head.response)
            return found
        self.release(found.connection, found.response)
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
                async with asyncio.timeout(_DRAIN):
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
            return await self._fetch_at(Place(origin), request, method, ask)
        *mirrors, itself = self._origins.places(origin)
        for place in mirrors if _kind(request) in _MIRRORED and not ask.itself else ():
            if (self._distrusted.get((place.origin, request.path)) or 0.0) > started:
                continue
            try:
                fetched = await self._fetch_at(
                    place, _anonymous(request), method, replace(ask, patient=False, lends=True)
                )
            except (UpstreamError, Refused) as error:
                level = log_level(error, logging.INFO)
                log.log(level, "%s: the mirror %s: %s", origin.host, place.origin.host, error)
                continue
            if place.settles(fetched.response.status):
                return fetched
            log.info("%s: the mirror %s says %d", origin.host, place.origin.host, fetched.response.status)
            await self._finish(fetched.connection, fetched.response)
        return await self._fetch_at(itself, request, method, ask)

    def distrust(self, mirror: Origin, request: Request) -> None:
        """Stop asking a mirror for this for a while: its content was wrong."""
        self._distrusted.put((mirror, request.path), time.monotonic() + DISTRUST_SECONDS)

    async def _fetch_at(self, place: Place, request: Request, method: str, ask: Ask) -> Fetched:
        started = time.monotonic()
        url = ask.at or _url(place.origin, place.path(request.path))
        at = self._origins.canonical(Origin.of(url)) if ask.at else place.origin
        across, hops, sent = bool(ask.at), "", started
        for _ in range(MAX_REDIRECTS + 1):
            if at != place.origin:
                across = True  # for good: another host's URLs never get the registry's credentials
            connection, response = await self._hop(place.origin, at, request, method, url, ask, across)
            now = time.monotonic()
            hops, sent = f"{hops} {connection.hop(now - sent)}".lstrip(), now
            if response.status not in REDIRECTS:
                response = as_200(response, ask)
                resumed_at = "" if ask.bare else url
                return Fetched(connection, response, at, now - started, resumed_at, place.origin, hops)
            location = response.get(b"location")
            if location is None:
                connection.abort()
                raise BadResponse(f"{at.host} redirects ({response.status}) without saying where to")
            await self._finish(connection, response)
            url = follow(url, location)
            to = self._origins.canonical(Origin.of(url))
            if at.scheme == "https" and to.scheme != "https":
                self._check_plain(place.origin, at, to, _kind(request))
                # From here on anybody may have chosen where it goes.
                ask = replace(ask, bare=True)
            at = to
        raise BadResponse(f"{place.origin.host}: more than {MAX_REDIRECTS} redirects")

    def _check_plain(self, registry: Origin, at: Origin, to: Origin, kind: Kind) -> None:
        """Raise BadResponse where a redirect to plain HTTP is not to be followed."""
        text = f"{at.host} redirects to plain HTTP at {to.host}"
        if not self._origins.follows_plain(registry, by_digest=kind in _BY_DIGEST):
            setting = "REGPROXY_ALLOW_HTTP_REDIRECTS"
            raise BadResponse(f"{text}: not followed; name {registry.host} in {setting} to allow it")
        if self._seldom.lets((at, to), time.monotonic()):
            log.info("%s: followed, without any credentials", text)

    async def _hop(
        self,
        origin: Origin,
        at: Origin,
        request: Request,
        method: str,
        url: str,
        ask: Ask,
        across: bool,
    ) -> tuple[Connection, Response]:
        """Send one request of a redirect chain. `across`: the chain has left the registry's host.

        The registry is shown credentials, and others if it refuses those; elsewhere see _send_redirected().
        """
        if across:
            return await self._send_redirected(origin, at, request, method, url, ask)
        target, authorizer = _lent_target(request.path), self._authorizer
        grant = await authorizer.authorization(
            origin, target, request, own_account=ask.own_account, lends=ask.lends
        )
        if grant is not None:
            return await self._show(origin, at, grant, request, method, url, ask)
        first = await self._send(at, None, request, method, url, ask)
        if is_hiding(first[1]):
            try:
                grant = await authorizer.hidden(
                    origin, target, request, first[1], own_account=ask.own_account, lends=ask.lends
                )
            except BaseException:
                first[0].abort()
                raise
        if grant is None:
            return await self._show(origin, at, None, request, method, url, ask, first)
        try:
            second = await self._show(origin, at, grant, request, method, url, ask)
        except BaseException:
            first[0].abort()
            raise
        authorizer.found(origin, target, grant, second[1].status)
        # A login that is of no use must not make a 404 a 401: clients look for what may not be there.
        kept, dropped = (first, second) if is_refused_otherwise(first[1], second[1]) else (second, first)
        await self._drop(kept[0], dropped)
        return kept

    async def _show(
        self,
        origin: Origin,
        at: Origin,
        grant: Grant | None,
        request: Request,
        method: str,
        url: str,
        ask: Ask,
        first: tuple[Connection, Response] | None = None,
    ) -> tuple[Connection, Response]:
        """Ask the registry with these credentials; `first`: its answer, where that is there already."""
        target, authorizer = _lent_target(request.path), self._authorizer
        async with authorizer.trial(origin, grant) as rests:
            if rests:
                again = await authorizer.authorization(
                    origin, target, request, own_account=ask.own_account, lends=ask.lends
                )
                # Another sort of credentials may do; a login must wait for its turn.
                grant = None if again is not None and again.sort == "login" else again
            connection, response = first or await self._send(at, grant, request, method, url, ask)
            if response.status != 401:
                authorizer.accepted(origin, grant, response.status)
                return connection, response
            if grant is not None and grant.sort == "login":
                await authorizer.note(origin, target, response, grant)
        try:
            other = await authorizer.refused(
                *(origin, target, request, response, grant), own_account=ask.own_account, lends=ask.lends
            )
        except BaseException:
            connection.abort()
            raise
        if other is None:
            return connection, response
        async with authorizer.trial(origin, other) as rests:
            if rests:
                return connection, response
            await self._finish(connection, response)
            connection, response = await self._send(at, other, request, method, url, ask)
            if response.status != 401:
                authorizer.accepted(origin, other, response.status)
            else:
                await authorizer.note(origin, target, response, other)
        return connection, response

    async def _send_redirected(
        self, registry: Origin, at: Origin, request: Request, method: str, url: str, ask: Ask
    ) -> tuple[Connection, Response]:
        """Ask a host that a redirect has led to; after a 401 once more, with that host's own credentials."""
        connection, response = await self._send_backing_off(registry, at, None, request, method, url, ask)
        if response.status != 401 or ask.bare:
            return connection, response
        authorizer, path = self._authorizer, _path_of(url)
        try:
            grant = await authorizer.redirected(registry, at, method, path, response)
        except BaseException:
            connection.abort()
            raise
        async with authorizer.trial(at, grant) as rests:
            if rests or grant is None:
                return connection, response
            await self._finish(connection, response)
            connection, response = await self._send_backing_off(
                registry, at, grant, request, method, url, ask
            )
            if response.status != 401:
                authorizer.accepted(at, grant, response.status)
            else:
                await authorizer.note(at, parse_target(path), response, grant)
        return connection, response

    async def _send_backing_off(
        self,
        registry: Origin,
        at: Origin,
        grant: Grant | None,
        request: Request,
        method: str,
        url: str,
        ask: Ask,
    ) -> tuple[Connection, Response]:
        """Ask a host that a redirect has led to, again after a pause while it is busy: see Backoff."""
        if _kind(request) not in _BY_DIGEST:
            # Of a tag there may be a copy to serve instead: the client is not kept waiting.
            return await self._send(at, grant, request, method, url, ask, answer_of=registry)
        for attempt in itertools.count(1):
            async with self._backoff.turn(at):
                connection, response = await self._send(
                    at, grant, request, method, url, ask, answer_of=registry
                )
            pause = self._backoff.pause(at, response, attempt)
            if pause is None:
                break
            await self._finish(connection, response)
            log.info("%s answers %d: asked again in %.1f s", at.host, response.status, pause)
            await asyncio.sleep(pause)
        return connection, response

    async def _send(
        self,
        at: Origin,
        grant: Grant | None,
        request: Request,
        method: str,
        url: str,
        ask: Ask,
        *,
        answer_of: Origin | None = None,
    ) -> tuple[Connection, Response]:
        """Send a request to `at`. `answer_of`: the registry whose redirect led there, None if none did."""
        put = (_IDENTITY, *ask.fields(at), *self._fields(at, grant))
        told = _anonymous(request)
        head = upstream_head(told, authority(at), target=_path_of(url), method=method, put=put)
        # Where another place can be asked instead, a silent one is not waited for any longer than usual.
        patient = ask.patient and not ask.at and method == "GET" and _kind(request) in _BY_DIGEST
        patience = self._first_byte if patient else 0.0
        # A request without credentials to a registry that wants some uses up no quota, and has to get the
        # challenge. The limits of a host that a registry redirects to are not that registry's: see Backoff.
        redirected = answer_of is not None
        limited = not redirected and (grant is not None or self._lets_in.get(at) is True)
        connection, response = await self._gate.through(
            *(at, credential_of(grant, told if redirected else request), method, _kind(request)),
            lambda: self._request(at, head, method, answer_of=answer_of, patience=patience),
            limited=limited,
            counted=not redirected,
        )
        if grant is None and not redirected:
            self._lets_in.put(at, response.status != 401)
        return connection, response

    async def _drop(self, kept: Connection, dropped: tuple[Connection, Response]) -> None:
        """Finish one answer, while another one is still to be read."""
        try:
            await self._finish(*dropped)
        except BaseException:
            kept.abort()
            raise

    async def _finish(self, connection: Connection, response: Response) -> None:
        """Read a small body and drop it, so that the connection can be reused."""
        try:
            async with asyncio.timeout(_DRAIN):
                await connection.read_small(response)
        except (UpstreamError, TimeoutError):
            connection.abort()
        except BaseException:
            connection.abort()
            raise
        else:
            self.release(connection, response)


def _told(origin: Origin, head: bytes, method: str) -> Attributes:
    """Return what a span tells of a request. A query is left out: signed URLs have their secrets there."""
    path = head.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
    return {
        "http.request.method": method,
        "server.address": origin.host,
        "server.port": origin.port,
        "url.scheme": origin.scheme,
        "url.path": path,
    }


def _traced(head: bytes, traceparent: bytes) -> bytes:
    """Return a request that tells of this trace, and of no other."""
    fields, end, body = head.partition(b"\r\n\r\n")
    first, *others = fields.split(b"\r\n")
    others = [field for field in others if not field.lower().startswith(b"traceparent:")]
    return b"\r\n".join((first, *others, b"traceparent: " + traceparent)) + end + body


def _lent(request: Request, grant: Grant | None) -> Request:
    """Return the request to send with this grant; with one of ours, without fields that would change what is
    asked.
    """
    return trimmed(request) if grant is not None and grant.is_ours else request


def _lent_target(path: str) -> Target:
    """Return the target of a fetch, with the repository that its tokens are for: lists of referrers are in
    one, too.
    """
    target = parse_target(path)
    found = loan("GET", path, pushes=False) if target.kind is Kind.OTHER else None
    return target if found is None else replace(target, repository=found.repository)


def _kind(request: Request) -> Kind:
    return parse_target(request.path).kind


def _anonymous(request: Request) -> Request:
    """Return the request without credentials, and without fields that no key of a shared answer has."""
    return replace(request, headers=tuple(field for field in request.headers if field[0] in _TOLD), body=NONE)


def authority(origin: Origin) -> bytes:
    """Return `host[:port]` for a Host header (RFC 9110 section 7.2), without the scheme's own port."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    default = 443 if origin.scheme == "https" else 80
    return (host if origin.port == default else f"{host}:{origin.port}").encode()


def _url(origin: Origin, path: str) -> str:
    return f"{origin.scheme}://{authority(origin).decode()}{path}"


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
