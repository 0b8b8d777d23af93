"""Who asks the admin port: tokens, logins by cookie, and what they are for."""

from __future__ import annotations

import hmac
from enum import Enum

from msgspec import Struct


class Scope(Enum):
    """Who may ask. `LOCAL`: clients of this machine that name it as such (127.0.0.1, localhost) without a
    token, others as with READ.
    """

    OPEN = "open"  # whoever may show a token
    LOCAL = "local"
    READ = "read"
    WRITE = "write"


class Token(Struct, frozen=True):
    """A token that is good now. `local`: for clients of this machine alone, as it was made here."""

    text: str
    scope: Scope
    local: bool

    def __repr__(self) -> str:
        return f"Token({self.scope.value})"

    def key(self, purpose: bytes) -> bytes:
        """Return a key that only this token gives."""
        return hmac.digest(self.text.encode(), b"regproxy admin " + purpose, "sha256")


class Login(Struct, frozen=True):
    """A login by cookie. `until`: seconds since the epoch. `csrf`: what a request that writes has to show."""

    token: Token
    until: int
    csrf: str


class Visitor(Struct, frozen=True):
    """Who asks. `scope`: what for, OPEN for anybody. `peer`: the address. `login`: None for a token.

    `token`: the one that was shown, or that the login stands for.
    """

    scope: Scope
    peer: str
    login: Login | None = None
    token: Token | None = None

    @property
    def how(self) -> str:
        """By what it was let in, for the log."""
        return "nobody" if self.scope is Scope.OPEN else "cookie" if self.login else "token"
