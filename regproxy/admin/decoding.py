"""Read queries and bodies of requests as the kinds that an operation declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from regproxy.admin.operations import Operation
from regproxy.admin.replies import Problem

BODY_MAX: Final = 65_536  # bytes
_FIELDS_MAX: Final = 64
_AT: Final = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)
_FORM: Final = "application/x-www-form-urlencoded"
_ACCEPTED: Final = "application/json"


def read_query(operation: Operation, query: str) -> Any:
    """Return the query of a URL as the operation's kind. Raises Problem 400."""
    pairs = _pairs(query, "the query")
    if operation.query is None:
        if pairs:
            raise Problem(400, "this takes no query")
        return None
    return _converted(pairs, operation.query, "query", strict=False)


def check_media(operation: Operation, content_type: str, *, has_body: bool) -> None:
    """Raise Problem 415 where a body is of a kind that is not taken here, 400 where there is one too many."""
    if operation.body is None:
        if has_body:
            raise Problem(400, "this takes no body")
    elif has_body and _media(content_type) not in (_ACCEPTED, *((_FORM,) if operation.forms else ())):
        takes = f"{_ACCEPTED} or {_FORM}" if operation.forms else _ACCEPTED
        raise Problem(415, f"Content-Type must be {takes}", _accepts(operation))


def read_body(operation: Operation, content_type: str, body: bytes) -> Any:
    """Return a body as the operation's kind, None where it takes none. Raises Problem 400.

    No body is an object without members.
    """
    if operation.body is None:
        return None
    if not body:
        body, content_type = b"{}", _ACCEPTED
    if operation.forms and _media(content_type) == _FORM:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise Problem(400, "the form is not UTF-8") from None
        return _converted(_pairs(text, "the form"), operation.body, "form", strict=False)
    try:
        return msgspec.json.decode(body, type=operation.body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), operation.body, "body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {_words(str(error))}") from None


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _accepts(operation: Operation) -> tuple[tuple[bytes, bytes], ...]:
    # RFC 9110 15.5.16
    return ((b"accept", _ACCEPTED.encode()),) if not operation.forms else ()


def _pairs(text: str, what: str) -> dict[str, str]:
    """Return the fields of a query or form, each of which may come once."""
    try:
        pairs = parse_qsl(*(text, True, bool(text)), errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise Problem(400, f"{what} is not name=value&name=value, percent-encoded UTF-8") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Problem(400, f"{what} has a field more than once")
    return fields


def _converted(fields: Mapping[str, str], kind: Any, what: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind, what) from None


def _invalid(text: str, kind: Any, what: str) -> Problem:
    """Return what msgspec says of a value that does not fit, with what would."""
    found = _AT.fullmatch(text)
    said, name = (found[1], found[2]) if found else (text, "")
    said = _words(said)
    if "unknown field" in said:
        known = ", ".join(each.encode_name for each in msgspec.structs.fields(kind))
        said = f"{said}; there are {known}" if known else said
    return Problem(400, f"{name or what}: {said}", field=name or None)


def _words(said: str) -> str:
    """Return a message of msgspec's as the middle of a sentence."""
    return said.replace("`", "")[:1].lower() + said.replace("`", "")[1:]
