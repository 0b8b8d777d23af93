"""Cookies that stand for a token in a browser: signed by it, for one host and some hours.

The token is not in them, and nothing of them is kept here: when the token changes, or its file is gone, they
are worth nothing. The host is signed, too: a page of another name that leads here (DNS rebinding) has none.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Final

from regproxy.admin.visitors import Login, Token

NAME: Final = "regproxy_admin"
LIFE: Final = 12 * 3600  # seconds
VALUE_MAX: Final = 256
_NONCE: Final = 12  # bytes
_EXPIRY: Final = 8
_SEAL: Final = 32


def issue(token: Token, host: str, now: float) -> tuple[str, Login]:
    """Return the value of a new cookie for pages of `host` (a Host field), and the login that it is."""
    content = (int(now) + LIFE).to_bytes(_EXPIRY) + secrets.token_bytes(_NONCE)
    return _text(content + _sealed(token, host, content)), _login(token, content)


def check(value: str, tokens: Iterable[Token], host: str, now: float) -> Login | None:
    """Return the login that a cookie is, None where it is none, for another host, or over."""
    try:
        raw = urlsafe_b64decode(value + "=" * (-len(value) % 4)) if len(value) <= VALUE_MAX else b""
    except ValueError:
        return None
    content, seal = raw[:-_SEAL], raw[-_SEAL:]
    # One spelling: base64 leaves some bits of its last letter open.
    if _text(raw) != value or len(content) != _EXPIRY + _NONCE or int.from_bytes(content[:_EXPIRY]) <= now:
        return None
    for token in tokens:
        if hmac.compare_digest(seal, _sealed(token, host, content)):
            return _login(token, content)
    return None


def value_of(header: str) -> str:
    """Return our cookie's value in a Cookie field, "" without one."""
    for pair in header.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == NAME:
            return value
    return ""


def set_cookie(value: str, *, secure: bool) -> bytes:
    """Return the Set-Cookie field. `secure`: the browser came by https, through whatever stands before us."""
    parts = [f"{NAME}={value}", "Path=/", f"Max-Age={LIFE if value else 0}", "HttpOnly", "SameSite=Strict"]
    return "; ".join([*parts, *(["Secure"] if secure else [])]).encode()


def _login(token: Token, content: bytes) -> Login:
    csrf = _text(hmac.digest(token.key(b"forms"), content, "sha256"))
    return Login(token, int.from_bytes(content[:_EXPIRY]), csrf)


def _sealed(token: Token, host: str, content: bytes) -> bytes:
    return hmac.digest(token.key(b"cookies"), content + host.lower().encode(), "sha256")


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
