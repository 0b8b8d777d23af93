"""The description of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from regproxy.admin.operations import Call, get
from regproxy.admin.replies import JSON, Reply


class Description:
    """The endpoint of the OpenAPI document. `document()` makes it, once."""

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._document = document
        self._made = b""

    @get("/api/v1/openapi.json", thread=True)
    def openapi(self, call: Call[None, None]) -> Reply:
        """Return this API's OpenAPI 3.1 document."""
        if not self._made:
            self._made = msgspec.json.encode(self._document())
        return Reply(200, JSON, self._made)
