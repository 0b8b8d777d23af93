"""What is sent as Authorization, and whose it is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from regproxy.auth.token_cache import TokenKey
from regproxy.config.credentials import Login
from regproxy.http.messages import Request
from regproxy.registry.rate_limits import ANONYMOUS, CLIENT

# "login": a username and password, or a configured token.
Sort = Literal["client", "login", "token"]


@dataclass(frozen=True, slots=True)
class Grant:
    """An Authorization value. `credential` is its name in metrics: "client", "anonymous", or the configured
    user's.

    `login`: the login that it is, or that the token was issued for. `key`: what a token was requested by.
    """

    value: bytes = field(repr=False)
    credential: str
    sort: Sort = "client"
    login: Login | None = field(default=None, repr=False)
    key: TokenKey | None = field(default=None, repr=False)
    scope: Hashable = None  # of the login's standing

    @property
    def is_ours(self) -> bool:
        """Whether it is one of the proxy's own, not the client's."""
        return self.sort != "client"


def client_grant(request: Request) -> Grant | None:
    """Return the client's own credentials, None without any."""
    value = request.get(b"authorization")
    return None if value is None else Grant(value, CLIENT)


def login_grant(login: Login, scope: Hashable) -> Grant:
    """Return a login in the form in which the registry itself gets it."""
    value = b"Bearer " + login.secret.encode() if login.kind == "bearer" else login.basic
    return Grant(value, login.label, "login", login, scope=scope)


def token_grant(key: TokenKey, token: str) -> Grant:
    """Return a token that was requested by this key."""
    name = ANONYMOUS if key.login is None else key.login.label
    return Grant(b"Bearer " + token.encode("ascii"), name, "token", key.login, key)
