"""Tell the audit log's writer which requests for images were answered, and how."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from regproxy.http.messages import READS
from regproxy.http.origin import Origin
from regproxy.registry.targets import Kind, parse_target
from regproxy.server.exchange import Exchange
from regproxy.server.routes import Route
from regproxy.telemetry.audit_events import Teller

# Accessing a member of an enum is slow.
_BLOB: Final = Kind.BLOB
_TAG: Final = Kind.TAG
_MANIFEST: Final = Kind.MANIFEST
_UPLOAD: Final = Kind.UPLOAD
_UNPARSED: Final = frozenset({Kind.OTHER, Kind.BLOB_MUTABLE, Kind.TOKEN})
# In the path of content that is passed on as it comes, such as what other digests than sha256 name. Each is
# looked for by itself: one expression for all of it takes days for a path of slashes.
_SLASHES: Final = re.compile(r"/+")
_ROOT: Final = re.compile(r"/v2/", re.IGNORECASE)
_SECTION: Final = re.compile(r"/(manifests|blobs)/", re.IGNORECASE)
_DECODINGS: Final = 4  # times that a path is decoded, as for rules: see policy.image_requests
_PULLS_AND_PUSHES: Final = frozenset({"GET", "HEAD", "PUT"})
_TEXT_MAX: Final = 256  # characters of a name that nobody has checked
_ALIVE_MAX: Final = 10.0  # seconds between two signs that a request is still being answered
_AGAIN: Final = 0.02  # seconds until what was not taken is sent again


class Audit:
    """What a worker tells. `idle`: seconds without a request after which a pull has ended."""

    __slots__ = ("_again", "_alive_at", "_alive_every", "_loop", "_tell", "_teller")

    def __init__(self, teller: Teller, idle: float, loop: asyncio.AbstractEventLoop) -> None:
        self._teller = teller
        self._tell = teller.tell
        self._loop = loop
        self._again: asyncio.TimerHandle | None = None
        self._alive_every = min(_ALIVE_MAX, idle / 3)
        self._alive_at = 0.0

    @property
    def events_lost(self) -> int:
        """Events that were dropped."""
        return self._teller.events_lost

    def note(self, exchange: Exchange, route: Route, took: float, sent: int) -> None:
        """Note an answered request of a pull or push. `took`: seconds; `sent`: bytes of the body."""
        kind, method = route.target.kind, route.request.method
        if kind is _BLOB:
            if method == "GET":
                self._note(exchange, route, "blob", took, sent)
        elif kind is _TAG or kind is _MANIFEST:
            if method in _PULLS_AND_PUSHES:
                self._note(exchange, route, "manifest", took, sent)
        elif kind is _UPLOAD:
            if method not in READS:
                self._note(exchange, route, "upload", took, sent)
        elif kind in _UNPARSED:
            self._note_unparsed(exchange, route, took, sent)

    def _note(self, exchange: Exchange, route: Route, what: str, took: float, sent: int) -> None:
        origin, target, request, principal = exchange.origin, route.target, route.request, exchange.principal
        if exchange.request is not None and exchange.request is not request:
            target = parse_target(exchange.request.path)  # a rule has led it elsewhere
        assert origin is not None
        self._tell(
            (
                *(exchange.started, took, exchange.peer, principal.name, principal.kind),
                exchange.way if route.mirrored is None else "mirror",
                origin.host if origin.port == 443 else _named(origin),
                *(target.repository, request.method, what, target.reference),
                exchange.digest if what == "manifest" else "",
                *(exchange.status, sent, exchange.received, exchange.cache),
                *(exchange.decision, exchange.rule),
            )
        )

    def _note_unparsed(self, exchange: Exchange, route: Route, took: float, sent: int) -> None:
        """Note a request for content that is named in another way, or is hidden in odd spelling."""
        found = _content_of(route.path)
        method, origin, principal = route.request.method, exchange.origin, exchange.principal
        if found is None or origin is None or method not in _PULLS_AND_PUSHES:
            return
        repository, what, reference = found
        if what == "blob" and method == "HEAD":
            return
        self._tell(
            (
                *(exchange.started, took, exchange.peer, principal.name, principal.kind),
                *(exchange.way if route.mirrored is None else "mirror", _named(origin)),
                *(repository[:_TEXT_MAX], method, what, reference[:_TEXT_MAX], ""),
                *(exchange.status, sent, exchange.received, exchange.cache),
                *(exchange.decision, exchange.rule),
            )
        )

    def is_due(self) -> bool:
        """Return whether the requests that are being answered are to be told of."""
        now = time.monotonic()
        if now < self._alive_at:
            return False
        self._alive_at = now + self._alive_every
        return True

    def note_alive(self, exchanges: Iterable[Exchange]) -> None:
        """Note the requests that take long, so that their pulls don't end meanwhile."""
        before = time.monotonic() - self._alive_every
        for exchange in exchanges:
            route = exchange.route
            if exchange.request is None or exchange.origin is None or route is None:
                continue
            if exchange.started < before and route.target.repository:
                self._note(exchange, route, "alive", 0.0, 0)

    def flush(self) -> None:
        """Send what was noted; what is not taken at once is sent a moment later. Never waits."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self._teller.flush():
            self._again = self._loop.call_later(_AGAIN, self.flush)

    def close(self) -> None:
        """Send what was noted, as far as it is taken."""
        if self._again is not None:
            self._again.cancel()
        self._teller.close()


def _content_of(path: str) -> tuple[str, str, str] | None:
    """Return repository, kind (manifest, blob) and reference of what a registry may read a path as."""
    path = path.partition("?")[0]
    for _ in range(_DECODINGS):
        path = unquote(path)
        plain = _SLASHES.sub("/", path)
        root = _ROOT.match(plain)
        # Behind at least one character of a name.
        section = _SECTION.search(plain, root.end() + 1) if root is not None else None
        if root is not None and section is not None and section.end() < len(plain):
            kind = "manifest" if section[1].lower() == "manifests" else "blob"
            return plain[root.end() : section.start()], kind, plain[section.end() :]
    return None


def _named(origin: Origin) -> str:
    return origin.host if origin.port == 443 else f"{origin.host}:{origin.port}"
