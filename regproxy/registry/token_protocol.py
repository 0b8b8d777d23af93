"""Build requests to token servers, and parse their answers (distribution spec: "Token Authentication",
"OAuth2").
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from msgspec import Struct

from regproxy.config.credentials import Login
from regproxy.core.errors import BadResponse
from regproxy.http.messages import Headers
from regproxy.http.origin import Origin

CLIENT_ID: Final = "regproxy"
DEFAULT_LIFETIME: Final = 60.0  # seconds, if none is given (the spec)
LONGEST_LIFETIME: Final = 86_400.0
SHORTEST_LIFETIME: Final = 5.0  # of a new token, whatever two clocks make of it
TOKEN_MAX: Final = 16_384  # bytes; more than registries accept in a head
_PARAMETER_MAX: Final = 4_096

_TOKEN = re.compile(r"[!-~]+")
_PRINTABLE = re.compile(r"[ -~]*")
_FORM: Final = (b"content-type", b"application/x-www-form-urlencoded")
PLAIN: Final = ((b"accept", b"application/json"), (b"user-agent", b"regproxy"))


class Realm(Struct, frozen=True):
    """A token endpoint: a server, the path and query there, and the name of the service."""

    origin: Origin
    target: str
    service: str


@dataclass(frozen=True, slots=True)
class RealmAsk:
    """One request to a token server. The sender adds Host and Content-Length."""

    method: str
    target: str = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and its remaining lifetime in seconds."""

    value: str = field(repr=False)
    lifetime: float


def parse_realm(url: str, service: str) -> Realm:
    """Return the realm of a challenge. Raises BadResponse if it can't be asked."""
    if not all(len(text) <= _PARAMETER_MAX and _PRINTABLE.fullmatch(text) for text in (url, service)):
        raise BadResponse("a realm or service that is too long, or not printable")
    origin = Origin.of(url)
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Realm(origin, f"{path}?{query}" if query else path, service)


def parse_scope(text: str) -> tuple[str, ...]:
    """Return the scopes of a challenge, which are separated by blanks; none if they can't be asked for."""
    usable = len(text) <= _PARAMETER_MAX and _PRINTABLE.fullmatch(text) is not None
    return tuple(dict.fromkeys(text.split())) if usable else ()


def get(realm: Realm, scopes: Iterable[str], login: Login | None) -> RealmAsk:
    """Return the GET for a token, with a username and password, or anonymous."""
    pairs = [("service", realm.service)] if realm.service else []
    pairs += [("scope", scope) for scope in scopes]
    query = urlencode(pairs)
    separator = "&" if "?" in realm.target else "?"
    target = f"{realm.target}{separator}{query}" if query else realm.target
    headers = PLAIN if login is None else (*PLAIN, (b"authorization", login.basic))
    return RealmAsk("GET", target, headers)


def post(realm: Realm, scopes: Iterable[str], login: Login) -> RealmAsk:
    """Return the OAuth2 POST for a token, with a refresh token or a password."""
    form = {"service": realm.service, "client_id": CLIENT_ID, "scope": " ".join(scopes)}
    if login.kind == "identity":
        form |= {"grant_type": "refresh_token", "refresh_token": login.secret}
    else:
        form |= {"grant_type": "password", "username": login.username, "password": login.secret}
    body = urlencode({name: value for name, value in form.items() if value})
    return RealmAsk("POST", realm.target, (*PLAIN, _FORM), body.encode())


def parse_answer(body: bytes, date: bytes | None, now: float) -> Issued:
    """Return the token of an answer. Raises BadResponse, without any of its text, if there is none.

    `date` is the answer's Date field: `issued_at` is compared with it, so that the clock `now` (seconds since
    1970) need not agree with the server's.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadResponse("an answer that is not JSON in place of a token") from None
    if not isinstance(document, dict):
        raise BadResponse("an answer that is not a JSON object in place of a token")
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or len(value) > TOKEN_MAX or _TOKEN.fullmatch(value) is None:
        raise BadResponse("an answer without a usable token")
    lifetime = _lifetime(document.get("expires_in"))
    age = _age(document.get("issued_at"), date, now)
    return Issued(value, max(min(lifetime, SHORTEST_LIFETIME), lifetime - age))


def _lifetime(value: Any) -> float:
    try:
        seconds = DEFAULT_LIFETIME if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFETIME
    return min(seconds, LONGEST_LIFETIME) if math.isfinite(seconds) and seconds > 0 else DEFAULT_LIFETIME


def _age(issued_at: Any, date: bytes | None, now: float) -> float:
    """Return the age of a token in seconds: servers cache tokens too."""
    if not isinstance(issued_at, str):
        return 0.0
    try:
        issued = datetime.fromisoformat(issued_at)
        if date is not None:
            now = parsedate_to_datetime(date.decode("latin-1")).timestamp()
        # RFC 3339 always has an offset; without one, UTC is meant.
        begin = issued if issued.tzinfo is not None else issued.replace(tzinfo=UTC)
        return max(0.0, now - begin.timestamp())
    except (ValueError, OverflowError, TypeError):
        return 0.0
