"""Which requests for a tag are equal: they share one question to the origin, in all processes."""

from __future__ import annotations

import json
from typing import NamedTuple

from regproxy.fill.fill import CacheRequest
from regproxy.http.origin import Origin
from regproxy.registry.accept import Accept


class RequestKey(NamedTuple):
    """What makes two requests for a tag one question; an origin may answer others with something else.

    `who`: of those who ask, what the answer may be due to; empty where it is the same for everybody.
    """

    method: str
    origin: Origin
    repository: str
    tag: str
    who: tuple[bytes, ...]
    accept: Accept

    def text(self) -> str:
        """Return the key as it is in all processes. It may hold credentials: see TagClaims.mark()."""
        origin, who = self.origin, [value.decode("latin-1") for value in self.who]
        where = [origin.scheme, origin.host, origin.port, self.repository, self.tag]
        return json.dumps([self.method, *where, who, self.accept.key])


def fetch_key(wanted: CacheRequest, accept: Accept) -> RequestKey:
    """Return the key of who fetches a tag's content: with the same credentials."""
    return _key("GET", wanted, tuple(wanted.request.all(b"authorization")), accept)


def look_key(wanted: CacheRequest, accept: Accept, asker: str) -> RequestKey:
    """Return the key of who asks what a tag is; `asker`: those alone who have this mark, "": everybody."""
    return _key("HEAD", wanted, (asker.encode(),) if asker else (), accept)


def _key(method: str, wanted: CacheRequest, who: tuple[bytes, ...], accept: Accept) -> RequestKey:
    return RequestKey(method, wanted.origin, wanted.repository, wanted.target.reference, who, accept)
