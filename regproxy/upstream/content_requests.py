"""Ask one place, a registry or a mirror of it, for content: show credentials, and follow redirects.

Credentials and cookies stay with the registry: a host that its redirects lead to is shown its own at most.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from regproxy.auth.authorizer import Authorizer
from regproxy.auth.grants import Grant
from regproxy.core.errors import BadResponse
from regproxy.core.lru import Bounded, Seldom
from regproxy.http.forwarding import upstream_head
from regproxy.http.messages import NONE, Request, Response
from regproxy.http.origin import Origin, follow
from regproxy.policy.lending import loan
from regproxy.policy.origins import Origins, Place
from regproxy.policy.sharing import SENT
from regproxy.policy.verdicts import MAX_REDIRECTS, REDIRECTS, is_hiding, is_refused_otherwise
from regproxy.registry.targets import Kind, Target, parse_target
from regproxy.upstream.admission import Gate, credential_of
from regproxy.upstream.backoff import Backoff
from regproxy.upstream.connections.connection import Connection
from regproxy.upstream.fetch import Ask, Fetched, as_200
from regproxy.upstream.sender import Sender

log = logging.getLogger(__name__)

OPEN_MAX: Final = 1024  # registries of which it is remembered whether they answer without credentials

# The client's fields that a fetch sends on: others may share its answer. Credentials are decided apart.
_TOLD: Final = SENT - {b"authorization"}
_BY_DIGEST: Final = frozenset({Kind.BLOB, Kind.MANIFEST})
_IDENTITY: Final = (b"accept-encoding", b"identity")


class ContentRequests:
    """Asks places for content, one after another that a redirect names. One per worker."""

    def __init__(
        self, sender: Sender, origins: Origins, gate: Gate, authorizer: Authorizer, first_byte: float = 0.0
    ) -> None:
        """`first_byte`: seconds until content by digest must begin, where the read timeout is shorter."""
        self._sender = sender
        self._origins = origins
        self._gate = gate
        self._authorizer = authorizer
        self._first_byte = first_byte
        self._lets_in: Bounded[Origin, bool] = Bounded(OPEN_MAX)  # without any Authorization
        self._seldom, self._backoff = Seldom(), Backoff()

    async def fetch(self, place: Place, request: Request, method: str, ask: Ask) -> Fetched:
        """Return a place's answer, after its redirects. Raises UpstreamError, or Refused."""
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
            await self._sender.finish(connection, response)
            url = follow(url, location)
            to = self._origins.canonical(Origin.of(url))
            if at.scheme == "https" and to.scheme != "https":
                self._check_plain(place.origin, at, to, kind_of(request))
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
            await self._sender.finish(connection, response)
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
            await self._sender.finish(connection, response)
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
        if kind_of(request) not in _BY_DIGEST:
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
            await self._sender.finish(connection, response)
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
        put = (_IDENTITY, *ask.fields(at), *added_fields(self._origins.plain(at), grant))
        told = anonymous(request)
        head = upstream_head(told, at.authority, target=_path_of(url), method=method, put=put)
        # Where another place can be asked instead, a silent one is not waited for any longer than usual.
        patient = ask.patient and not ask.at and method == "GET" and kind_of(request) in _BY_DIGEST
        patience = self._first_byte if patient else 0.0
        # A request without credentials to a registry that wants some uses up no quota, and has to get the
        # challenge. The limits of a host that a registry redirects to are not that registry's: see Backoff.
        redirected = answer_of is not None
        limited = not redirected and (grant is not None or self._lets_in.get(at) is True)
        connection, response = await self._gate.through(
            *(at, credential_of(grant, told if redirected else request), method, kind_of(request)),
            lambda: self._sender.send(at, head, method, answer_of=answer_of, patience=patience),
            limited=limited,
            counted=not redirected,
        )
        if grant is None and not redirected:
            self._lets_in.put(at, response.status != 401)
        return connection, response

    async def _drop(self, kept: Connection, dropped: tuple[Connection, Response]) -> None:
        """Finish one answer, while another one is still to be read."""
        try:
            await self._sender.finish(*dropped)
        except BaseException:
            kept.abort()
            raise


def _lent_target(path: str) -> Target:
    """Return the target of a fetch, with the repository that its tokens are for: lists of referrers are in
    one, too.
    """
    target = parse_target(path)
    found = loan("GET", path, pushes=False) if target.kind is Kind.OTHER else None
    return target if found is None else replace(target, repository=found.repository)


def kind_of(request: Request) -> Kind:
    """Return what a request is for."""
    return parse_target(request.path).kind


def anonymous(request: Request) -> Request:
    """Return the request without credentials, and without fields that no key of a shared answer has."""
    return replace(request, headers=tuple(field for field in request.headers if field[0] in _TOLD), body=NONE)


def added_fields(plain: bool, grant: Grant | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the fields to add to a request. `plain`: it goes to an origin behind plain HTTP."""
    # Without this such an origin would call itself http:// in URLs for clients.
    proto = ((b"x-forwarded-proto", b"https"),) if plain else ()
    return (*proto, (b"authorization", grant.value)) if grant is not None else proto


def _url(origin: Origin, path: str) -> str:
    return f"{origin.scheme}://{origin.authority.decode()}{path}"


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
