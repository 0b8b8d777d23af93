"""Logins of browsers: a token is shown once, a cookie stands for it from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from regproxy.admin import cookies
from regproxy.admin.gatekeeper import CsrfForm, Gatekeeper
from regproxy.admin.operations import LOGIN, Call, get, post
from regproxy.admin.replies import Reply, json_reply, see_other
from regproxy.admin.visitors import Login, Scope

_TOKEN_MAX: Final = 4096


class LoginForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser shows once."""

    token: Annotated[str, Meta(max_length=_TOKEN_MAX, description="one of the two tokens")]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as this proxy sees it."""

    scope: Annotated[str, Meta(description="what the token allows: read, or write (includes read)")]
    until: Annotated[int | None, Meta(description="when the cookie expires, seconds since the epoch")]
    csrf_token: Annotated[
        str | None, Meta(description="what write requests with a cookie must send in X-CSRF-Token")
    ]


class Sessions:
    """The endpoints of logins."""

    def __init__(self, gatekeeper: Gatekeeper, login_page: Callable[[], Reply]) -> None:
        """`login_page()`: makes the form for a token."""
        self._gatekeeper = gatekeeper
        self._login_page = login_page

    @get("/api/v1/session")
    def session(self, call: Call[None, None]) -> Session:
        """Return what the token, or cookie, of this request is for."""
        visitor = call.visitor
        return _session(visitor.scope, visitor.login)

    @get(LOGIN, Scope.OPEN, thread=True)
    def login_form(self, call: Call[None, None]) -> Reply:
        """Return a form for a token."""
        return self._login_page()

    @post(LOGIN, Scope.OPEN, forms=True)
    async def log_in(self, call: Call[None, LoginForm]) -> Reply:
        """Set a cookie for a token. A form is led to the page, a script gets the session."""
        request = call.request
        value, login = await self._gatekeeper.log_in(call.body.token, request, call.visitor.peer)
        secure = (request.get(b"origin") or b"").startswith(b"https:")
        field = (b"set-cookie", cookies.set_cookie(value, secure=secure))
        if b"json" not in (request.get(b"content-type") or b""):
            return see_other("/", (field,))
        return replace(json_reply(_session(login.token.scope, login)), headers=(field,))

    @post("/logout", Scope.READ, forms=True)
    def log_out(self, call: Call[None, CsrfForm]) -> Reply:
        """Take the cookie back."""
        return see_other(LOGIN, ((b"set-cookie", cookies.set_cookie("", secure=False)),))


def _session(scope: Scope, login: Login | None) -> Session:
    until, csrf = (login.until, login.csrf) if login is not None else (None, None)
    return Session(scope=scope.value, until=until, csrf_token=csrf)
