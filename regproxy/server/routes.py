"""Parse request heads, and remember the results: clients send the same few heads again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from regproxy.cache.index.index import TagRow
from regproxy.dataplane.tally import Use
from regproxy.http.messages import READS, Request, parse_authority, parse_request
from regproxy.http.origin import Origin
from regproxy.http.trace_context import TraceContext, own_id_of, trace_of
from regproxy.policy.freshness import Lifetime
from regproxy.policy.lending import without_empty_login
from regproxy.policy.mirror_mode import Mirrored, MirrorMode, shown_login
from regproxy.policy.plans import Plan, Policy
from regproxy.policy.principals import Principal
from regproxy.policy.sharing import Shared, shared
from regproxy.policy.variants import choose_variant
from regproxy.registry.accept import Accept, parse_accept
from regproxy.registry.targets import Kind, Target, parse_target
from regproxy.tags.rows import is_former
from regproxy.telemetry.access_log import extra_fields

ROUTES_MAX: Final = 1024
ROUTE_HEAD_MAX: Final = 2048  # bytes; with it the memory is bounded

BY_DIGEST: Final = frozenset({Kind.BLOB, Kind.MANIFEST})
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_CONDITIONS: Final = frozenset({b"range", b"if-none-match"})


class Judged(NamedTuple):
    """What the rules for images have let pass, until `until` (monotonic), for one client and registry.

    `digest`: only while that is what the tag is; "" if that matters not. The rest: see Exchange; `counter`:
    how often it was so, in its only item; `beside`: the same for a rule in dry run beside that one.
    """

    principal: Principal
    host: str
    port: int
    until: float
    digest: str
    rule: str
    decision: str
    warning: bytes
    counter: list[int]
    beside: list[int]


class Route(Struct):
    """A parsed head and all that follows from it alone.

    `path`: the request's, with its query. `by_digest`: the plan for a cache hit, None unless the request is
    for content by digest; `lifetime`: that of a tag's copies, None unless it is for a tag that may be
    answered from the cache. `credential`: its Authorization, b"" without. `shared`: the request as others may
    share it. `named`: the host and port that
    the request names, port 0 where it names none. `asks_presence`: see Policy.asks_presence. `conditional`:
    because of a range or validator the answer may not be the complete content. `mirrored`: which registry a
    request without CONNECT is for; `refused`: why it is not answered; `login`: what it shows to the proxy,
    None for nothing. `rows` and `chosen`: the last choice among a tag's variants. `passed`: a client that the
    guards have let pass with it, the registry's host and port, and until when (monotonic). `let_in`: the same
    where the rules for images are asked behind them; `judged`: of these. `again`: until when (monotonic) one
    more hit makes it a head that is asked with often. `image`: what counts
    its pulls at a registry, if it is one. `trace`: which the client says it is part of; `told`:
    fields of the access log that follow from the head.
    """

    request: Request
    path: str
    target: Target
    shared: Shared
    by_digest: Plan | None
    lifetime: Lifetime | None
    conditional: bool
    has_body: bool
    accept: Accept
    named: tuple[str, int] | None = None
    asks_presence: bool = False
    credential: bytes = b""
    mirrored: Mirrored | None = None
    refused: str = ""
    login: bytes | None = None
    rows: tuple[TagRow, ...] = ()
    chosen: TagRow | None = None
    passed: tuple[Principal, str, int, float] | None = None
    let_in: tuple[Principal, str, int, float] | None = None
    again: float = 0.0
    trace: TraceContext | None = None
    told: str = ""
    judged: Judged | None = None
    image: tuple[Origin, Use | None] | None = None

    @property
    def asks_proxy(self) -> bool:
        """Whether the client speaks to the proxy alone: see Mirrored.for_proxy."""
        return self.mirrored is not None and self.mirrored.for_proxy

    def refusal(self, origin: Origin, any_port: bool = False) -> tuple[int, str] | None:
        """Return status and reason where the request can't be passed to `origin`, None where it can.

        421: it names another host than the CONNECT did (RFC 9110 15.5.20), or none in its Host. 400: it has a
        body where none has a meaning (RFC 9110 9.3.1, 9.3.2, 9.3.7, 9.3.8): an origin that leaves it unread
        takes it for a request.
        """
        named = self.named
        if named is not None and (named[0] != origin.host or not (any_port or named[1] in (0, origin.port))):
            there = f"{origin.host}:{origin.port}"
            host = self.request.authority or "no host"
            return 421, f"the request is for {host}, the CONNECT was for {there}"
        if self.has_body and self.request.method in _BODILESS:
            return 400, f"a {self.request.method} with a body is not passed on"
        return None

    def choose(self, rows: tuple[TagRow, ...]) -> TagRow | None:
        """Return the variant among a tag's rows that answers this request, if any does."""
        if rows is not self.rows:
            current = tuple(row for row in rows if not is_former(row))
            self.rows, self.chosen = rows, choose_variant(current, self.accept)
        return self.chosen


class Routes:
    """The cache of parsed heads. `ignored`: header fields on which the answer does not depend."""

    __slots__ = ("_ignored", "_known", "_policy")

    def __init__(self, policy: Policy, ignored: Iterable[bytes]) -> None:
        self._policy = policy
        self._ignored = tuple(ignored)
        self._known: dict[bytes, Route] = {}

    def of(self, head: bytes) -> Route:
        """Return the route of a head, parsed or remembered. Raises HeadError."""
        route = self._known.get(head)
        if route is not None:
            return route
        route = self._parse(head)
        if len(head) <= ROUTE_HEAD_MAX:
            if len(self._known) >= ROUTES_MAX:
                del self._known[next(iter(self._known))]
            self._known[head] = route
        return route

    def _parse(self, head: bytes) -> Route:
        return self._route(parse_request(head))

    def _route(self, request: Request) -> Route:
        request = without_empty_login(request)
        path = request.path
        target = parse_target(path)
        share = shared(request, target, self._ignored)
        by_digest = lifetime = None
        if request.body.empty and request.method in READS:
            if target.kind in BY_DIGEST:
                by_digest = self._policy.plan(request.method, target, True, None)
            elif target.kind is Kind.TAG and not share.own:
                lifetime = self._policy.lifetime(target.reference)
        conditional = any(name in _CONDITIONS for name, _ in request.headers)
        accept = parse_accept(request.all(b"accept"))
        body = not request.body.empty
        # A CONNECT in here is refused as a CONNECT, not for its host.
        named = _named(request) if request.method != "CONNECT" else None
        presence = self._policy.asks_presence(request.method, target)
        return Route(
            *(request, path, target, share, by_digest, lifetime, conditional, body, accept, named, presence),
            credential=b"\n".join(request.all(b"authorization")),
            trace=(trace := trace_of(request)),
            told=extra_fields(
                client_request_id=own_id_of(request), trace_id=trace.trace_id if trace is not None else ""
            ),
        )


class PlainRoutes(Routes):
    """The heads of requests without CONNECT: for a registry that is mirrored, or for a page."""

    __slots__ = ("_mode",)

    def __init__(self, policy: Policy, ignored: Iterable[bytes], mode: MirrorMode) -> None:
        super().__init__(policy, ignored)
        self._mode = mode

    def _parse(self, head: bytes) -> Route:
        request = parse_request(head)
        found = self._mode.find(request)
        if isinstance(found, Mirrored):
            asked = self._mode.request(request, found)
            route = self._route(asked)
            # Its Host is the proxy's.
            route.mirrored, route.named = found, None
            route.refused = self._mode.refusal(asked) if found.for_proxy else ""
            route.login = shown_login(request, found)
            return route
        route = self._route(request)
        route.refused = found or ""
        route.login = shown_login(request, None)
        return route


def _named(request: Request) -> tuple[str, int] | None:
    """Return the host and port that a request names, port 0 without one; the host is "" for an empty Host.

    None where it has no Host, as in HTTP/1.0.
    """
    authority = request.authority
    if not authority:
        return None if request.get(b"host") is None else ("", 0)
    name, _, port = authority.rpartition(":")
    if not port or port.endswith("]") or not name:
        # `host:` means the scheme's own port (RFC 3986 3.2.3).
        return parse_authority(name if not port else authority, 65535)[0], 0
    return parse_authority(authority, None)
