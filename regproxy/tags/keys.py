"""Keys of requests for a tag: equal requests share one request to the origin, in all processes."""

from __future__ import annotations

import json
from typing import NamedTuple

from regproxy.fill.fill import CacheRequest
from regproxy.http.origin import Origin
from regproxy.registry.accept import Accept


class RequestKey(NamedTuple):
    """All that an origin's answer about a tag may depend on; requests with equal keys share one answer.

    `who`: what may tell clients apart, such as credentials; empty where all clients get the same answer.
    """

    method: str
    origin: Origin
    repository: str
    tag: str
    who: tuple[bytes, ...]
    accept: Accept

    def text(self) -> str:
        """Return the key as text, the same in all processes. It may hold credentials: see TagClaims.mark."""
        origin, who = self.origin, [value.decode("latin-1") for value in self.who]
        where = [origin.scheme, origin.host, origin.port, self.repository, self.tag]
        return json.dumps([self.method, *where, who, self.accept.key])


def fetch_key(wanted: CacheRequest, accept: Accept) -> RequestKey:
    """Return the key for fetching a tag's content: it includes the credentials."""
    who = wanted.request.all(b"authorization")
    return _key("GET", wanted, (*who,) if wanted.lends else (*who, b"no login"), accept)


def look_key(wanted: CacheRequest, accept: Accept, asker: str, presence: bool = False) -> RequestKey:
    """Return the key for a HEAD of a tag. `asker`: only clients with this mark share it; "": all do.

    `presence`: what is asked is whether the registry has it; a copy is no answer to that.
    """
    method = "HEAD presence" if presence else "HEAD"
    return _key(method, wanted, (asker.encode(),) if asker else (), accept)


def _key(method: str, wanted: CacheRequest, who: tuple[bytes, ...], accept: Accept) -> RequestKey:
    return RequestKey(method, wanted.origin, wanted.repository, wanted.target.reference, who, accept)
