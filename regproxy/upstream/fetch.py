"""A request to an origin for content, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from regproxy.http.messages import Response
from regproxy.http.origin import Origin
from regproxy.http.ranges import Span, parse_content_range
from regproxy.upstream.connection import Connection


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer of `origin` at `url` whose body is still to be read. `seconds`: until its head.

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


@dataclass(frozen=True, slots=True)
class Ask:
    """The bytes of a content that are asked for: [start, stop), stop -1 is its end.

    `validator`: that of an earlier answer, for If-Range (RFC 9110 13.1.5), sent only to its origin. `at`: the
    URL of an earlier answer, instead of the registry's. `background`: it is the proxy's own request, and what
    the client has sent may be too old by now. `patient`: content by digest may begin late. `spare`: there
    is a copy to serve where the origin is in trouble.
    """

    start: int = 0
    stop: int = -1
    validator: tuple[Origin, bytes] | None = None
    at: str = ""
    background: bool = False
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


def plain(response: Response, ask: Ask) -> Response:
    """Return a response as the 200 that it amounts to: a 203, or a 206 with all of it that nobody asked for.

    Whether the content is right is for its digest to tell (RFC 9110 15.3.4, 15.3.7).
    """
    if response.status == 203:
        return replace(response, status=200)
    if response.status == 206 and not ask.ranged:
        found = parse_content_range(response.get(b"content-range"))
        if found is not None and found[0] == Span(0, found[1] or -1):
            kept = tuple(field for field in response.headers if field[0] != b"content-range")
            return replace(response, status=200, headers=kept)
    return response


WHOLE: Final = Ask()
