"""One request and its answer on a client connection: the state that its handlers share."""

from __future__ import annotations

import asyncio
from typing import Final

from regproxy.core.request_context import TraceSpan
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tally import Use
from regproxy.fill.fill import Fill
from regproxy.http.messages import Request
from regproxy.http.origin import Origin
from regproxy.policy.principals import ANONYMOUS, Principal
from regproxy.server.routes import Route
from regproxy.tags.resolver import Confirmed

_FETCHED: Final = frozenset({"MISS", "EXPIRED"})


class Exchange:
    """The current request of a connection. One object serves all of its requests, and is reset for each.

    `host`: as the CONNECT has named it, with its port unless that is 443. `origin`: the origin of this
    request; None on the proxy port itself. `principal`: who the client is; it stays for the connection's
    later requests.
    `route`: the parsed head with its target; None where it could not be read. `request`: None also where no
    request is answered, or an error closes the connection. `started`: monotonic, when the head came.

    `kind`, `cache`, `status`: the words for headers, log and metrics; a status of 0: no head has gone out.
    `rule`, `decision`: which rule for images has decided, and what; "" where none has. `warning`: what the
    client is warned of by it, a Warning field's value.
    `detail`: a word for why the cache was passed by (RFC 9211 2.8).
    `asked`, `asked_seconds`: who was asked (`http.hops`), and how long it took. `base`: what the stream had
    sent before the body. `keeps`: the connection may go on; `body_left`: some of the request's body was not
    read. `ending`: with what was sent last the answer is out. `waiting`: it reads from what is being fetched.

    `way`: by which the client came: connect (also mirror mode, which the route tells) or transparent.
    `head`: the request's bytes if it comes often, and until its answer is kept; else b"". `good_until`: the
    answer may be sent again to equal requests until then (monotonic, see Repeats); 0: it may not.
    `digest`: of the manifest that was answered or taken, "" where that is not known. `received`: bytes of the
    request's body.

    `request_id`: see Responder.id_of(); b"" until somebody has to know it. `fill_id`: the id of the request
    that has begun what this one was answered from, "" for none, or this one.

    `connection`: what the Tracer knows of the connection; `span`: of this request, None if it is not traced.

    `task` works on it; `sent_waiter` and `body_over` are what the task awaits from the stream.
    """

    __slots__ = (
        "asked",
        "asked_seconds",
        "base",
        "body_left",
        "body_over",
        "cache",
        "client",
        "connection",
        "decision",
        "detail",
        "digest",
        "ending",
        "fill_id",
        "good_until",
        "head",
        "host",
        "keeps",
        "kind",
        "origin",
        "peer",
        "principal",
        "received",
        "request",
        "request_id",
        "route",
        "rule",
        "said_size",
        "sent_waiter",
        "span",
        "started",
        "status",
        "stream",
        "task",
        "waiting",
        "warning",
        "way",
    )

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.peer = stream.peer
        self.principal: Principal = ANONYMOUS
        # What counts a principal's requests from here.
        self.client: tuple[Principal, Use] | None = None
        self.host = ""
        self.way = "connect"
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self.sent_waiter: asyncio.Future[None] | None = None
        self.body_over: asyncio.Future[None] | None = None
        self.waiting = False
        self.connection: object = None
        self.begin(None, None)

    def begin(self, origin: Origin | None, route: Route | None) -> None:
        """Reset the state for a request, or (without a route) for input that is no readable request."""
        self.origin = origin
        self.route = route
        if route is not None:
            self.request: Request | None = route.request
            self.keeps = route.request.keep_alive
            self.body_left = route.has_body
        else:
            self.request = None
            self.keeps = self.body_left = False
        self.status = 0
        self.ending = False
        self.good_until = 0.0
        self.head = b""
        self.request_id = b""
        self.span: TraceSpan | None = None
        self.kind = self.cache = self.detail = self.asked = self.fill_id = ""
        self.digest = self.decision = self.rule = ""
        self.received = 0
        self.warning = b""
        self.asked_seconds: float | None = None
        # The bytes of what a registry has answered to a HEAD without showing what that is; None: it has.
        self.said_size: int | None = None
        self.base = self.stream.plain_sent

    @property
    def uri(self) -> str:
        """The path that was asked for; the query may carry secrets and belongs in no log."""
        return self.request.path.partition("?")[0] if self.request is not None else ""

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending bytes that will not be read."""
        return self.request is None or self.body_left

    @property
    def bare_host(self) -> str:
        """The host alone, as nginx's $host."""
        return self.origin.host if self.origin is not None else self.host

    def note(self, brought: Fill | Confirmed, cache: str) -> None:
        """Note which server was asked, and the cache status."""
        self.asked, self.asked_seconds = brought.fetched_from, brought.seconds
        # Following another process's fill is joining it, too.
        self.cache = "UPDATING" if brought.joined and cache in _FETCHED else cache
        self.fill_id = brought.request_id

    def cancel(self) -> None:
        """Cancel the task that works on it."""
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
