"""A client of the admin API that compares every answer with docs/openapi.json."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from functools import cache
from types import TracebackType
from typing import Any, Self

from jsonschema import Draft202012Validator

from tests.support import ROOT
from tests.support.client import Client, Reply
from tests.support.proxy import Proxy


class AdminApi:
    """Asks a proxy with one of its tokens. Answers that are not as the document has them are assertions."""

    def __init__(self, proxy: Proxy, *, token: str = "admin-token") -> None:
        """`token`: the name of the file that the proxy has made for it."""
        self.proxy = proxy
        self._file = proxy.cache_dir / "state" / token
        self._stack = ExitStack()

    @property
    def headers(self) -> dict[str, str]:
        """The field that shows the token."""
        return {"Authorization": f"Bearer {self._file.read_text().strip()}"}

    def connect(self) -> Client:
        """Return a new connection, closed with this object."""
        return self._stack.enter_context(Client.connect(self.proxy.admin_address, timeout=60.0))

    def ask(self, method: str, path: str, body: Any = None, *, client: Client | None = None) -> Reply:
        """Return the answer to `path`, which is below /api/v1/, checked."""
        sent = None if body is None else json.dumps(body).encode()
        headers = self.headers | ({} if sent is None else {"Content-Type": "application/json"})
        reply = (client or self.connect()).request(method, f"/api/v1/{path}", headers, sent)
        check(method, f"/api/v1/{path}", reply)
        return reply

    def get(self, path: str) -> Any:
        """Return what a good answer has."""
        reply = self.ask("GET", path)
        assert reply.status == 200, reply
        return reply.json()

    def post(self, path: str, body: Any = None) -> Any:
        """Return what a good answer has."""
        reply = self.ask("POST", path, body)
        assert reply.status in (200, 201, 202), reply
        return reply.json()

    def items(self, path: str, limit: int = 1000) -> list[Any]:
        """Return the items of all pages."""
        found: list[Any] = []
        cursor = ""
        while True:
            page = self.get(f"{path}?limit={limit}{cursor}")
            assert len(page["items"]) <= limit
            found += page["items"]
            if page["next"] is None:
                return found
            cursor = f"&cursor={page['next']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
    return found


def check(method: str, path: str, reply: Reply) -> None:
    """Assert that an answer is one that the document has for this request."""
    responses = _operation(method, path.partition("?")[0])["responses"]
    assert str(reply.status) in responses, (method, path, reply)
    content = responses[str(reply.status)].get("content", {})
    if not content:
        assert not reply.body
        return
    assert reply.get("Content-Type") in content
    schema = content[str(reply.get("Content-Type"))].get("schema")
    if schema is not None:
        whole = {"components": document()["components"]} | schema
        errors = [error.message for error in Draft202012Validator(whole).iter_errors(reply.json())]
        assert errors == [], (method, path, errors)


def _operation(method: str, path: str) -> dict[str, Any]:
    for template, methods in document()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and method.lower() in methods:
            found: dict[str, Any] = methods[method.lower()]
            return found
    raise AssertionError(f"{method} {path} is not in docs/openapi.json")
