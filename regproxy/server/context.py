"""What the sessions of a worker share, and what a request's head says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

from regproxy.cache.blobs import Store
from regproxy.cache.index.index import Index, TagRow
from regproxy.config.settings import Config
from regproxy.core.lru import Bounded
from regproxy.dataplane.reactor import Reactor
from regproxy.fill.fills import Fills
from regproxy.http.messages import Request, parse_authority, parse_request
from regproxy.http.origin import Origin
from regproxy.policy.plans import Plan, Policy, choose_variant
from regproxy.policy.sharing import Shared, shared
from regproxy.registry.targets import Accept, Kind, Target, parse_accept, parse_target
from regproxy.server.setup_pages import Pages
from regproxy.tags.resolver import Tags
from regproxy.tags.rows import is_former
from regproxy.telemetry.access_log import AccessLog
from regproxy.telemetry.metrics import Metrics
from regproxy.tls.server_contexts import Contexts
from regproxy.upstream.client import Upstream

log = logging.getLogger(__name__)

SAID_SECONDS: Final = 60.0  # until the same is logged again
SAID_MAX: Final = 256
ROUTES_MAX: Final = 1024
ROUTE_HEAD_MAX: Final = 2048  # bytes; with it the memory is bounded

BY_DIGEST: Final = frozenset({Kind.BLOB, Kind.MANIFEST})
_READS: Final = frozenset({"GET", "HEAD"})
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CONDITIONS: Final = frozenset({b"range", b"if-none-match"})


@dataclass(slots=True)
class Route:
    """What a head says, worked out once: clients send the same few heads again and again.

    `by_digest` is the plan when the content is held, None for all but content by digest; `fresh_tag` the one
    for a tag while its copy is young enough, with that age. `shared`: what others may share of it. `named`:
    the host that is meant, and the port, 0 where none is named. `conditional`: a range or validator may make
    the answer something else than all of it. `rows` and `chosen`: the last choice among a tag's variants.
    """

    request: Request
    target: Target
    shared: Shared
    by_digest: Plan | None
    fresh_tag: tuple[Plan, float] | None
    conditional: bool
    has_body: bool
    accept: Accept
    named: tuple[str, int] | None = None
    rows: tuple[TagRow, ...] = ()
    chosen: TagRow | None = None

    def refusal(self, origin: Origin) -> tuple[int, str] | None:
        """Return status and reason where the request can't be passed to `origin`, None where it can.

        421: it names another host than the CONNECT has (RFC 9110 15.5.20). 400: it has a body where none has
        a meaning (RFC 9110 9.3.1, 9.3.2, 9.3.7): an origin that leaves it unread takes it for a request.
        """
        named = self.named
        if named is not None and (named[0] != origin.host or named[1] not in (0, origin.port)):
            there = f"{origin.host}:{origin.port}"
            return 421, f"the request is for {self.request.authority}, the CONNECT was for {there}"
        if self.has_body and self.request.method in _BODILESS:
            return 400, f"a {self.request.method} with a body is not passed on"
        return None

    def choose(self, rows: tuple[TagRow, ...]) -> TagRow | None:
        """The variant among a tag's rows that answers this request, if any does."""
        if rows is not self.rows:
            current = tuple(row for row in rows if not is_former(row))
            self.rows, self.chosen = rows, choose_variant(current, self.accept)
        return self.chosen


@dataclass(slots=True)
class Services:
    """What the sessions of a worker share."""

    config: Config
    policy: Policy
    reactor: Reactor
    store: Store
    index: Index
    fills: Fills
    tags: Tags
    upstream: Upstream
    contexts: Contexts
    metrics: Metrics
    access: AccessLog
    pages: Pages
    loop: asyncio.AbstractEventLoop
    stretch: Callable[[str], float] = lambda host: 1.0  # how many times longer a registry's tags are fresh
    closes: bool = False  # every answer says that the connection ends: while we end, or without keep-alive
    drains: bool = False  # a connection ends with its answer, whatever that has said
    _routes: dict[bytes, Route] = field(default_factory=dict)
    _said: Bounded[tuple[object, ...], float] = field(default_factory=lambda: Bounded(SAID_MAX))
    _second: int = 0
    _date: bytes = b""

    def route(self, head: bytes) -> Route:
        """Parse a head, or remember it. Raises HeadError."""
        route = self._routes.get(head)
        if route is not None:
            return route
        request = parse_request(head)
        target = parse_target(request.path)
        share = shared(request, target, self.config.ignored_headers)
        by_digest = fresh_tag = None
        if request.body.empty and request.method in _READS:
            if target.kind in BY_DIGEST:
                by_digest = self.policy.plan(request.method, target, True, None)
            elif target.kind is Kind.TAG and not share.own:
                fresh_tag = self.policy.fresh_tag(target.reference)
        conditional = any(name in _CONDITIONS for name, _ in request.headers)
        accept = parse_accept(request.all(b"accept"))
        body = not request.body.empty
        # A CONNECT is refused as what it is.
        named = _named(request.authority) if request.method != "CONNECT" else None
        route = Route(request, target, share, by_digest, fresh_tag, conditional, body, accept, named)
        if len(head) <= ROUTE_HEAD_MAX:
            if len(self._routes) >= ROUTES_MAX:
                del self._routes[next(iter(self._routes))]
            self._routes[head] = route
        return route

    def say_refused(self, host: str, port: int, reason: str) -> None:
        """Log a CONNECT that is refused, once a minute for each target: clients show only the status."""
        if self._is_news((host, port)):
            log.warning("CONNECT %s:%d refused: %s", host, port, reason)

    def say_own(self, host: str, reason: str) -> None:
        """Log that requests to a registry can't be answered from the cache, once a minute for each reason."""
        if self._is_news((host, reason)):
            log.info(
                "%s: a request with %s is passed on uncached: the answer may depend on it"
                " (REGPROXY_IGNORE_HEADERS names headers that say nothing of what is wanted)",
                *(host, reason),
            )

    def _is_news(self, what: tuple[object, ...]) -> bool:
        now = time.monotonic()
        if now < (self._said.get(what) or 0.0):
            return False
        self._said.put(what, now + SAID_SECONDS)
        return True

    def date(self) -> bytes:
        """The Date field and the empty line that ends a head; made once a second."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
        return self._date


def _named(authority: str) -> tuple[str, int] | None:
    """Return the host and port that a request names, port 0 without one; None where it names nobody."""
    if not authority:
        return None
    name, _, port = authority.rpartition(":")
    if not port or port.endswith("]") or not name:
        # `host:` means the scheme's own port (RFC 3986 3.2.3).
        return parse_authority(name if not port else authority, 65535)[0], 0
    return parse_authority(authority, None)
