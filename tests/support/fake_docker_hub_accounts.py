"""Docker Hub's token server, imitated: accounts, tokens as distribution's token.md and oauth.md have them.

A token lasts 300 s, and is for one service and for those of the scopes asked for that are granted.
Logins that fail too often lock the account for a while, the right password included.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from tests.support.origin import Answer, Origin, Seen

SERVICE = "registry.docker.test"
LOGINS, LOCKED = 10, 600.0
JSON = {"content-type": "application/json"}
UNTIMED: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}  # PyJWT's clock is not ours


class Accounts:
    """The token server: GET as token.md has it, POST as oauth.md. `may(repository, user)`: who may pull what.

    `tokens` counts those given out, by account name or "" for nobody's; `failures` the logins that failed.
    """

    def __init__(
        self,
        origin: Origin,
        users: Mapping[str, str],
        lifetime: int,
        clock: Callable[[], float],
        may: Callable[[str, str | None], bool],
    ) -> None:
        self.origin = origin
        self.users = dict(users)
        self.lifetime = lifetime
        self.tokens: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._clock = clock
        self._may = may
        self._secret = secrets.token_hex(32)
        self._refresh: dict[str, str] = {}
        self._failed: dict[str, list[float]] = {}  # of failed logins in a row
        origin.on("/token", self._answer)

    @property
    def realm(self) -> str:
        """The URL that challenges name."""
        return f"{self.origin.url}/token"

    def granted(self, seen: Seen) -> tuple[str | None, frozenset[str]] | str:
        """Who asks, and for which repositories the token is; or the error for a challenge ("": no token)."""
        scheme, _, value = (seen.get("authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return ""
        try:
            claims = jwt.decode(value, self._secret, ["HS256"], audience=SERVICE, options=UNTIMED)
        except jwt.InvalidTokenError:
            return "invalid_token"
        if not claims["nbf"] <= self._clock() < claims["exp"]:
            return "invalid_token"
        return claims["sub"] or None, frozenset(grant["name"] for grant in claims["access"])

    def _answer(self, seen: Seen) -> Answer:
        posted = seen.method == "POST"
        text = seen.body.decode() if posted else seen.target.partition("?")[2]
        form = {name: " ".join(values) for name, values in urllib.parse.parse_qs(text).items()}
        try:
            user = self._user(seen, form, posted)
        except _Refused as error:
            return error.args[0]  # type: ignore[no-any-return]
        if form.get("service") != SERVICE:
            return Answer(b'{"details":"unknown service"}', 400, JSON)
        return self._give(user, form, posted)

    def _user(self, seen: Seen, form: Mapping[str, str], posted: bool) -> str | None:
        scheme, _, value = (seen.get("authorization") or "").partition(" ")
        if scheme.lower() == "basic":
            name, _, password = base64.b64decode(value).decode().partition(":")
            return self._checked(name, password)
        if not posted:
            return None
        if form.get("grant_type") == "password":
            return self._checked(form.get("username", ""), form.get("password", ""))
        if form.get("grant_type") == "refresh_token" and form.get("refresh_token") in self._refresh:
            return self._refresh[form["refresh_token"]]
        raise _Refused(Answer(b'{"details":"incorrect username or password"}', 401, JSON))

    def _checked(self, name: str, password: str) -> str:
        now = self._clock()
        failed = self._failed.setdefault(name, [])
        if len(failed) >= LOGINS and now < failed[-1] + LOCKED:
            said = b'{"details":"too many failed login attempts for username or IP address"}'
            raise _Refused(Answer(said, 429, JSON))
        if self.users.get(name) != password:
            failed.append(now)
            self.failures[name] += 1
            raise _Refused(Answer(b'{"details":"incorrect username or password"}', 401, JSON))
        failed.clear()
        return name

    def _give(self, user: str | None, form: Mapping[str, str], posted: bool) -> Answer:
        now = int(self._clock())
        scopes = [scope.split(":") for scope in form.get("scope", "").split()]
        access = [
            {"type": kind, "class": "", "name": name, "actions": ["pull"]}
            for kind, name, actions in (scope for scope in scopes if len(scope) == 3)
            if kind == "repository" and "pull" in actions.split(",") and self._may(name, user)
        ]
        claims: dict[str, Any] = {
            "iss": "auth.docker.io",
            "sub": user or "",
            "aud": SERVICE,
            "access": access,
        }
        claims |= {"iat": now, "nbf": now, "exp": now + self.lifetime, "jti": f"dckr_jti_{uuid.uuid4().hex}"}
        # The true ones have a chain of certificates here, and are between 2 and 4 KB long.
        token = jwt.encode(
            claims, self._secret, "HS256", headers={"x5c": [base64.b64encode(bytes(1500)).decode()]}
        )
        self.tokens[user or ""] += 1
        issued = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        said: dict[str, Any] = {"access_token": token, "expires_in": self.lifetime, "issued_at": issued}
        said |= {"scope": form.get("scope", "")} if posted else {"token": token}
        if user and (form.get("offline_token") == "true" or form.get("access_type") == "offline"):
            refresh = f"dckr_rt_{secrets.token_hex(16)}"
            self._refresh[refresh] = user
            said["refresh_token"] = refresh
        return Answer(json.dumps(said).encode(), headers=JSON)


class _Refused(Exception):
    """Carries the answer to a login that fails."""
