"""Complete a part that other processes may be filling too: one downloads, the others follow or take over.

The process that has the part's lock downloads (the filler). The others follow the file as it grows; when the
filler is killed, or gives up, one of them goes on from where it stopped.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from regproxy.cache.blobs import Blob, Store
from regproxy.cache.parts import CLAIMED, FAILED, LEFT, VERIFIED, Meta, Part
from regproxy.core.errors import BadResponse, UpstreamError
from regproxy.dataplane.inotify import Watch
from regproxy.fill.download import OTHERS, Downloads, failure
from regproxy.fill.fill import Fill, OpenedFill
from regproxy.fill.follower import SOON, Following, FollowOutcome, alone
from regproxy.fill.provenance import Provenance
from regproxy.registry.manifests import MANIFEST_MAX
from regproxy.registry.targets import Kind

log = logging.getLogger(__name__)


class PartFiller:
    """Completes fills of content by digest.

    `patience`: seconds without any progress of another process, after which this one downloads by itself.
    """

    def __init__(
        self,
        store: Store,
        downloads: Downloads,
        watch: Watch | None,
        patience: float,
        provenance: Provenance,
    ) -> None:
        self._store = store
        self._provenance = provenance
        self._downloads = downloads
        self._watch = watch
        self._patience = patience

    async def fill(self, fill: Fill) -> None:
        """Complete a fill of content by digest: claim its part, and download or follow it until it is done.

        Raises RegproxyError.
        """
        target = fill.wanted.target
        limit = 0 if target.kind is Kind.BLOB else MANIFEST_MAX
        source = ""
        while True:
            part = self._store.claim(target.reference, limit=limit, source=source)
            if part.mine:
                blob = self._stored(fill)
                if blob is not None:
                    # Another process has stored it since this client asked.
                    self._store.abort(part)
                    self._stored_elsewhere(fill, blob)
                    return
                if await self._go_on(fill, part):
                    return
            else:
                try:
                    if await self._follow(fill, part):
                        return
                except _Foreign:
                    source = fill.wanted.source
                    continue
            # The process that is in the way has its turn first.
            await asyncio.sleep(SOON)

    async def _go_on(self, fill: Fill, part: Part) -> bool:
        """Download a part that this process has the lock of, from the end of its last filler's good bytes.

        False: what is there can't be used, or came to nothing, and the part has to be claimed anew. Raises
        UpstreamError, also where a client was sent bytes that turn out not to be known to be good.
        """
        fill.joined = False
        growth = part.growth
        try:
            if part.path is not None:
                meta = part.read()
                found = meta is not None and (part.size or meta.mapped)
                if meta is not None and found and self._take_over(fill, part, meta):
                    _hear(fill, meta)
                    fill.foreign = meta.host != fill.wanted.source
                elif growth.written or growth.extents is not None:
                    # A growth can't shrink, and its readers were given bytes that are not known to be right.
                    if fill.opened.done():
                        raise UpstreamError("the process that fetched it has given it up")
                    self._store.leave(part)
                    return False
                elif (part.size or self._is_foreign(fill, meta)) and part.removed():
                    # Other processes may still read it: it must not change under them.
                    self._store.leave(part)
                    return False
                else:
                    part.restart()
                    part.write(Meta(CLAIMED, host=fill.wanted.source))
        except OSError as error:
            self._store.relay(part, error.errno or errno.EIO)
        resumed = (growth.written > 0 or growth.extents is not None) and not fill.opened.done()
        try:
            await self._downloads.run(fill, part)
        except BadResponse as error:
            if resumed and not fill.opened.done():
                # No client has seen a byte of it, and the whole may come right where the rest did not.
                log.info("%s is fetched anew: %s", fill.wanted.target.reference, error)
                return False
            raise
        return True

    async def _follow(self, fill: Fill, part: Part) -> bool:
        """Follow the part while another process fills it; False: nothing came of it, try again."""
        fill.joined = True
        growth = part.growth
        try:
            following = Following(part, self._watch, self._patience)
            outcome = await following.run(
                lambda meta: self._opened_elsewhere(fill, part, meta),
                lambda: self._stored_fd(fill),
                lambda meta: self._refuse_foreign(fill, meta),
            )
            if outcome is FollowOutcome.OURS:
                meta = following.meta
                if meta is not None and meta.state == LEFT and _fails_too(fill, meta):
                    # A later request resumes it; the clients of this fill get the failure they waited for.
                    raise failure(meta.word, meta.reason)
                return await self._go_on(fill, part)
            if outcome is FollowOutcome.STALLED and not fill.opened.done():
                fill.joined = False
                await self._downloads.run(fill, self._store.in_memory())
                return True
            if outcome in (FollowOutcome.ALONE, FollowOutcome.STALLED) and fill.opened.done():
                alone(part)
                fill.joined = False
                await self._downloads.run(fill, part)
                return True
            return self._followed(fill, part, outcome, following.meta)
        except BaseException as error:
            growth.fail(str(error) or type(error).__name__)
            # The error's traceback may keep the part alive for a while: release it now.
            self._store.leave(part)
            raise
        finally:
            part.close()

    def _stored(self, fill: Fill) -> Blob | None:
        """Return the stored content, if it may be had without asking the fill's registry for it."""
        blob = self._store.lookup(fill.wanted.target.reference)
        if blob is None or not self._provenance.covers(fill.wanted.origin, blob.digest):
            return None
        return blob

    def _stored_fd(self, fill: Fill) -> int | None:
        blob = self._stored(fill)
        return blob.file.fd if blob is not None else None

    def _followed(self, fill: Fill, part: Part, outcome: FollowOutcome, meta: Meta | None) -> bool:
        """Complete or fail the fill as another process did; False: neither, it has left nothing to use."""
        digest = fill.wanted.target.reference
        if outcome is FollowOutcome.STORED:
            blob = self._stored(fill)
            if blob is not None:
                self._stored_elsewhere(fill, blob)
                return True
        elif outcome is FollowOutcome.UNSTORED:
            fill.complete(self._store.unstored(part, digest))
            return True
        elif outcome is FollowOutcome.FAILED:
            self._failed_elsewhere(fill, meta)
        return False

    def _opened_elsewhere(self, fill: Fill, part: Part, meta: Meta) -> None:
        part.growth.expect(meta.total)
        _hear(fill, meta)
        fill.fetched_from, fill.seconds = meta.address, meta.seconds
        fill.foreign = meta.host != fill.wanted.source
        if not fill.opened.done():
            fill.opened.set_result(OpenedFill(part.growth, meta.total))

    def _stored_elsewhere(self, fill: Fill, blob: Blob) -> None:
        fill.joined = fill.foreign = True
        fill.complete(blob)

    def _refuse_foreign(self, fill: Fill, meta: Meta) -> None:
        """Raise _Foreign where a part's filler asks another registry: it may be slow, send wrong content, or
        send what this one's clients may not have.
        """
        good = meta.state == VERIFIED and not self._provenance.guarded
        if not good and meta.host != fill.wanted.source and not fill.opened.done():
            raise _Foreign

    def _is_foreign(self, fill: Fill, meta: Meta | None) -> bool:
        """Return whether a part was another source's, whose clients may not have what this one sends."""
        return self._provenance.guarded and meta is not None and meta.host != fill.wanted.source

    def _take_over(self, fill: Fill, part: Part, meta: Meta) -> bool:
        """Take over what another filler has left; False: that can't be trusted, or is not for everybody."""
        if self._is_foreign(fill, meta) and not fill.opened.done():
            return False
        return _take_over(fill, part, meta)

    def _failed_elsewhere(self, fill: Fill, meta: Meta | None) -> None:
        """Fail as the filler did, where its failure holds for this fill or clients were sent part of it."""
        assert meta is not None
        if fill.opened.done() or _fails_too(fill, meta):
            raise failure(meta.word, meta.reason)


class _Foreign(Exception):
    """The part is being filled from another registry, and is not verified yet."""


def _fails_too(fill: Fill, meta: Meta) -> bool:
    """Return whether the filler's failure holds for this fill too: it asked the same registry, and its
    credentials were not at fault.
    """
    others = meta.word in OTHERS or (fill.wanted.private and meta.word == "digest")
    return meta.host == fill.wanted.source and not others


def _hear(fill: Fill, meta: Meta) -> None:
    """Take over the media type that the filler was told, if it asked the same registry."""
    if meta.host == fill.wanted.source:
        fill.media_type = meta.media_type or fill.media_type


def _take_over(fill: Fill, part: Part, meta: Meta) -> bool:
    """Take over the bytes that another filler has left, as its meta describes them; False: they can't be
    trusted.
    """
    growth = part.growth
    if meta.state in (CLAIMED, FAILED):
        return False
    if meta.state != VERIFIED and meta.host not in ("", fill.wanted.source) and not fill.opened.done():
        # From another registry: if the bytes are wrong, this registry's clients would be cut off for them.
        return False
    size = meta.size if meta.state == VERIFIED else meta.total
    if (meta.state == VERIFIED and part.size != size) or (not meta.mapped and part.size > size >= 0):
        # It has another size than was verified, or more bytes than the origin declared.
        return False
    if meta.state == VERIFIED:
        growth.gather()
    elif meta.mapped:
        return part.take_map(meta.total)
    growth.follow(part.size)
    growth.expect(size)
    return True
