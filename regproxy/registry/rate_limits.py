"""How registries say what may still be asked of them: rate limit fields, Retry-After, and what follows.

ratelimit-limit: 100;w=21600        Docker Hub: 100 manifests in 6 hours
ratelimit-remaining: 76;w=21600
retry-after: 60                     with a 429; or an HTTP-date (RFC 9110 10.2.3)
x-retry-after: 1767225600           Docker Hub's API: seconds since the epoch
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from regproxy.config.values import Reserve
from regproxy.http.messages import Response
from regproxy.registry.targets import Kind

STRETCH_MAX: Final = 24.0  # ten minutes become four hours at most, an hour a day
RETRY_MIN: Final = 1.0  # seconds
# Docker Hub's window. A registry that asks for more, by mistake or malice, is asked again after it.
RETRY_MAX: Final = 6 * 3600.0
BACKOFF_MAX: Final = 300.0  # without a Retry-After: 1 s, 2 s, 4 s...
WINDOW_DEFAULT: Final = 3600.0  # where a registry says neither a window nor when it begins anew
_WINDOW_MAX: Final = 31 * 86_400.0
_EPOCH_FROM: Final = 1_000_000_000  # a larger number is no span of seconds but a time
_TOKEN_MAX: Final = 16_384
_LABEL_MAX: Final = 100

CLIENT: Final = "client"  # a client's own credentials, which one is not told
ANONYMOUS: Final = "anonymous"

_NUMBER = re.compile(rb"\s*([0-9]{1,12})\s*(?:[,;].*)?", re.DOTALL)
_WINDOW = re.compile(rb";\s*w\s*=\s*([0-9]{1,12})")


class Lane(StrEnum):
    """What a registry counts, and refuses, apart from the rest."""

    MANIFESTS = "manifests"  # GETs of manifests are what Docker Hub calls a pull
    HEADS = "heads"  # which it does not count
    REST = "rest"  # blobs, pings, tokens


_MANIFESTS: Final = frozenset({Kind.MANIFEST, Kind.TAG})


def lane_of(method: str, kind: Kind) -> Lane:
    """Return what a request is counted as."""
    if method == "HEAD":
        return Lane.HEADS
    return Lane.MANIFESTS if is_manifest(kind) and method == "GET" else Lane.REST


def is_manifest(kind: Kind) -> bool:
    """Tell whether a path is a manifest's, by tag or by digest."""
    return kind in _MANIFESTS


# Who asks.


def client_credential(authorization: bytes | None) -> str:
    """Return whose quota a client's own Authorization uses up: `anonymous` or `client:<hash>`.

    Tokens last for minutes and one repository, so those that are JWTs are told apart by whom they were given
    to. They are not verified: who invents one gets a 401, and no quota. The hash is of no secret that could
    be guessed: of a Basic pair only the user's name is in it.
    """
    if authorization is None:
        return ANONYMOUS
    scheme, _, value = authorization.partition(b" ")
    value = value.strip()
    if scheme.lower() == b"basic":
        return _hashed(b"basic", _decoded(value).partition(b":")[0])
    subject = _subject(value) if scheme.lower() == b"bearer" else None
    if subject is None:
        return _hashed(scheme.lower(), value)
    return _hashed(b"subject", subject.encode("utf-8", "surrogatepass")) if subject else ANONYMOUS


def label(credential: str) -> str:
    """Return a credential as it may be shown: of a client's nothing but that it is one."""
    return CLIENT if credential.startswith(f"{CLIENT}:") else credential[:_LABEL_MAX]


def _hashed(*parts: bytes) -> str:
    return f"{CLIENT}:{hashlib.sha256(b' '.join(parts)).hexdigest()[:16]}"


def _decoded(value: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        return b""


def _subject(token: bytes) -> str | None:
    """Return the issuer and subject of a JWT (RFC 7519), "" where it is nobody's, None where it is no JWT."""
    parts = token.split(b".")
    if len(parts) != 3 or len(token) > _TOKEN_MAX:
        return None
    try:
        claims: Any = json.loads(_decoded(parts[1]))
    except (ValueError, RecursionError):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    if not isinstance(subject, str):
        return None
    return f"{claims.get('iss')} {subject}" if subject else ""


# What is left.


@dataclass(frozen=True, slots=True, order=True)
class Report:
    """What a registry has said is left of a quota, and when. Of two the larger one is the later one."""

    seen: float
    remaining: int
    limit: int
    window: float

    def left(self, now: float) -> float:
        """Return what should be left by now: a window that moves gives back evenly what was spent in it."""
        passed = min(max((now - self.seen) / self.window, 0.0), 1.0)
        return self.remaining + (self.limit - self.remaining) * passed


def parse_report(response: Response, now: float) -> Report | None:
    """Return what a response says of a quota, None where it says nothing that can be understood."""
    for prefix in (b"ratelimit-", b"x-ratelimit-"):
        limit, remaining = response.get(prefix + b"limit"), response.get(prefix + b"remaining")
        total, left = _number(limit), _number(remaining)
        if total and left is not None:
            window = _window(limit, remaining) or _reset(response, prefix, now) or WINDOW_DEFAULT
            return Report(now, min(left, total), total, min(max(window, 1.0), _WINDOW_MAX))
    return None


def stretch(report: Report, reserve: Reserve, now: float) -> float:
    """Return by how much tags should last longer: reserve / what is left, from 1 to STRETCH_MAX.

    Twice the lifetime is half of the requests, so the less is left, the more slowly it is used up.
    """
    wanted = reserve.of(report.limit)
    left = report.left(now)
    if left >= wanted:
        return 1.0
    return min(wanted / left, STRETCH_MAX) if left > 0 else STRETCH_MAX


def _number(value: bytes | None) -> int | None:
    found = _NUMBER.fullmatch(value) if value is not None else None
    return int(found[1]) if found is not None else None


def _window(*values: bytes | None) -> float | None:
    for value in values:
        found = _WINDOW.search(value) if value is not None else None
        if found is not None:
            return float(found[1])
    return None


def _reset(response: Response, prefix: bytes, now: float) -> float | None:
    number = _number(response.get(prefix + b"reset"))
    return _span(number, _their_now(response, now)) if number is not None else None


# When to ask again.


def parse_retry(response: Response, now: float) -> float | None:
    """Return after how many seconds a response allows the next request, None where it does not say.

    Times are compared with the response's own Date: this machine's clock may be wrong.
    """
    for name in (b"retry-after", b"x-retry-after"):
        value = response.get(name)
        if value is None:
            continue
        number, theirs = _number(value), _their_now(response, now)
        at = None if number is not None else _date(value)
        if number is not None or at is not None:
            wanted = _span(number, theirs) if number is not None else (at or 0.0) - theirs
            return min(max(wanted, RETRY_MIN), RETRY_MAX)
    return None


def backoff(count: int) -> float:
    """Return the seconds after the `count`th refusal in a row (from 1) that did not say when to come back."""
    return min(RETRY_MIN * 2.0 ** min(count - 1, 30), BACKOFF_MAX)


def _span(number: int, now: float) -> float:
    return number - now if number >= _EPOCH_FROM else float(number)


def _their_now(response: Response, now: float) -> float:
    value = response.get(b"date")
    date = _date(value) if value is not None else None
    return now if date is None else date


def _date(value: bytes) -> float | None:
    """Return the seconds since the epoch of an HTTP-date (RFC 9110 5.6.7)."""
    try:
        date: datetime = parsedate_to_datetime(value.decode("latin-1"))
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
