"""The route table: what is found at a path, and what a handler is told."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.admin.operations import Call, Table, delete, get, post
from regproxy.admin.paging import Cursors, Page, Paged
from regproxy.admin.replies import Problem
from regproxy.admin.visitors import Scope, Visitor
from regproxy.http.messages import parse_request

REQUEST = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


class Filtered(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A list's parameters."""

    of: str = ""


class Things:
    """Endpoints."""

    @get("/api/v1/things")
    def things(self, call: Call[Filtered, None]) -> Page[int]:
        """Return things.

        All
        of them.
        """
        return call.page(list(range(10)), lambda each: [each])

    @get("/api/v1/things/{name}", Scope.LOCAL, thread=True)
    def thing(self, call: Call[None, None]) -> str:
        """Return a thing."""
        return call.path["name"]

    @post("/api/v1/things/{name}/parts/{part}", status=201)
    def make(self, call: Call[None, Filtered]) -> str:
        """Make a part."""
        return ""

    @delete("/api/v1/things/{name}")
    def remove(self, call: Call[None, None]) -> None:
        """Remove a thing."""


TABLE = Table.of(Things())


def call(query: Any, name: str = "things") -> Call[Any, None]:
    operation = next(each for each in TABLE if each.name == name)
    visitor = Visitor(Scope.READ, "127.0.0.1")
    return Call(operation, {}, query, None, visitor, REQUEST, Cursors(b"key"))


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "/api/v1/things", "things", {}),
        ("HEAD", "/api/v1/things", "things", {}),
        ("GET", "/api/v1/things/a%2Fb%20c", "thing", {"name": "a/b c"}),
        ("GET", "/api/v1/things/{}", "thing", {"name": "{}"}),
        ("DELETE", "/api/v1/things/%C3%A4", "remove", {"name": "ä"}),
        ("POST", "/api/v1/things/a/parts/b", "make", {"name": "a", "part": "b"}),
    ],
)
def test_found(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    route, found = TABLE.find(method, path)
    assert (route.operation.name, found) == (name, parameters)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/things/", 404),
        ("GET", "/api/v1/things//parts/b", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "", 404),
        ("PUT", "/api/v1/things", 405),
        ("GET", "/api/v1/things/a/parts/b", 405),
        ("GET", "/api/v1/things/%ff", 400),
        ("GET", "/api/v1/things/%00", 400),
        ("GET", "/api/v1/things/a%0d%0ab", 400),
        ("GET", "/api/v1/things/" + "a" * 2000, 400),
    ],
)
def test_not_found(method: str, path: str, status: int) -> None:
    with pytest.raises(Problem) as problem:
        TABLE.find(method, path)
    assert problem.value.status == status


def test_what_is_read_from_a_method() -> None:
    things, thing, remove, make = TABLE
    assert (things.summary, things.description) == ("Return things.", "All of them.")
    assert (things.query, things.body, things.answer) == (Filtered, None, Page[int])
    assert (thing.scope, thing.thread, thing.parameters) == (Scope.LOCAL, True, ["name"])
    assert (make.body, make.status, make.parameters) == (Filtered, 201, ["name", "part"])
    assert (remove.scope, remove.answer) == (Scope.WRITE, None)


def test_paths_of_the_table() -> None:
    assert TABLE.has("/api/v1/none")
    assert not TABLE.has("/metrics")


def test_nothing_is_there_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Table.of(Things(), Things())


def test_pages() -> None:
    found: list[int] = []
    cursor = None
    while True:
        page = Things().things(call(Filtered(limit=3, cursor=cursor)))
        found += page.items
        if (cursor := page.next) is None:
            break
    assert found == list(range(10))


def test_a_cursor_is_for_its_filters() -> None:
    cursor = call(Filtered(of="a")).next(1)
    assert call(Filtered(of="a", cursor=cursor, limit=7)).position() == [1]
    with pytest.raises(Problem):
        call(Filtered(of="b", cursor=cursor)).position()
