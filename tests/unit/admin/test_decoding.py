"""Queries and bodies: what is taken, and what is said of the rest."""

from __future__ import annotations

from typing import Annotated, Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from msgspec import Meta

from regproxy.admin.decoding import check_media, read_body, read_query
from regproxy.admin.operations import Operation
from regproxy.admin.replies import Problem
from regproxy.admin.visitors import Scope

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sent."""

    name: Annotated[str, Meta(max_length=5)]
    on: bool = False
    count: Annotated[int, Meta(ge=1, le=9)] = 1


def operation(query: Any = None, body: Any = None, *, forms: bool = False) -> Operation:
    return Operation(
        *("POST", "/api/v1/op", Scope.WRITE, "op", "", "", query, body, None, 200, False, forms, "", {})
    )


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("name=a", Fields("a")),
        ("name=a%20b&on=true&count=3", Fields("a b", True, 3)),
        ("name=a+b&on=false", Fields("a b")),
        ("name=", Fields("")),
    ],
)
def test_queries(text: str, want: Fields) -> None:
    assert read_query(operation(Fields), text) == want


@pytest.mark.parametrize(
    ("text", "why", "field"),
    [
        ("", "query: object missing required field name", None),
        ("name=toolong", "name: expected str of length <= 5", "name"),
        ("name=a&count=10", "count: expected int <= 9", "count"),
        ("name=a&on=maybe", "on: expected bool", "on"),
        ("name=a&other=b", "unknown field other; there are name, on, count", None),
        ("name=a&name=b", "more than once", None),
        ("name", "not name=value", None),
        ("name=%ff", "not name=value", None),
        ("&".join(f"a{n}=1" for n in range(100)), "not name=value", None),
    ],
)
def test_bad_queries(text: str, why: str, field: str | None) -> None:
    with pytest.raises(Problem) as problem:
        read_query(operation(Fields), text)
    assert (problem.value.status, problem.value.field) == (400, field)
    assert why in problem.value.detail


def test_where_there_is_no_query() -> None:
    assert read_query(operation(), "") is None
    with pytest.raises(Problem):
        read_query(operation(), "a=b")


@pytest.mark.parametrize(
    ("kind", "forms", "status"),
    [
        (JSON, False, 0),
        ("Application/JSON; charset=utf-8", False, 0),
        (FORM, True, 0),
        (FORM, False, 415),
        ("", False, 415),
        ("text/json", False, 415),
        ("application/json-seq", True, 415),
    ],
)
def test_media(kind: str, forms: bool, status: int) -> None:
    wanted = operation(None, Fields, forms=forms)
    if not status:
        check_media(wanted, kind, has_body=True)
        return
    with pytest.raises(Problem) as problem:
        check_media(wanted, kind, has_body=True)
    assert problem.value.status == status


def test_bodies() -> None:
    wanted = operation(None, Fields, forms=True)
    assert read_body(wanted, JSON, b'{"name": "a", "on": true}') == Fields("a", True)
    assert read_body(wanted, FORM, b"name=a&on=true") == Fields("a", True)
    assert read_body(operation(), "", b"") is None
    with pytest.raises(Problem):
        read_body(wanted, FORM, b"name=\xff")


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """Nothing but a problem comes of what is sent."""
    for kind in (JSON, FORM):
        try:
            found = read_body(operation(None, Fields, forms=True), kind, body)
        except Problem as problem:
            assert problem.status == 400
        else:
            assert isinstance(found, Fields)


@hypothesis.given(st.text(alphabet=st.characters(codec="ascii"), max_size=200))
def test_any_query(text: str) -> None:
    try:
        assert isinstance(read_query(operation(Fields), text), Fields)
    except Problem as problem:
        assert problem.status == 400
