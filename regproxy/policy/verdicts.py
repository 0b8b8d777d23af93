"""What an origin's status means for what was asked."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from regproxy.http.messages import Response

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Upstream is in trouble: what we hold is better than its answer.
STALE_ON: Final = frozenset({429, 500, 502, 503, 504})
MAX_REDIRECTS: Final = 5


def is_hiding(response: Response) -> bool:
    """Tell whether this answer may be due to that nothing was shown: some registries ask for no credentials,
    and say 403, 404, or 401 without a challenge.
    """
    challenged = response.get(b"www-authenticate") is not None
    return response.status in (403, 404) or (response.status == 401 and not challenged)


class Verdict(Enum):
    """What an origin's answer to a fetch means."""

    STORE = auto()
    FOLLOW = auto()
    TROUBLE = auto()  # an older copy is better than this answer
    COMPLETE = auto()  # there is nothing behind what is held already
    BROKEN = auto()  # no answer to what was asked
    RELAY = auto()


def after_head(status: int, *, resumed: bool = False) -> Verdict:
    """What an origin's answer to a fetch, without any condition, means.

    `resumed`: it was asked for what follows the bytes that are held, and may give all of it nevertheless
    (RFC 9110 14.2).
    """
    if status == 200 or (resumed and status == 206):
        return Verdict.STORE
    if resumed and status == 416:
        return Verdict.COMPLETE
    if status in REDIRECTS:
        return Verdict.FOLLOW
    if status in STALE_ON:
        return Verdict.TROUBLE
    # Neither a range nor a condition was sent, so there is nothing that these could be the answer to.
    return Verdict.BROKEN if status < 400 else Verdict.RELAY
