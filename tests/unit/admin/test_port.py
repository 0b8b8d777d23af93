"""What comes of a handler: answers, problems, errors; pages and the API."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from regproxy.admin.gatekeeper import Gatekeeper
from regproxy.admin.operations import Call, Table, get, post
from regproxy.admin.paging import Cursors
from regproxy.admin.port import AdminPort
from regproxy.admin.replies import HTML, Problem, Reply
from regproxy.admin.visitors import Scope, Token
from regproxy.core.errors import StoreError
from regproxy.http.messages import Request, parse_request

TOKEN = Token("t" * 32, Scope.WRITE, local=True)


class Answer(msgspec.Struct):
    """An answer."""

    thread: str


class Endpoints:
    """What may come of a handler."""

    @get("/api/v1/plain")
    def plain(self, call: Call[None, None]) -> Answer:
        """Answer."""
        return Answer(threading.current_thread().name)

    @get("/api/v1/thread", thread=True)
    def in_thread(self, call: Call[None, None]) -> Answer:
        """Answer."""
        return Answer(threading.current_thread().name)

    @get("/api/v1/later")
    async def later(self, call: Call[None, None]) -> Answer:
        """Answer."""
        await asyncio.sleep(0)
        return Answer("later")

    @post("/api/v1/nothing")
    def nothing(self, call: Call[None, None]) -> None:
        """Answer."""

    @get("/api/v1/problem")
    def problem(self, call: Call[None, None]) -> Answer:
        """Answer."""
        raise Problem(409, "not now", ((b"retry-after", b"1"),), field="x")

    @get("/api/v1/error")
    def error(self, call: Call[None, None]) -> Answer:
        """Answer."""
        raise StoreError("no cache")

    @get("/api/v1/bug", thread=True)
    def bug(self, call: Call[None, None]) -> Answer:
        """Answer."""
        raise RuntimeError("a secret")

    @post("/images/{name}/{action}")
    def action(self, call: Call[None, None]) -> Reply:
        """Answer."""
        return Reply(303, HTML, b"")

    @get("/")
    def page(self, call: Call[None, None]) -> Reply:
        """Answer."""
        return Reply(200, HTML, b"<p>")


class Tokens:
    """One token."""

    all_local = True

    async def current(self) -> list[Token]:
        return [TOKEN]


class Counts:
    """Counts nothing."""

    def admin_login(self, outcome: str) -> None:
        return


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "admin-test") as threads:
        yield threads


def answer(
    threads: ThreadPoolExecutor, path: str, method: str = "GET", *, token: str = TOKEN.text
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and fields."""
    fakes: Any = Tokens(), Counts()
    nothing: Any = None

    async def body(request: Request) -> bytes:
        raise AssertionError("no body is read")

    async def run() -> Reply:
        port = AdminPort(
            *(nothing, asyncio.get_running_loop(), lambda: None, lambda: False),
            table=Table.of(Endpoints()),
            gatekeeper=Gatekeeper(*fakes),
            cursors=Cursors(b""),
            threads=threads,
            background=nothing,
            on_end=nothing,
        )
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        reply = await port.serve(parse_request(f"{head}\r\n".encode()), "127.0.0.1", body)
        assert isinstance(reply, Reply)
        return reply

    reply = asyncio.run(run())
    return reply.status, reply.body, {name.decode(): value.decode() for name, value in reply.headers}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/api/v1/plain", '"MainThread"'),
        ("/api/v1/thread", '"admin-test_0"'),
        ("/api/v1/later", '"later"'),
    ],
)
def test_answers(path: str, want: str, threads: ThreadPoolExecutor) -> None:
    status, body, headers = answer(threads, path)
    assert (status, body.decode()) == (200, f'{{"thread":{want}}}')
    assert headers["content-security-policy"].startswith("default-src 'none'; frame")


def test_nothing(threads: ThreadPoolExecutor) -> None:
    assert answer(threads, "/api/v1/nothing", "POST")[:2] == (204, b"")


def test_problems(threads: ThreadPoolExecutor) -> None:
    status, body, headers = answer(threads, "/api/v1/problem")
    assert (status, headers["retry-after"]) == (409, "1")
    assert json.loads(body) == {"title": "Conflict", "status": 409, "detail": "not now", "field": "x"}
    status, body, _ = answer(threads, "/api/v1/error")
    assert (status, json.loads(body)["detail"]) == (503, "no cache")


def test_a_bug(threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """The log has it; the client is told nothing of it."""
    status, body, _ = answer(threads, "/api/v1/bug")
    assert status == 500
    assert b"secret" not in body
    assert "a secret" in caplog.text


def test_a_page(threads: ThreadPoolExecutor) -> None:
    status, body, headers = answer(threads, "/")
    assert (status, body) == (200, b"<p>")
    assert "script-src 'self'" in headers["content-security-policy"]
    # Who is not logged in is led to where that can be done.
    status, _, headers = answer(threads, "/", token="")
    assert (status, headers["location"]) == (303, "/login")


def test_writes_are_logged(threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answer(threads, "/api/v1/nothing", "POST")
    answer(threads, "/api/v1/plain")
    assert "127.0.0.1: POST /api/v1/nothing by token" in caplog.text
    # The page's buttons do the same.
    answer(threads, "/images/nginx%3A1/purge", "POST")
    assert "127.0.0.1: POST /images/nginx%3A1/purge by token" in caplog.text
    assert "plain" not in caplog.text
    assert TOKEN.text not in caplog.text
