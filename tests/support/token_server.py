"""A token server as registries know it (distribution spec, docs/spec/auth/token.md): ES256 JWTs with x5c."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.origin import Answer, Origin, Seen
from tests.support.trust import Trust

ISSUER = "token server for tests"


class TokenServer:
    """Serves `https://<name>:<port>/token`: anonymous may pull, `users` may pull and push.

    `origin.requests` are the requests it got. `private` names repositories that anonymous may not even pull,
    `owners` the users who alone may have anything of a repository.
    POST (OAuth2 form, as newer clients send it) is answered like GET.
    """

    def __init__(
        self,
        trust: Trust,
        *,
        name: str = "auth.test",
        users: Mapping[str, str] | None = None,
        private: tuple[str, ...] = (),
        owners: Mapping[str, tuple[str, ...]] | None = None,
        lifetime: float = 300,
    ) -> None:
        pair = trust.server(f"signer of {name}")
        self.users = dict(users or {})
        self.private = private
        self.owners = dict(owners or {})
        self.lifetime = lifetime
        self.root_bundle: Path = trust.path
        self._key = pair.key.read_text()
        certificate = x509.load_pem_x509_certificate(pair.chain.read_bytes())
        self._x5c = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        self.origin = Origin(trust, name)
        self.origin.on("/token", self._answer)

    @property
    def realm(self) -> str:
        """The URL that challenges name."""
        return f"{self.origin.url}/token"

    @property
    def requests(self) -> list[Seen]:
        return self.origin.requests

    def close(self) -> None:
        self.origin.close()

    def token(self, service: str, scopes: list[str], user: str | None) -> str:
        """Return a JWT with what `user` (None: anonymous) may have of scopes ("repository:a/b:pull,push")."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user or "",
            "aud": service,
            "iat": now,
            "nbf": now - 60,
            "exp": now + int(self.lifetime),
            "jti": uuid.uuid4().hex,
            "access": [grant for scope in scopes if (grant := self._grant(scope, user))],
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._x5c})

    def _grant(self, scope: str, user: str | None) -> dict[str, Any] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = {"pull", "push"}
        if user is None:
            allowed = {"pull"} - ({"pull"} if name in self.private else set())
        if name in self.owners and user not in self.owners[name]:
            allowed = set()
        granted = [action for action in actions.split(",") if action in allowed]
        return {"type": kind, "name": name, "actions": granted} if granted else None

    def _answer(self, seen: Seen) -> Answer:
        query = seen.target.partition("?")[2]
        form = urllib.parse.parse_qs(seen.body.decode() if seen.method == "POST" else query)
        user: str | None = None
        pair = _basic(seen.get("authorization"))
        if pair is None and "username" in form:
            pair = form["username"][0], form.get("password", [""])[0]
        if pair is not None:
            user = pair[0]
            if self.users.get(user) != pair[1]:
                return _json({"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}, 401)
        scopes = [part for scope in form.get("scope", []) for part in scope.split(" ")]
        token = self.token(form.get("service", [""])[0], scopes, user)
        return _json({"token": token, "access_token": token, "expires_in": int(self.lifetime)}, 200)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _json(value: object, status: int) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


def _basic(value: str | None) -> tuple[str, str] | None:
    scheme, _, rest = (value or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    user, _, password = base64.b64decode(rest).decode().partition(":")
    return user, password
