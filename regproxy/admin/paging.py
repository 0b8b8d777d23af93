"""Pages of long lists: how many items, and a cursor that says where the next page begins.

A cursor is sealed: what comes back is what was handed out, for the same list. Whoever makes the list may
trust the position in it. The key is a supervisor's: every worker takes it, and none of an earlier run.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from regproxy.admin.replies import Problem

DEFAULT: Final = 100
MOST: Final = 1000
CURSOR_MAX: Final = 2048  # characters
_SEAL: Final = 16  # bytes of HMAC-SHA256

Position = list[str | int | float | None]
Item = TypeVar("Item")


class Paged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of every list."""

    limit: Annotated[int, Meta(ge=1, le=MOST, description="maximum number of items per page")] = DEFAULT
    cursor: Annotated[
        Annotated[str, Meta(max_length=CURSOR_MAX)] | None,
        Meta(description="`next` of the previous page; omit it for the first page"),
    ] = None


class Page(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """A part of a list. `next` is the cursor of the page after it, null on the last one."""

    items: list[Item]
    next: str | None = None


class Cursors:
    """Seals positions and opens them again."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"regproxy admin cursors", "sha256")

    def seal(self, name: str, position: Position) -> str:
        """Return the cursor of a position in the list `name`."""
        content = msgspec.json.encode(position)
        return urlsafe_b64encode(self._seal(name, content) + content).decode().rstrip("=")

    def open(self, name: str, cursor: str) -> Position:
        """Return the position. Raises Problem 400 for what seal() has not made for that list."""
        try:
            sealed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            seal, content = sealed[:_SEAL], sealed[_SEAL:]
            if hmac.compare_digest(seal, self._seal(name, content)):
                return msgspec.json.decode(content, type=Position)
        except ValueError:
            pass
        detail = "unknown or expired cursor; omit it to start from the first page"
        raise Problem(400, detail, field="cursor")

    def _seal(self, name: str, content: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + content, "sha256")[:_SEAL]
