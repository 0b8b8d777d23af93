"""Fill in the files of regproxy/web/templates. Everything that comes into one is escaped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from regproxy.admin.operations import LOGIN, Call
from regproxy.admin.replies import HTML, Problem, Reply
from regproxy.admin.visitors import Scope, Visitor
from regproxy.core.sizes import size_text
from regproxy.web import wording

if TYPE_CHECKING:
    from jinja2 import Environment

_FILTERS: Final[dict[str, Callable[..., str]]] = {
    "size": size_text,
    "percent": wording.percent,
    "span": wording.span,
    "clock": wording.clock,
    "short": wording.short,
    "segment": wording.segment,
    "number": wording.number,
}


class Pages:
    """Makes pages. Any thread may use it."""

    def __init__(self, version: str, clock: Callable[[], float] = time.time) -> None:
        """`version`: of the program; `clock()`: seconds since the epoch."""
        self._version = version
        self._clock = clock

    @cached_property
    def _templates(self) -> Environment:
        """The templates, from the first page on: most workers never show one, and the import takes 40 ms."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        templates = Environment(
            loader=PackageLoader("regproxy.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        templates.filters.update(_FILTERS)
        return templates

    def page(self, template: str, call: Call[Any, Any], /, **values: Any) -> Reply:
        """Return the page of a template, filled in for whoever asks."""
        return self._page(template, call.visitor, 200, values)

    def login(self, code: int = 200, said: str = "") -> Reply:
        """Return the form for a token. `said`: why the last one was not taken."""
        return self._page("login", None, code, {"said": said})

    def problem(self, problem: Problem, path: str, visitor: Visitor | None) -> Reply:
        """Return a page that says what is wrong with a request. `visitor`: None before it is known."""
        if path == LOGIN and problem.status != HTTPStatus.FORBIDDEN:
            return self.login(problem.status, problem.detail)
        values = {"title": HTTPStatus(problem.status).phrase, "detail": problem.detail}
        return self._page("problem", visitor, problem.status, values)

    def _page(self, template: str, visitor: Visitor | None, code: int, values: Mapping[str, Any]) -> Reply:
        """`visitor`: None for whoever may not see anything yet. `code`: the answer's status."""
        now = self._clock()
        login = visitor.login if visitor is not None else None
        text = self._templates.get_template(f"{template}.html").render(
            version=self._version,
            now=now,
            ago=lambda at: wording.ago(at or 0.0, now),
            is_known=visitor is not None and visitor.scope is not Scope.OPEN,
            may_write=visitor is not None and visitor.scope is Scope.WRITE,
            csrf=login.csrf if login is not None else "",
            **values,
        )
        return Reply(code, HTML, text.encode())
