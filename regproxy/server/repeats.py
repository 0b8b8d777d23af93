"""Answers from the cache that the data plane may send again by itself: which ones, and what it has to know.

Anything that is not a plain hit of a client that may have it, or that somebody keeps count of beyond log and
metrics, stays with the session.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from regproxy.cache.index.index import Index
from regproxy.config.settings import Config
from regproxy.dataplane.answers import ANSWERS_MAX, Answer, Answers, Scope
from regproxy.dataplane.board import Board
from regproxy.dataplane.request_ids import RequestIds
from regproxy.dataplane.stream import Stream
from regproxy.dataplane.tally import Use
from regproxy.http.origin import Origin
from regproxy.policy.freshness import Lifetime
from regproxy.policy.principals import ANONYMOUS, Principal
from regproxy.registry.targets import Kind
from regproxy.server.exchange import Exchange
from regproxy.server.routes import ROUTE_HEAD_MAX, Route
from regproxy.telemetry.access_log import AccessLog
from regproxy.telemetry.metrics import Metrics
from regproxy.telemetry.usage.recorder import Recorder

SECOND: Final = 1.0  # for which an answer is good at most, as it has a Date
_CLEAR_EVERY: Final = 5.0  # seconds: answers hold content that may have been removed
_STATUSES: Final = frozenset({200, 304})


class Repeated(NamedTuple):
    """What an exchange has to know of an answer that was sent again, but has not gone out at once."""

    origin: Origin | None
    route: Route | None
    host: str
    kind: str
    cache: str
    digest: str
    status: int
    size: int


class Repeats:
    """Puts answers into the data plane, and takes them back.

    `guarded`: a request has to pass guards before it is answered.
    """

    def __init__(
        self,
        answers: Answers,
        index: Index,
        metrics: Metrics,
        access: AccessLog,
        usage: Recorder,
        guarded: bool,
    ) -> None:
        self._answers = answers
        self._index = index
        self._usage = usage
        # The hits of content since the answers were forgotten, by digest.
        self._hits: dict[str, Use] = {}
        self._guarded = guarded
        self._metrics = metrics
        self._access = access
        self._cleared = 0.0
        # For mirror mode, where each head says for which registry it is: connections of whoever.
        self._plain = answers.scope(None)
        index.on_change = answers.revoke
        access.answers = answers
        answers.on_lines = access.flush

    @property
    def repeated(self) -> int:
        """How many answers the data plane has sent by itself."""
        return self._answers.repeated

    def begin_plain(self, stream: Stream) -> None:
        """Let the data plane answer on this connection of whoever to the proxy itself."""
        stream.client = self._usage.clients.of((ANONYMOUS.kind, stream.peer))
        stream.scope = self._plain

    def begin(self, stream: Stream, host: str, port: int, principal: Principal, peer: str) -> None:
        """Let the data plane answer on this connection of a client to a registry. `peer`: its address."""
        stream.client = self._usage.clients.of((principal.kind, principal.name or peer))
        stream.scope = self._answers.scope((host, port, principal.kind, principal.name))

    def begin_lookup(self) -> None:
        """Note that what is looked up from here on may end in an answer that is kept."""
        self._answers.begin()

    def may_keep(self, exchange: Exchange, route: Route, age: float, lifetime: Lifetime | None) -> None:
        """Decide whether the answer that is about to go out is kept: `exchange.good_until` says so.

        `age`, `lifetime`: of a tag's copy, None for content by digest.
        """
        if lifetime is not None and not lifetime.is_fresh(age + SECOND):
            return
        until = exchange.started + SECOND
        if self._guarded:
            until = min(until, _passed_until(exchange, route))
        exchange.good_until = until

    def keep(self, exchange: Exchange, status: int, head: bytes, body: bytes, second: int) -> None:
        """Keep the answer that goes out now, whole, for equal requests. `second`: of its Date, epoch."""
        scope: Scope | None = exchange.stream.scope
        asked, exchange.head = exchange.head, b""
        request, route = exchange.request, exchange.route
        if scope is None or request is None or route is None or status not in _STATUSES:
            return
        if len(asked) > ROUTE_HEAD_MAX or exchange.body_left or exchange.keeps != request.keep_alive:
            return  # something else than the request ends the connection
        host, kind, cache = exchange.host, exchange.kind, exchange.cache
        owner = Repeated(exchange.origin, route, host, kind, cache, exchange.digest, status, len(body))
        request_id = exchange.request_id
        named = exchange.bare_host if self._access.rp else host
        line = self._access.parts(
            *(second, request.method, route.path, named, status, len(body), kind, cache),
            *(request_id.decode(), route.told),
        )
        tally = self._metrics.tally(host, kind, cache, status)
        until, last = exchange.good_until, not exchange.keeps
        image, content = self._uses(exchange, route) if request.method == "GET" else (None, None)
        what = (head, body, owner, tally, True, until, second, line, last)
        scope.put(asked, Answer(*what, image, content, request_id))

    def _uses(self, exchange: Exchange, route: Route) -> tuple[Use | None, Use]:
        """Return what counts the use of the image and of the content."""
        origin, target, digest = exchange.origin, route.target, exchange.digest
        if len(self._hits) >= ANSWERS_MAX:
            self._forget()
        hits = self._hits.get(digest)
        if hits is None:
            hits = self._hits[digest] = Use()
        if origin is None:
            return None, hits
        reference = "" if target.kind is Kind.BLOB else target.reference
        return self._usage.images.of((origin.host, origin.port, target.repository, reference)), hits

    def tidy(self, now: float) -> None:
        """Forget all answers now and then. `now`: monotonic."""
        if now - self._cleared >= _CLEAR_EVERY:
            self._cleared = now
            self._forget()

    def close(self) -> None:
        """Answer nothing by itself any more: connections end with their answers."""
        self._answers.close()
        self._forget()

    def _forget(self) -> None:
        """Forget all answers, and tell the index how often they were sent again."""
        self._answers.clear()
        for digest, use in self._hits.items():
            counts = use.take()
            if counts is not None:
                self._index.hit(digest, counts[0])
        self._hits.clear()


def _passed_until(exchange: Exchange, route: Route) -> float:
    """Return until when equal requests of this client pass without a question (monotonic); 0: they do not.

    One that has passed by a question alone has passed for itself.
    """
    origin, passed = exchange.origin, route.passed
    if origin is None or passed is None or passed[:3] != (exchange.principal, origin.host, origin.port):
        return 0.0
    return passed[3]


def repeats(
    config: Config,
    board: Board,
    index: Index,
    metrics: Metrics,
    access: AccessLog,
    usage: Recorder,
    guarded: bool,
    ids: RequestIds,
) -> Repeats | None:
    """Return what lets the data plane answer by itself, None where each answer needs more than that."""
    if not config.repeat_answers or config.image_rules.rules or config.keepalive_timeout == 0:
        return None
    answers = Answers(board, config.keepalive_timeout, config.client_header_timeout, ids)
    return Repeats(answers, index, metrics, access, usage, guarded)
