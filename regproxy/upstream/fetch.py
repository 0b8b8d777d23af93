"""A request to an origin for content, and its answer."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from regproxy.http.messages import Response, tokens
from regproxy.http.origin import Origin
from regproxy.http.ranges import parse_content_range
from regproxy.upstream.connections.connection import Connection

# S3's aws-chunked is how an upload was framed, and some stores repeat it for what they have unframed.
_NO_CODING: Final = frozenset({b"identity", b"aws-chunked"})
_NO_CONTENT: Final = frozenset({204, 205, 206})


class Fetched(Struct, frozen=True):
    """An answer of `origin` whose body is still to be read. `seconds`: until its head.

    `url`: where the rest of it may be asked for; "": that is to be asked of the registry.

    `place`: who was asked, the registry or a mirror, and may have redirected to `origin`. `hops`: all of them
    (see `http.hops`).
    """

    connection: Connection
    response: Response
    origin: Origin
    seconds: float
    url: str
    place: Origin
    hops: str = ""

    @property
    def validator(self) -> tuple[Origin, bytes] | None:
        """Its strong ETag, and the origin that sent it (RFC 9110 8.8.3); None without one."""
        etag = self.response.get(b"etag")
        return (self.origin, etag) if etag is not None and etag.startswith(b'"') else None


class Ask(Struct, frozen=True):
    """The bytes of a content that are asked for: [start, stop), stop -1 is its end.

    `validator`: that of an earlier answer, for If-Range (RFC 9110 13.1.5), sent only to its origin. `at`: the
    URL of an earlier answer, instead of the registry's. `own_account`: it is the proxy's own request: no
    client gets a token for it, and what one has sent may be too old by now. `itself`: no mirror is asked.
    `bare`: no credentials are sent, as a redirect has come over plain HTTP.
    `lends`: configured logins may be used for it. `patient`: content by digest may begin late. `spare`:
    there is a copy to serve where the origin is in trouble.
    """

    start: int = 0
    stop: int = -1
    validator: tuple[Origin, bytes] | None = None
    at: str = ""
    own_account: bool = False
    itself: bool = False
    bare: bool = False
    lends: bool = True
    patient: bool = True
    spare: bool = False

    @property
    def ranged(self) -> bool:
        """Whether less than all of it is asked for."""
        return self.start > 0 or self.stop >= 0

    def fields(self, at: Origin) -> tuple[tuple[bytes, bytes], ...]:
        """Return the range fields of a request to `at`."""
        if not self.ranged:
            return ()
        last = b"%d" % (self.stop - 1) if self.stop >= 0 else b""
        found = (b"range", b"bytes=%d-%b" % (self.start, last))
        if self.validator is not None and self.validator[0] == at:
            return found, (b"if-range", self.validator[1])
        return (found,)


def as_200(response: Response, ask: Ask) -> Response:
    """Return a response as the 200 that it amounts to: any success with content, or a 206 that nobody asked
    for, unless it says that it is less than all. A Content-Encoding that stands for none is left out.

    Clients take these; whether the content is right is for its digest to tell (RFC 9110 15.3).
    """
    dropped = set()
    if all(coding in _NO_CODING for coding in tokens(response.all(b"content-encoding"))):
        dropped.add(b"content-encoding")
    status = response.status
    if 200 < status < 300 and status not in _NO_CONTENT:
        status = 200
    if status == 206 and not ask.ranged and not _is_less(response):
        status = 200
        dropped.add(b"content-range")
    if status == response.status and response.get(b"content-encoding") is None:
        return response
    kept = tuple(field for field in response.headers if field[0] not in dropped)
    return replace(response, status=status, headers=kept)


def _is_less(response: Response) -> bool:
    """Return whether a 206 says that it is not all of the content; if it says nothing, its end will tell."""
    if (response.get(b"content-type") or b"").lower().startswith(b"multipart/byteranges"):
        return True
    found = parse_content_range(response.get(b"content-range"))
    if found is None:
        return False
    span, total = found
    return span.start > 0 or (total is not None and span.stop != total)


WHOLE: Final = Ask()
