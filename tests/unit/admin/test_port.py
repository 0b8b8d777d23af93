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

from regproxy.admin.gatekeeper import CsrfForm, Gatekeeper
from regproxy.admin.operations import Call, Table, get, post
from regproxy.admin.paging import Cursors
from regproxy.admin.port import AdminPort
from regproxy.admin.replies import HTML, Problem, Reply, see_other
from regproxy.admin.visitors import Scope, Token, Visitor
from regproxy.core.errors import StoreError
from regproxy.http.messages import Request, parse_request

TOKEN = Token("t" * 32, Scope.WRITE, local=True)


class Answer(msgspec.Struct):
    """An answer."""

    thread: str


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """What to write."""

    name: str
    csrf_token: str | None = None


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

    @post("/api/v1/pins")
    def pin(self, call: Call[None, Order]) -> Answer:
        """Answer."""
        if call.body.name == "taken":
            raise Problem(409, "it is taken")
        return Answer("")

    @post("/things/{name}/go", forms=True)
    def go(self, call: Call[None, CsrfForm]) -> Reply:
        """Answer."""
        return see_other("/")

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
    threads: ThreadPoolExecutor,
    path: str,
    method: str = "GET",
    *,
    token: str = TOKEN.text,
    body: tuple[str, bytes] | None = None,
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and fields. `body`: its type, and itself."""
    fakes: Any = Tokens(), Counts()
    nothing: Any = None

    async def read(request: Request) -> bytes:
        assert body is not None, "no body is read"
        return body[1]

    def problem_page(problem: Problem, path: str, visitor: Visitor | None) -> Reply:
        assert threading.current_thread().name.startswith("admin-test")
        return Reply(problem.status, HTML, f"{path}: {problem.detail}".encode())

    async def run() -> Reply:
        port = AdminPort(
            *(nothing, asyncio.get_running_loop(), lambda: None, lambda: False),
            table=Table.of(Endpoints()),
            gatekeeper=Gatekeeper(*fakes),
            cursors=Cursors(b""),
            threads=threads,
            background=nothing,
            on_end=nothing,
            problem_page=problem_page,
        )
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        if body is not None:
            head += f"Content-Type: {body[0]}\r\nContent-Length: {len(body[1])}\r\n"
        reply = await port.serve(parse_request(f"{head}\r\n".encode()), "127.0.0.1", read)
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
    # Who is not logged in is led to where that can be done, also by a form.
    for path, method in (("/", "GET"), ("/things/a/go", "POST")):
        status, _, headers = answer(threads, path, method, token="")
        assert (status, headers["location"]) == (303, "/login")


@pytest.mark.parametrize(
    ("path", "method", "status", "says"),
    [
        ("/?sort=foo", "GET", 400, b"/: this takes no query"),
        ("/", "DELETE", 405, b"/: DELETE is not allowed here, but GET, HEAD"),
        ("/things/%ff/go", "POST", 400, b"/things/%ff/go: name: at most"),
    ],
)
def test_what_is_wrong_with_a_page_is_a_page(
    path: str, method: str, status: int, says: bytes, threads: ThreadPoolExecutor
) -> None:
    found, body, headers = answer(threads, path, method)
    assert found == status and body.startswith(says)
    assert "script-src 'self'" in headers["content-security-policy"]
    assert headers.get("allow") == ("GET, HEAD" if status == 405 else None)


def test_a_script_is_told_as_json(threads: ThreadPoolExecutor) -> None:
    status, body, _ = answer(threads, "/things/a/go", "POST", body=("application/json", b"[]"))
    assert (status, json.loads(body)["title"]) == (400, "Bad Request")


def test_the_end_waits_for_no_thread(threads: ThreadPoolExecutor) -> None:
    """The worker's event loop does that."""
    nothing: Any = None
    lists, quick, busy = ThreadPoolExecutor(1), ThreadPoolExecutor(1), threading.Event()
    port = AdminPort(
        *(nothing, nothing, lambda: None, lambda: False),
        table=Table(),
        gatekeeper=nothing,
        cursors=Cursors(b""),
        threads=lists,
        other_threads=[quick],
        background=nothing,
        on_end=nothing,
        problem_page=nothing,
    )
    runs, waits = lists.submit(busy.wait), lists.submit(busy.wait)
    port.close()
    assert not runs.done() and waits.cancelled()
    busy.set()
    for each in (lists, quick):
        with pytest.raises(RuntimeError):
            each.submit(busy.wait)
        each.shutdown()


def test_writes_are_logged(threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answer(threads, "/api/v1/nothing", "POST")
    answer(threads, "/api/v1/plain")
    for name in ("a", "taken"):
        order = f'{{"name": "{name}", "csrf_token": "hidden"}}'.encode()
        answer(threads, "/api/v1/pins", "POST", body=("application/json", order))
    form = ("application/x-www-form-urlencoded", b"csrf_token=hidden")
    answer(threads, "/things/reg.test%2Fa:1/go", "POST", body=form)
    assert [record.message for record in caplog.records] == [
        "127.0.0.1: POST /api/v1/nothing by token: 204",
        '127.0.0.1: POST /api/v1/pins {"name":"a"} by token: 200',
        '127.0.0.1: POST /api/v1/pins {"name":"taken"} by token: 409',
        "127.0.0.1: POST /things/reg.test%2Fa:1/go by token: 303",
    ]
    assert TOKEN.text not in caplog.text
