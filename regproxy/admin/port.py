"""The admin port: /metrics for Prometheus, /healthz and /readyz for probes, the API for operators."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from regproxy.admin import gatekeeper as gates
from regproxy.admin.decoding import check_media, read_body, read_query
from regproxy.admin.gatekeeper import Gatekeeper
from regproxy.admin.operations import API, LOGIN, Call, Operation, Route, Table
from regproxy.admin.paging import Cursors
from regproxy.admin.replies import (
    API_HEADERS,
    JSON,
    PAGE_HEADERS,
    Problem,
    Reply,
    Streamed,
    json_reply,
    see_other,
    text,
)
from regproxy.admin.visitors import Scope, Visitor
from regproxy.core.errors import RegproxyError
from regproxy.http.messages import READS, Request
from regproxy.telemetry.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

METRICS: Final = "/metrics"

ReadBody = Callable[[Request], Awaitable[bytes]]
ProblemPage = Callable[[Problem, str, Visitor | None], Reply]  # what is wrong, the path, who asks

_SAID_MAX: Final = 500  # characters of a body in the log


class AdminPort:
    """Answers for one worker; the metrics are those of all workers."""

    def __init__(
        self,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        ready: Callable[[], str | None],
        ends: Callable[[], bool],
        live: Callable[[], dict[str, int]] | None = None,
        *,
        table: Table,
        gatekeeper: Gatekeeper,
        cursors: Cursors,
        threads: Executor,
        other_threads: Iterable[Executor] = (),
        background: Callable[[], Coroutine[Any, Any, None]],
        on_end: Callable[[], None],
        problem_page: ProblemPage,
    ) -> None:
        """`ready()` returns None, or why the worker is not ready; `ends()`: connections are not kept alive.

        `live` counts the open objects of the data plane; only a debug run shows it. `background` is to run
        as long as the port does. `on_end()` ends the answers that go on. `other_threads`
        end with the port. `problem_page()` makes a page, on a
        thread, of what is wrong with a request for one.
        """
        self._metrics = metrics
        self.loop = loop
        self._ready = ready
        self.ends = ends
        self._live = live
        self._table = table
        self._gatekeeper = gatekeeper
        self._cursors = cursors
        self._threads = threads
        self._executors = (threads, *other_threads)
        self.background = background
        self.end_streams = on_end
        self._problem_page = problem_page
        self._scrape: asyncio.Future[bytes] | None = None

    def close(self) -> None:
        """Have the threads begin nothing any more. What runs in one of them must not keep the worker."""
        for each in self._executors:
            each.shutdown(wait=False, cancel_futures=True)

    # --- what is open to everybody -----------------------------------------------------------------------

    def page(self, path: str) -> Reply | None:
        """Return the answer to a GET of a path that is open to everybody, None for any other path.

        METRICS is such a path too, whose answer scrape() makes.
        """
        if path == "/healthz":
            return text(200, "ok\n")
        if path == "/readyz":
            reason = self._ready()
            return text(200, "ready\n") if reason is None else text(503, f"not ready: {reason}\n")
        if path == "/debug/live" and self._live is not None:
            return Reply(200, JSON, json.dumps(self._live()).encode())
        if path != METRICS and not self._table.has(path):
            return text(404, f"no such path; there are {METRICS}, /healthz, /readyz and {API}/openapi.json\n")
        return None

    async def scrape(self) -> Reply:
        """Collect the metrics in a thread, so that no client waits. Concurrent scrapes share one result."""
        if self._scrape is None:
            self._metrics.publish()
            self._scrape = self.loop.run_in_executor(None, self._metrics.collect)
            self._scrape.add_done_callback(self._scraped)
        try:
            found = await asyncio.shield(self._scrape)
        except Exception as error:
            log.error("the metrics can't be collected", exc_info=error)
            return text(500, "the metrics can't be collected; the log has more\n")
        return Reply(200, CONTENT_TYPE.encode(), found)

    def _scraped(self, scrape: asyncio.Future[bytes]) -> None:
        self._scrape = None
        if not scrape.cancelled():
            scrape.exception()  # marked as retrieved, where all who waited have gone

    # --- the table ---------------------------------------------------------------------------------------

    async def serve(
        self,
        request: Request,
        peer: str,
        read: ReadBody,
        here: tuple[str, int] = ("", 0),
        there: tuple[str, int] = ("", 0),
    ) -> Reply | Streamed:
        """Answer a request for anything else. `read` reads its body, once it is known to be wanted.

        `here`, `there`: the proxy's and the client's end of the connection, as the kernel has them.
        """
        path, _, query = request.path.partition("?")
        visitor: Visitor | None = None
        try:
            route, parameters = self._table.find(request.method, path)
            operation = route.operation
            visitor = await self._gatekeeper.admit(operation, request, peer)
            asked = read_query(operation, query)
            body = await self._body(operation, visitor, request, read)
            call: Call[Any, Any] = Call(
                operation, parameters, asked, body, visitor, request, self._cursors, here, there
            )
            reply = await self._answer(route, call)
        except Problem as problem:
            reply = await self._refusal(problem, request, visitor)
        except RegproxyError as error:
            reply = await self._refusal(Problem(error.status, str(error)), request, visitor)
        except Exception:
            log.exception("%s %s", request.method, path)
            bug = Problem(500, "internal error; the log has more")
            reply = await self._refusal(bug, request, visitor)
        return replace(reply, headers=(*(API_HEADERS if _is_api(path) else PAGE_HEADERS), *reply.headers))

    async def _refusal(self, problem: Problem, request: Request, visitor: Visitor | None) -> Reply:
        """Return what is wrong: to a program as JSON, to a browser as a page, or the way to log in."""
        path = request.path.partition("?")[0]
        if _is_api(path) or b"json" in (request.get(b"content-type") or b""):
            return problem.reply()
        if problem.status == 401 and path != LOGIN:
            return see_other(LOGIN)
        # The first page of a worker loads the templates, which takes some tens of milliseconds.
        page = await self.loop.run_in_executor(self._threads, self._problem_page, problem, path, visitor)
        return replace(page, headers=problem.headers)

    async def _body(self, operation: Operation, visitor: Visitor, request: Request, read: ReadBody) -> Any:
        content_type = (request.get(b"content-type") or b"").decode("latin-1")
        has_body = not request.body.empty
        check_media(operation, content_type, has_body=has_body)
        body = read_body(operation, content_type, await read(request) if has_body else b"")
        gates.check_form(visitor, request, getattr(body, "csrf_token", None) or "")
        return body

    async def _answer(self, route: Route, call: Call[Any, Any]) -> Reply | Streamed:
        try:
            reply = await self._answered(route, call)
        except RegproxyError as error:
            _log_write(call, error.status)
            raise
        _log_write(call, reply.status if isinstance(reply, Reply) else 200)
        return reply

    async def _answered(self, route: Route, call: Call[Any, Any]) -> Reply | Streamed:
        operation, handler = route.operation, route.handler
        if operation.thread:
            found = await self.loop.run_in_executor(self._threads, handler, call)
        else:
            found = handler(call)
            if inspect.isawaitable(found):
                found = await found
        if isinstance(found, Reply | Streamed):
            return found
        if found is None:
            return Reply(204, b"", b"")
        # Of a thousand items it takes a millisecond.
        return json_reply(found, operation.status)


def _is_api(path: str) -> bool:
    return path.startswith(f"{API}/")


def _log_write(call: Call[Any, Any], status: int) -> None:
    """Log who has changed what, or was refused to. A login changes nothing, and its body is a token."""
    request, visitor = call.request, call.visitor
    if request.method in READS or call.operation.scope is not Scope.WRITE:
        return
    body = {} if call.body is None else msgspec.to_builtins(call.body)
    body.pop("csrf_token", None)
    said = f" {msgspec.json.encode(body).decode()[:_SAID_MAX]}" if body else ""
    log.info("%s: %s %s%s by %s: %d", visitor.peer, request.method, request.path, said, visitor.how, status)
