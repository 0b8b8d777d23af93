"""One request and its answer on a client connection: the state that those who answer it share."""

from __future__ import annotations

import asyncio
from typing import Final

from regproxy.dataplane.stream import Stream
from regproxy.fill.fill import Fill
from regproxy.http.messages import Request
from regproxy.http.origin import Origin
from regproxy.server.routes import Route
from regproxy.tags.resolver import Confirmed

_FETCHED: Final = frozenset({"MISS", "EXPIRED"})


class Exchange:
    """What a connection is at. One object serves all of its requests, and is begun anew with each.

    `host`: as the CONNECT has named it. `origin`: whom this request is for; None on the proxy port itself.
    `route`: what the head says, its target with it; None where it could not be read. `request`: None also
    where what is answered is no request, or not to be gone into any more. `started`: monotonic, when the head
    came.

    `kind`, `cache`, `status`: the words for headers, log and metrics; a status of 0: no head has gone out.
    `detail`: a word for why the cache was passed by (RFC 9211 2.8).
    `asked`, `asked_seconds`: who was asked (`http.hops`), and how long it took. `base`: what the stream had
    sent before the body. `keeps`: the connection may go on; `body_left`: some of the request's body was not
    read. `ending`: with what was sent last the answer is out. `waiting`: it reads from what is being fetched.

    `task` works on it; `sent_waiter` and `body_over` are what that waits for from the stream.
    """

    __slots__ = (
        "asked",
        "asked_seconds",
        "base",
        "body_left",
        "body_over",
        "cache",
        "detail",
        "ending",
        "host",
        "keeps",
        "kind",
        "origin",
        "peer",
        "request",
        "route",
        "sent_waiter",
        "started",
        "status",
        "stream",
        "task",
        "waiting",
    )

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.peer = stream.peer
        self.host = ""
        self.started = 0.0
        self.task: asyncio.Task[None] | None = None
        self.sent_waiter: asyncio.Future[None] | None = None
        self.body_over: asyncio.Future[None] | None = None
        self.waiting = False
        self.begin(None, None)

    def begin(self, origin: Origin | None, route: Route | None) -> None:
        """Begin with a request, or (no route) with what is none."""
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
        self.kind = self.cache = self.detail = self.asked = ""
        self.asked_seconds: float | None = None
        self.base = self.stream.plain_sent

    @property
    def uri(self) -> str:
        """The path that was asked for; the query may carry secrets and belongs in no log."""
        return self.request.path.partition("?")[0] if self.request is not None else ""

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending something that nobody will read."""
        return self.request is None or self.body_left

    def note(self, brought: Fill | Confirmed, cache: str) -> None:
        """Note who was asked, and what the cache had to do with it."""
        self.asked, self.asked_seconds = brought.fetched_from, brought.seconds
        # What another process fetches was joined, too.
        self.cache = "UPDATING" if brought.joined and cache in _FETCHED else cache

    def cancel(self) -> None:
        """Stop what works on it."""
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
