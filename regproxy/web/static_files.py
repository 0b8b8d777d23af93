"""The script and the style sheet of the pages."""

from __future__ import annotations

from importlib import resources
from typing import Final

from regproxy.admin.operations import Call, get
from regproxy.admin.replies import Problem, Reply
from regproxy.admin.visitors import Scope

_TYPES: Final = {"page.css": b"text/css; charset=utf-8", "page.js": b"text/javascript; charset=utf-8"}


class StaticFiles:
    """The endpoint of the files that pages name."""

    def __init__(self) -> None:
        folder = resources.files("regproxy.web") / "static"
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}

    @get("/static/{file}", Scope.OPEN)
    def static_file(self, call: Call[None, None]) -> Reply:
        """Return a file of the pages: to anybody, as the login is one of them."""
        name = call.path["file"]
        if name not in self._files:
            raise Problem(404, f"no such file; there are {', '.join(self._files)}")
        return Reply(200, _TYPES[name], self._files[name])
