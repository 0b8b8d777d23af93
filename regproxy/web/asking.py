"""Ask an endpoint of the API in the name of whoever asks for a page."""

from __future__ import annotations

from typing import Any, TypeVar

from regproxy.admin.operations import Call

Body = TypeVar("Body")


def with_body(call: Call[Any, Any], body: Body) -> Call[None, Body]:
    """Return the same call with a body of the endpoint's kind."""
    return Call(call.operation, call.path, None, body, call.visitor, call.request, call.cursors)
