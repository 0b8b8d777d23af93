"""Logins of browsers, where a cookie stands for a token that was shown once; and proofs for commands, which
send their token only to a proxy that has proven that it knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from regproxy.admin import cookies, proofs
from regproxy.admin.gatekeeper import CsrfForm, Gatekeeper
from regproxy.admin.operations import LOGIN, Call, get, post
from regproxy.admin.replies import Problem, Reply, json_reply, see_other
from regproxy.admin.visitors import Login, Scope

_TOKEN_MAX: Final = 4096
_PROBLEMS: Final = {421: "the proof is of another connection than this one"}


class LoginForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser shows once."""

    token: Annotated[str, Meta(max_length=_TOKEN_MAX, description="one of the two tokens")]


_Text = Annotated[str, Meta(pattern=proofs.TEXT)]
_Address = Annotated[str, Meta(pattern=proofs.ADDRESS)]
_ADDRESS: Final = "the address that the client has connected to, such as 127.0.0.1:3129 or [::1]:3129"
_CLIENT: Final = "the client's own end of that connection, such as 127.0.0.1:50000"
_ASKED: Final = 'of "regproxy admin proof of a client"'
_GIVEN: Final = 'of "regproxy admin proof of a proxy"'
_SEAL: Final = "HMAC-SHA-256 of address, client, nonce, in three lines; its key is the token's HMAC-SHA-256"


class ProofForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What proves that a client knows a token. Bytes are in base64url without padding."""

    address: Annotated[_Address, Meta(description=_ADDRESS)]
    client: Annotated[_Address, Meta(description=_CLIENT)]
    nonce: Annotated[_Text, Meta(description="32 random bytes, new for each connection")]
    proof: Annotated[_Text, Meta(description=f"{_SEAL} {_ASKED}")]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What proves that this proxy knows the token, too."""

    proof: Annotated[str, Meta(description=f"{_SEAL} {_GIVEN}")]


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

    @post(proofs.PATH, Scope.OPEN, problems=_PROBLEMS)
    async def prove_token(self, call: Call[None, ProofForm]) -> Proof:
        """Prove that this proxy knows a token, to a client that proves the same.

        A client that asks for this first, and then sends its token on the same connection, sends it to nobody
        else who happens to listen at this address. 421: the connection that the client describes is not the
        one that this request came on, so something relays it.
        """
        form, here, there = call.body, proofs.address_text(*call.here), proofs.address_text(*call.there)
        what = form.address, form.client, form.nonce
        proof = await self._gatekeeper.prove(form.proof, what, call.request, call.visitor.peer)
        if form.address != here:
            raise Problem(421, f"this connection leads to {here}, not to {form.address}", field="address")
        if form.client != there:
            raise Problem(421, f"this connection comes from {there}, not from {form.client}", field="client")
        return Proof(proof=proof)

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
