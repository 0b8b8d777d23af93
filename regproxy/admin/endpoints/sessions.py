"""Logins of browsers: a token is shown once, a cookie stands for it from then on."""

from __future__ import annotations

import html
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from regproxy.admin import cookies
from regproxy.admin.gatekeeper import Gatekeeper
from regproxy.admin.operations import Call, get, post
from regproxy.admin.replies import HTML, Problem, Reply, json_reply
from regproxy.admin.visitors import Login, Scope

_TOKEN_MAX: Final = 4096


class LoginForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser shows once."""

    token: Annotated[str, Meta(max_length=_TOKEN_MAX, description="one of the two tokens")]


class LogoutForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a form of the page sends; a script has the header X-CSRF-Token instead."""

    csrf_token: Annotated[str, Meta(max_length=256)] | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as this proxy sees it."""

    scope: Annotated[str, Meta(description="what the token is for: read, or write (both)")]
    until: Annotated[int | None, Meta(description="when a login by cookie ends, seconds since the epoch")]
    csrf_token: Annotated[
        str | None, Meta(description="what requests that write have to show in X-CSRF-Token, with a cookie")
    ]


class Sessions:
    """The endpoints of logins."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    @get("/api/v1/session")
    def session(self, call: Call[None, None]) -> Session:
        """Return what the token, or cookie, of this request is for."""
        visitor = call.visitor
        return _session(visitor.scope, visitor.login)

    @get("/login", Scope.OPEN)
    def login_page(self, call: Call[None, None]) -> Reply:
        """Return a form for a token."""
        return _form(200, "")

    @post("/login", Scope.OPEN, forms=True)
    async def log_in(self, call: Call[None, LoginForm]) -> Reply:
        """Set a cookie for a token. A form is led to the page, a script gets the session."""
        request = call.request
        is_form = b"json" not in (request.get(b"content-type") or b"")
        try:
            value, login = await self._gatekeeper.log_in(call.body.token, request, call.visitor.peer)
        except Problem as problem:
            if not is_form:
                raise
            return replace(_form(problem.status, problem.detail), headers=problem.headers)
        secure = (request.get(b"origin") or b"").startswith(b"https:")
        field = (b"set-cookie", cookies.set_cookie(value, secure=secure))
        if is_form:
            return Reply(303, HTML, b"", ((b"location", b"/"), field))
        return replace(json_reply(_session(login.token.scope, login)), headers=(field,))

    @post("/logout", Scope.READ, forms=True)
    def log_out(self, call: Call[None, LogoutForm]) -> Reply:
        """Take the cookie back."""
        field = (b"set-cookie", cookies.set_cookie("", secure=False))
        return Reply(303, HTML, b"", ((b"location", b"/login"), field))


def _session(scope: Scope, login: Login | None) -> Session:
    until, csrf = (login.until, login.csrf) if login is not None else (None, None)
    return Session(scope=scope.value, until=until, csrf_token=csrf)


def _form(status: int, said: str) -> Reply:
    page = _PAGE.replace("@SAID@", f"<p><strong>{html.escape(said)}</strong></p>" if said else "")
    return Reply(status, HTML, page.encode())


_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>regproxy: log in</title>
<h1>regproxy</h1>
@SAID@
<form method="post" action="/login">
<p><label for="token">Token</label>
<input id="token" type="password" name="token" required autofocus autocomplete="current-password">
<button>Log in</button></p>
</form>
<p>The token is in the file that the proxy's log has named at its start, or in the one that
REGPROXY_ADMIN_TOKEN_FILE names.</p>
</html>
"""
