"""Decide what an origin's status means for a fetch."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from regproxy.http.messages import Response

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Upstream is in trouble: a stale copy is better than its answer.
STALE_ON: Final = frozenset({429, 500, 502, 503, 504})
MAX_REDIRECTS: Final = 10  # as Go's and curl's clients, give or take one


def is_hiding(response: Response) -> bool:
    """Tell whether this answer may be due to that nothing was shown: some registries ask for no credentials,
    and say 403, 404, or 401 without a challenge.
    """
    challenged = response.get(b"www-authenticate") is not None
    return response.status in (403, 404) or (response.status == 401 and not challenged)


def is_refused_otherwise(first: Response, second: Response) -> bool:
    """Tell whether credentials, after an answer that is_hiding(), brought no more than another refusal.

    Trouble is none: it may pass, and the next attempt bring the content.
    """
    passing = second.status in STALE_ON or second.status == 408
    return 400 <= second.status < 500 and second.status != first.status and not passing


class Verdict(Enum):
    """The meaning of an origin's answer to a fetch."""

    STORE = auto()
    FOLLOW = auto()
    TROUBLE = auto()  # a stale copy is better than this answer
    COMPLETE = auto()  # the part has all bytes already
    BROKEN = auto()  # not a valid answer to the request
    RELAY = auto()


def after_head(status: int, *, resumed: bool = False) -> Verdict:
    """Return the verdict on an origin's answer to an unconditional fetch.

    `resumed`: only the bytes after those that we have were asked for; the origin may send all of them
    nevertheless (RFC 9110 14.2).
    """
    if status == 200 or (resumed and status == 206):
        return Verdict.STORE
    if resumed and status == 416:
        return Verdict.COMPLETE
    if status in REDIRECTS:
        return Verdict.FOLLOW
    if status in STALE_ON:
        return Verdict.TROUBLE
    # Below 400 is left what only answers a range or condition (206, 304), but none was sent.
    return Verdict.BROKEN if status < 400 else Verdict.RELAY
