"""A fill: one content that clients wait for while this process or another one fetches it."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from msgspec import Struct

from regproxy.cache.blobs import Blob
from regproxy.core.errors import Busy, DigestMismatch, RateLimited, UpstreamError
from regproxy.core.request_context import CURRENT, TraceSpan
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.fill.tag_request import TagAsk
from regproxy.http.messages import Request, Response
from regproxy.http.origin import Origin
from regproxy.policy.sharing import namespace_of
from regproxy.registry.accept import parse_accept
from regproxy.registry.manifests import ManifestType
from regproxy.registry.targets import Target

NO_TYPE: Final = "application/octet-stream"


class UpstreamAnswer(UpstreamError):
    """The origin answered without content: its status, headers and (small) body are passed to the client.

    `hops`: who was asked (`http.hops`), and for how many seconds; "" where that is not known.
    """

    def __init__(
        self, response: Response, body: bytes, origin: Origin, hops: str = "", seconds: float = 0.0
    ) -> None:
        super().__init__(f"{origin.host} answered {response.status}")
        self.response = response
        self.body = body
        self.origin = origin
        self.hops = hops
        self.seconds = seconds


class CacheRequest(Struct, frozen=True):
    """A request for content; where others may share the answer, `request` comes from sharing.shared().

    `own_account`: the proxy asks on its own account, with what some client's request has said: later on, or
    for a client that can't log in at the registry itself. `lends`: configured logins may be used for it.
    `private`: what comes of it is for clients of this repository alone (see policy.access).
    """

    origin: Origin
    request: Request
    target: Target
    own_account: bool = False
    lends: bool = True
    private: bool = False

    @property
    def repository(self) -> str:
        """The repository's name in cache keys: with the namespace that a mirror was asked for."""
        return self.target.repository + namespace_of(self.request)

    @property
    def identity(self) -> tuple[object, ...]:
        """Origin, repository and credentials: clients for which these are equal may share content."""
        return (self.origin, self.repository, self.lends, *self.request.all(b"authorization"))

    @property
    def signature(self) -> tuple[object, ...]:
        """Everything that the origin is told: clients for which it is equal share a refusal."""
        agent = tuple(self.request.all(b"user-agent"))
        return (self.identity, self.own_account, agent, parse_accept(self.request.all(b"accept")))

    @property
    def source(self) -> str:
        """The registry and the namespace there: the source of content, as the meta of a part names it.

        With the repository where that matters.
        """
        within = f"/{self.target.repository}" if self.private else ""
        return f"{self.origin.host}:{self.origin.port}{within}{namespace_of(self.request)}"

    def failed_for_other_client(self, joined: CacheRequest, error: UpstreamError) -> bool:
        """Return whether this request failed because of its own credentials or registry, not `joined`'s."""
        refused = isinstance(error, UpstreamAnswer | RateLimited)
        # What stands before a registry may answer a client that is not let in with a page.
        refused = refused or (self.private and isinstance(error, DigestMismatch))
        other = self.signature != joined.signature
        return (refused and other) or isinstance(error, Busy) or self.origin != joined.origin


class OpenedFill(Struct, frozen=True):
    """A fill whose origin has begun to send `total` bytes, -1 where it did not say how many."""

    growth: GrowingFile
    total: int


class Progress(Protocol):
    """How far a download is: new bytes, and how often it was asked again for the rest."""

    resumes: int

    @property
    def received(self) -> int: ...


class Fill:
    """The fetch of one content. `done` resolves with the content, `opened` before that, with the first head.

    `opened` resolves with None where there is nothing to follow because all of the content is present.

    `tag`: the parameters of a request for a tag; None for content by digest. `media_type`: as the registry
    has told it; `manifest`: the type that the bytes state, None where they are no manifest. `joined`: another
    process fetches it, or has fetched it for us; `foreign`: maybe from another source than it was asked of.
    `request_id`: of the client's request that has begun it, "" where none has.
    `stored`: it is in the store. `span`: None if it is not traced. `asked`: when a client asked last,
    monotonic. `requests`: how many share it. `progress`: of the download by this process.
    """

    __slots__ = (
        "asked",
        "began",
        "done",
        "fetched_from",
        "foreign",
        "joined",
        "manifest",
        "media_type",
        "opened",
        "progress",
        "request_id",
        "requests",
        "seconds",
        "span",
        "stored",
        "tag",
        "wanted",
    )

    def __init__(self, wanted: CacheRequest, tag: TagAsk | None, loop: asyncio.AbstractEventLoop) -> None:
        self.wanted = wanted
        self.tag = tag
        self.opened: asyncio.Future[OpenedFill | None] = loop.create_future()
        self.done: asyncio.Future[Blob] = loop.create_future()
        self.media_type = NO_TYPE
        self.manifest: ManifestType | None = None
        self.fetched_from = ""
        self.seconds = 0.0
        current = CURRENT.get()
        self.span: TraceSpan | None = None
        self.request_id = current.request_id if current is not None else ""
        self.joined = self.foreign = self.stored = False
        self.began = self.asked = time.monotonic()
        self.requests = 1
        self.progress: Progress | None = None

    @property
    def host(self) -> str:
        """The registry that is asked."""
        return self.wanted.origin.host

    @property
    def head(self) -> OpenedFill | None:
        """The origin's head, once it has come, if there is something to follow."""
        opened = self.opened
        return opened.result() if opened.done() and opened.exception() is None else None

    @property
    def _growth(self) -> GrowingFile | None:
        return self.head.growth if self.head is not None else None

    def complete(self, blob: Blob) -> None:
        """Resolve the fill with the content, for all clients that wait."""
        self.done.set_result(blob)
        if not self.opened.done():
            self.opened.set_result(None)

    @property
    def verified(self) -> bool:
        """Whether all bytes are present and the digest has matched."""
        growth = self._growth
        return growth is not None and growth.done

    @property
    def joinable(self) -> bool:
        """Whether a new client can still read all of it; not when its beginning was never stored."""
        growth = self._growth
        return growth is None or growth.whole

    def failed_for_other_client(self, wanted: CacheRequest, error: UpstreamError) -> bool:
        """Ask CacheRequest.failed_for_other_client of the request that began this fill."""
        return self.wanted.failed_for_other_client(wanted, error)

    def fail(self, error: BaseException) -> None:
        """Fail the fill, for all clients that wait."""
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(error)
                # Mark it as retrieved: asyncio would warn if nobody is left to await it.
                future.exception()
