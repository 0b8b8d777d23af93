"""The route table of the admin port: what there is to ask for, by which method, for whom.

An endpoint is a method of a class that holds what it needs:

    class Weather:
        def __init__(self, stations): ...

        @get("/api/v1/weather/{place}")
        def weather(self, call: Call[WeatherQuery, None]) -> Forecast:
            '''Return the forecast for a place.'''

`Table.of(Weather(...))` reads everything else from it, for the document in docs/openapi.json too: the kind of
query and of body from `Call[...]`, what is answered from the return type, what it does from the docstring. A
handler may be a coroutine; with `thread=True` it runs on a thread: that is for what takes over a millisecond.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_type_hints
from urllib.parse import unquote

from msgspec import Meta, Struct, field

from regproxy.admin.paging import Cursors, Item, Page, Position
from regproxy.admin.replies import Problem
from regproxy.admin.visitors import Scope, Visitor
from regproxy.http.messages import Request

API: Final = "/api/v1"
LOGIN: Final = "/login"
_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")
_MARK: Final = "__operation__"
_SEGMENT_MAX: Final = 1024

RegistryName = Annotated[str, Meta(description="as image names have it: docker.io, [::1]:5000")]
Query = TypeVar("Query")
Body = TypeVar("Body")
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Operation(Struct, frozen=True):
    """A row of the route table. `path` is a template such as `/api/v1/jobs/{id}`.

    `query`, `body`: msgspec structs, None: there is none. `answer`: what the body of a good answer is, None:
    it has none; Reply: it is of the kind `media`. `forms`: the body may also be that of an HTML form.
    """

    method: str
    path: str
    scope: Scope
    name: str
    summary: str
    description: str
    query: Any
    body: Any
    answer: Any
    status: int
    thread: bool
    forms: bool
    media: str
    problems: Mapping[int, str]

    @property
    def parameters(self) -> list[str]:
        """The names in the path's template."""
        return _PARAMETER.findall(self.path)

    @property
    def is_api(self) -> bool:
        """Whether it belongs to the API, and not to the web page."""
        return self.path.startswith(f"{API}/")


class Call(Struct, Generic[Query, Body], frozen=True):
    """One request for an operation, checked. `path`: the parameters in the path, decoded.

    `visitor`: who asks. `request`: its head. `here`, `there`: the proxy's and the client's
    end of the connection.
    """

    operation: Operation
    path: Mapping[str, str]
    query: Query
    body: Body
    visitor: Visitor
    request: Request
    cursors: Cursors
    here: tuple[str, int] = ("", 0)
    there: tuple[str, int] = ("", 0)

    def position(self) -> Position | None:
        """Return where the page that is asked for begins, as next() was told; None: the first page."""
        cursor = getattr(self.query, "cursor", None)
        return None if cursor is None else self.cursors.open(self._list(), cursor)

    def next(self, *position: str | int | float | None) -> str:
        """Return the cursor of the page that begins there."""
        return self.cursors.seal(self._list(), list(position))

    def page(self, items: list[Item], key: Callable[[Item], list[Any]]) -> Page[Item]:
        """Return the page that is asked for, of a list in memory, sorted by `key`, that tells all apart."""
        after: Any = self.position()
        if after is not None:
            items = [each for each in items if key(each) > after]
        limit: int = getattr(self.query, "limit")  # noqa: B009
        more = self.next(*key(items[limit - 1])) if len(items) > limit else None
        return Page(items=items[:limit], next=more)

    def _list(self) -> str:
        """Return the name of the list: the same with other filters would be another one."""
        filters = getattr(self.query, "__struct_fields__", ())
        asked = [f"{name}={getattr(self.query, name)}" for name in filters if name not in ("limit", "cursor")]
        return "&".join([self.operation.name, *map(str, self.path.values()), *asked])


class _Mark(Struct, frozen=True):
    """What a decorator has noted."""

    method: str
    path: str
    scope: Scope
    status: int
    thread: bool
    forms: bool = False
    media: str = "application/json"
    problems: Mapping[int, str] = field(default_factory=dict)


def get(
    path: str,
    scope: Scope = Scope.READ,
    *,
    thread: bool = False,
    media: str = "application/json",
    problems: Mapping[int, str] | None = None,
) -> Callable[[Handler], Handler]:
    """Mark a method as the answer to GET (and HEAD). `problems`: what else it may say, by status.

    `media`: the type of an answer that the method makes itself, as a Reply.
    """
    return _marks(_Mark("GET", path, scope, 200, thread, media=media, problems=problems or {}))


def post(
    path: str,
    scope: Scope = Scope.WRITE,
    *,
    status: int = 200,
    thread: bool = False,
    forms: bool = False,
    problems: Mapping[int, str] | None = None,
) -> Callable[[Handler], Handler]:
    """Mark a method as the answer to POST. `status`: of a good answer."""
    return _marks(_Mark("POST", path, scope, status, thread, forms, problems=problems or {}))


def delete(
    path: str,
    scope: Scope = Scope.WRITE,
    *,
    status: int = 200,
    thread: bool = False,
    problems: Mapping[int, str] | None = None,
) -> Callable[[Handler], Handler]:
    """Mark a method as the answer to DELETE, which has no body."""
    return _marks(_Mark("DELETE", path, scope, status, thread, problems=problems or {}))


def _marks(mark: _Mark) -> Callable[[Handler], Handler]:
    def note(handler: Handler) -> Handler:
        setattr(handler, _MARK, mark)
        return handler

    return note


def operations_of(kind: type) -> Iterator[tuple[Operation, str]]:
    """Return the operations of a class, each with its method's name, in the order of their definition."""
    for name, function in vars(kind).items():
        mark = getattr(function, _MARK, None)
        if isinstance(mark, _Mark):
            yield _operation(mark, name, function), name


def _operation(mark: _Mark, name: str, function: Callable[..., Any]) -> Operation:
    hints = get_type_hints(function, include_extras=True)
    query, body = get_args(hints["call"])
    answer = hints["return"]
    summary, _, rest = (inspect.getdoc(function) or "").partition("\n")
    return Operation(
        method=mark.method,
        path=mark.path,
        scope=mark.scope,
        name=name,
        summary=summary,
        description=" ".join(rest.split()),
        query=None if query is NoneType else query,
        body=None if body is NoneType else body,
        answer=None if answer is NoneType else answer,
        status=mark.status,
        thread=mark.thread,
        forms=mark.forms,
        media=mark.media,
        problems=mark.problems,
    )


class Route(Struct, frozen=True):
    """An operation, and the bound method that answers it."""

    operation: Operation
    handler: Callable[[Call[Any, Any]], Any]


class Table:
    """All routes of the admin port."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            self._add(route)

    @classmethod
    def of(cls, *endpoints: object) -> Table:
        """Return the table of the operations of these objects."""
        return cls(
            Route(operation, getattr(each, name))
            for each in endpoints
            for operation, name in operations_of(type(each))
        )

    def __iter__(self) -> Iterator[Operation]:
        """Return all operations."""
        return (route.operation for methods in self._routes.values() for route in methods.values())

    def has(self, path: str) -> bool:
        """Return whether a path is for the table to answer: of a route, or anything else below the API."""
        return path.startswith(f"{API}/") or self._methods(path.split("/")) is not None

    def _methods(self, segments: list[str]) -> tuple[tuple[str, ...], dict[str, Route]] | None:
        for key, methods in self._routes.items():
            if len(key) == len(segments) and all(map(_fits, key, segments)):
                return key, methods
        return None

    def _add(self, route: Route) -> None:
        operation = route.operation
        key = tuple(_PARAMETER.sub("{}", each) for each in operation.path.split("/"))
        methods = self._routes.setdefault(key, {})
        same = (each for each in self if each.name == operation.name)
        if operation.method in methods or next(same, None) is not None:
            raise ValueError(f"{operation.method} {operation.path} ({operation.name}) is there twice")
        methods[operation.method] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route of a request, and the parameters in its path. Raises Problem 404 and 405."""
        segments = path.split("/")
        found = self._methods(segments)
        if found is None:
            raise Problem(404, f"no such path; see {API}/openapi.json")
        key, methods = found
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise _not_allowed(method, methods)
        given = [each for known, each in zip(key, segments, strict=True) if known == "{}"]
        names = route.operation.parameters
        return route, {name: _decoded(name, text) for name, text in zip(names, given, strict=True)}


def _fits(known: str, segment: str) -> bool:
    return known == segment or (known == "{}" and segment != "")


def _decoded(name: str, segment: str) -> str:
    """Return a parameter as it was meant. A slash in it comes as %2F."""
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        text = "\0"
    if len(text) > _SEGMENT_MAX or not text.isprintable():
        raise Problem(400, f"{name}: at most {_SEGMENT_MAX} printable characters, in UTF-8", field=name)
    return text


def _not_allowed(method: str, methods: Mapping[str, Route]) -> Problem:
    allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
    names = ", ".join(allowed)
    return Problem(405, f"{method} is not allowed here, but {names}", ((b"allow", names.encode()),))
