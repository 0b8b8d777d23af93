"""What the sessions of a worker share, and what a request's head says."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final

from regproxy._reactor import Reactor
from regproxy.accesslog import AccessLog
from regproxy.config import Config
from regproxy.contexts import Contexts
from regproxy.fill import Fills
from regproxy.heads import Request, parse_request
from regproxy.index import Index
from regproxy.metrics import Metrics
from regproxy.oci import Kind, Target, parse_target
from regproxy.pages import Pages
from regproxy.policy import Action, Plan, Policy
from regproxy.store import Store
from regproxy.upstream import Upstream

ROUTES_MAX: Final = 1024
ROUTE_HEAD_MAX: Final = 2048  # bytes; with it the memory is bounded

BY_DIGEST: Final = frozenset({Kind.BLOB, Kind.MANIFEST})
_CONDITIONS: Final = frozenset({b"range", b"if-none-match"})


@dataclass(frozen=True, slots=True)
class Route:
    """What a head says, worked out once: clients send the same few heads again and again.

    `by_digest` is the plan when the content is held, None for all but content by digest; `conditional`: a
    range or validator may make the answer something else than all of it.
    """

    request: Request
    target: Target
    by_digest: Plan | None
    conditional: bool


@dataclass(slots=True)
class Services:
    """What the sessions of a worker share."""

    config: Config
    policy: Policy
    reactor: Reactor
    store: Store
    index: Index
    fills: Fills
    upstream: Upstream
    contexts: Contexts
    metrics: Metrics
    access: AccessLog
    pages: Pages
    loop: asyncio.AbstractEventLoop
    draining: bool = False
    _routes: dict[bytes, Route] = field(default_factory=dict)
    _second: int = 0
    _date: bytes = b""

    def route(self, head: bytes) -> Route:
        """Parse a head, or remember it. Raises HeadError."""
        route = self._routes.get(head)
        if route is not None:
            return route
        request = parse_request(head)
        target = parse_target(request.path)
        by_digest = None
        if target.kind in BY_DIGEST and request.body.empty:
            plan = self.policy.plan(request.method, target, True, None)
            by_digest = plan if plan.action is Action.SERVE else None
        route = Route(request, target, by_digest, any(name in _CONDITIONS for name, _ in request.headers))
        if len(head) <= ROUTE_HEAD_MAX:
            if len(self._routes) >= ROUTES_MAX:
                del self._routes[next(iter(self._routes))]
            self._routes[head] = route
        return route

    def date(self) -> bytes:
        """The Date field and the empty line that ends a head; made once a second."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
        return self._date
