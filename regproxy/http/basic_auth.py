"""The Basic authentication scheme (RFC 7617), as a server reads it."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final

VALUE_MAX: Final = 4096  # bytes
_BASIC: Final = re.compile(rb"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)
_SCHEME: Final = re.compile(rb"basic(?: |\Z)", re.IGNORECASE)


def is_basic(value: bytes) -> bool:
    """Return whether an Authorization field is of this scheme, well-formed or not."""
    return _SCHEME.match(value) is not None


def parse_basic(value: bytes) -> tuple[str, str] | None:
    """Return user and password of the value of an Authorization or Proxy-Authorization field.

    None where it is none of this scheme. Control characters are in neither (section 2), nor is a user empty.
    """
    found = _BASIC.fullmatch(value) if len(value) <= VALUE_MAX else None
    if found is None or len(found[1]) % 4:
        return None
    try:
        text = b64decode(found[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = text.partition(":")
    if not colon or not user or any(char < " " or char == "\x7f" for char in text):
        return None
    return user, password
