"""The end of the audit log."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, Final

import msgspec

from regproxy.admin.operations import Call, get
from regproxy.admin.paging import Page, Paged
from regproxy.admin.replies import Problem
from regproxy.config.settings import Config
from regproxy.core.named_file import open_file

READ_MAX: Final = 1 << 20  # bytes that are read for one answer
_BLOCK: Final = 65_536


class AuditTail:
    """The endpoint of the audit log."""

    def __init__(self, config: Config) -> None:
        self._path = config.audit_log

    @get(
        "/api/v1/audit",
        thread=True,
        problems={
            404: "there is no audit log that is a file",
            410: "it was rotated meanwhile",
            503: "it can't be read",
        },
    )
    def audit(self, call: Call[Paged, None]) -> Page[dict[str, Any]]:
        """Return pulls and pushes of the audit log, the newest first, where it is a file.

        A page may be short of `limit`, as it takes a limited part of the file; `next` goes on.
        """
        if self._path in ("off", "-"):
            raise Problem(404, "there is no audit log that is a file: REGPROXY_AUDIT_LOG names one")
        try:
            with open_file(self._path) as file:
                return self._page(file, call)
        except FileNotFoundError:
            return Page(items=[])
        except OSError as error:
            raise Problem(503, f"the audit log can't be read: {error.strerror}") from None

    def _page(self, file: BinaryIO, call: Call[Paged, None]) -> Page[dict[str, Any]]:
        status = os.fstat(file.fileno())
        end, after = status.st_size, call.position()
        if after is not None:
            inode, at = after
            if inode != status.st_ino or not isinstance(at, int) or at > end:
                raise Problem(410, "the audit log was rotated; start again without a cursor", field="cursor")
            end = at
        items, left = read_back(file, end, call.query.limit)
        return Page(items=items, next=call.next(status.st_ino, left) if left > 0 else None)


def read_back(file: BinaryIO, end: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return up to `limit` lines before the byte `end`, the last first, and where they begin.

    A line that is no JSON object is passed over, as is one that is longer than READ_MAX. Reads no more than
    that, and a block.
    """
    items: list[dict[str, Any]] = []
    begin, text = end, b""
    while begin > 0 and end - begin < READ_MAX:
        size = min(_BLOCK, begin)
        file.seek(begin - size)
        text = file.read(size) + text
        begin -= size
        if text.count(b"\n") > limit + 1:
            break
    at = end
    while text and len(items) < limit:
        before, newline, line = text.removesuffix(b"\n").rpartition(b"\n")
        if not newline and begin > 0:
            # Its beginning was not read: the next page has it, unless it is all that fits.
            return items, at if at < end else begin
        text = before + newline
        at = begin + len(text)
        try:
            items.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.MsgspecError:
            continue
    return items, at
