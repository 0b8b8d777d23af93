"""Parse the rate limits that registries announce, and derive retry times and longer tag lifetimes from them.

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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from regproxy.config.values.numbers import Reserve
from regproxy.http.messages import Response
from regproxy.registry.targets import Kind

STRETCH_MAX: Final = 24.0  # ten minutes become four hours at most, an hour a day
RETRY_MIN: Final = 1.0  # seconds
# Docker Hub's window. A registry that states a longer time, by mistake or malice, is asked again after this
# one.
RETRY_MAX: Final = 6 * 3600.0
BACKOFF_MAX: Final = 300.0  # without a Retry-After: 1 s, 2 s, 4 s...
WINDOW_DEFAULT: Final = 3600.0  # if a registry states neither a window nor its reset
_WINDOW_MAX: Final = 31 * 86_400.0
_EPOCH_FROM: Final = 1_000_000_000  # this and larger numbers are a time, not a number of seconds
_TOKEN_MAX: Final = 16_384
_LABEL_MAX: Final = 100

CLIENT: Final = "client"  # a client's own credentials, without saying which
ANONYMOUS: Final = "anonymous"

_NUMBER = re.compile(rb"\s*([0-9]{1,12})\s*(?:[,;].*)?", re.DOTALL)
_WINDOW = re.compile(rb";\s*w\s*=\s*([0-9]{1,12})")


class Lane(StrEnum):
    """A class of requests that a registry counts and refuses separately."""

    MANIFESTS = "manifests"  # GETs of manifests, which Docker Hub calls pulls
    HEADS = "heads"  # not counted by Docker Hub
    REST = "rest"  # blobs, pings, tokens


_MANIFESTS: Final = frozenset({Kind.MANIFEST, Kind.TAG})


def lane_of(method: str, kind: Kind) -> Lane:
    """Return the lane of a request."""
    if method == "HEAD":
        return Lane.HEADS
    return Lane.MANIFESTS if is_manifest(kind) and method == "GET" else Lane.REST


def is_manifest(kind: Kind) -> bool:
    """Tell whether a path is a manifest's, by tag or by digest."""
    return kind in _MANIFESTS


# Credentials.


def client_credential(authorization: bytes | None) -> str:
    """Return whose quota a client's own Authorization uses: `anonymous` or `client:<hash>`.

    Tokens last for minutes and are for one repository, so JWTs are told apart by issuer and subject. They are
    not verified: an invented one gets a 401, and no quota. The hash has no secret in it that could be
    guessed: of Basic credentials it has only the username.
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
    """Return a credential in displayable form: for a client's, only that it is one."""
    return CLIENT if credential.startswith(f"{CLIENT}:") else credential[:_LABEL_MAX]


def _hashed(*parts: bytes) -> str:
    return f"{CLIENT}:{hashlib.sha256(b' '.join(parts)).hexdigest()[:16]}"


def _decoded(value: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        return b""


def _subject(token: bytes) -> str | None:
    """Return the issuer and subject of a JWT (RFC 7519), "" if its subject is empty, None if it is no JWT."""
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


# Quotas.


class Report(Struct, frozen=True, order=True):
    """A registry's statement of its remaining quota, and when it was made. Of two the larger one is the later
    one.
    """

    seen: float
    remaining: int
    limit: int
    window: float

    def left(self, now: float) -> float:
        """Return the estimated quota left by now: a moving window gives used requests back evenly."""
        passed = min(max((now - self.seen) / self.window, 0.0), 1.0)
        return self.remaining + (self.limit - self.remaining) * passed


def parse_report(response: Response, now: float) -> Report | None:
    """Return the quota that a response states, None if it states none that can be parsed."""
    for prefix in (b"ratelimit-", b"x-ratelimit-"):
        limit, remaining = response.get(prefix + b"limit"), response.get(prefix + b"remaining")
        total, left = _number(limit), _number(remaining)
        if total and left is not None:
            window = _window(limit, remaining) or _reset(response, prefix, now) or WINDOW_DEFAULT
            return Report(now, min(left, total), total, min(max(window, 1.0), _WINDOW_MAX))
    return None


def stretch(report: Report, reserve: Reserve, now: float) -> float:
    """Return by how much tags should stay fresh longer: reserve / quota left, from 1 to STRETCH_MAX.

    Twice the lifetime halves the requests, so the less is left, the more slowly it is used up.
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
    """Return after how many seconds a response allows the next request, None if it does not say.

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
    """Return the seconds to wait after the `count`th refusal in a row (from 1) that did not say when to
    retry.
    """
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
