"""Interpret the status of an origin's answer to a fetch."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# The origin fails: a cached copy is better than its answer.
STALE_ON: Final = frozenset({429, 500, 502, 503, 504})
MAX_REDIRECTS: Final = 5


class Verdict(Enum):
    """The meaning of an origin's answer to a fetch."""

    STORE = auto()
    FOLLOW = auto()
    TROUBLE = auto()  # a stale copy is better than this answer
    COMPLETE = auto()  # there are no bytes after those in the part
    BROKEN = auto()  # not a valid answer to the request
    RELAY = auto()


def after_head(status: int, *, resumed: bool = False) -> Verdict:
    """Return the meaning of an origin's answer to a fetch without any condition.

    `resumed`: a range request for the bytes after those in the part; it may be answered with all bytes
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
    # Neither a range nor a condition was sent, so these can't be a valid answer.
    return Verdict.BROKEN if status < 400 else Verdict.RELAY
