"""Answers of the admin port, and problems (RFC 9457) as exceptions that an endpoint may raise."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from regproxy.core.errors import RegproxyError

Headers = tuple[tuple[bytes, bytes], ...]

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
TEXT: Final = b"text/plain; charset=utf-8"
HTML: Final = b"text/html; charset=utf-8"

# What is shown may be private, and belongs to whoever asked, now. Nothing of it may be framed, or taken for
# something that it is not; JSON loads nothing.
_PRIVATE: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY: Final = b"content-security-policy"
API_HEADERS: Final[Headers] = (*_PRIVATE, (_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
PAGE_HEADERS: Final[Headers] = (
    *_PRIVATE,
    (
        _POLICY,
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
        b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
)


class Reply(Struct, frozen=True):
    """An answer that fits into memory."""

    status: int
    content_type: bytes
    body: bytes
    headers: Headers = ()


class Streamed(Struct, frozen=True):
    """An answer that goes on: its chunks go out as they come, until there are no more or the client goes."""

    content_type: bytes
    chunks: AsyncGenerator[bytes, None]
    headers: Headers = ()


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with a request, or with its answer (RFC 9457)."""

    title: Annotated[str, Meta(description="the status's phrase")]
    status: Annotated[int, Meta(description="the HTTP status")]
    detail: Annotated[str, Meta(description="what is wrong, and what would be right")]
    field: Annotated[str | None, Meta(description="the parameter or member that is wrong")] = None


class Problem(RegproxyError):
    """An answer other than what was asked for. `detail` says what is wrong, and what would be right.

    `field`: the parameter, or member of the body, that is wrong.
    """

    def __init__(self, status: int, detail: str, headers: Headers = (), field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.field = field

    def reply(self) -> Reply:
        """Return it as application/problem+json."""
        details = ProblemDetails(
            title=HTTPStatus(self.status).phrase, status=self.status, detail=self.detail, field=self.field
        )
        return Reply(self.status, PROBLEM, msgspec.json.encode(details), self.headers)


def text(status: int, message: str, headers: Headers = ()) -> Reply:
    """Return a page of plain text."""
    return Reply(status, TEXT, message.encode(), headers)


def see_other(path: str, headers: Headers = ()) -> Reply:
    """Return an answer that leads a browser to another page (RFC 9110 15.4.4)."""
    return Reply(303, HTML, b"", ((b"location", path.encode()), *headers))


def json_reply(value: Any, status: int = 200) -> Reply:
    """Return a value that msgspec can encode as JSON. About a millisecond for 500 kB."""
    return Reply(status, JSON, msgspec.json.encode(value))
