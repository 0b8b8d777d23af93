"""Revalidate tags by HEAD, once for all clients that ask at the same time, in all processes.

A HEAD has no body, and registries count it less than a GET, or not at all. So an expired copy is confirmed
by HEAD, and only a tag that has moved is fetched.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from regproxy.cache.index.index import TagKey
from regproxy.core.errors import RegproxyError, UpstreamError
from regproxy.fill.fill import CacheRequest
from regproxy.fill.origin_bodies import Fetcher
from regproxy.fill.tag_request import Held, TagAsk
from regproxy.tags.answers import TagAnswer, TagFailure, TagRefusal, failed_answer, from_json, to_json
from regproxy.tags.claims import TagClaim, TagClaims
from regproxy.tags.keys import RequestKey, look_key
from regproxy.tags.rows import TagRows, concerns, name_of
from regproxy.upstream.connections.connection import ConnectionLost
from regproxy.upstream.fetch import Ask, Fetched

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3  # to get a head, or a body, that does not break off
_PAUSE: Final = 0.2  # seconds before the second attempt, at most


class _Revalidation:
    """One HEAD under way. `asked`: when a client asked last, monotonic."""

    __slots__ = ("asked", "done", "tag", "wanted")

    def __init__(self, wanted: CacheRequest, tag: TagAsk, loop: asyncio.AbstractEventLoop) -> None:
        self.wanted = wanted
        self.tag = tag
        self.asked = time.monotonic()
        self.done: asyncio.Future[TagAnswer | Held] = loop.create_future()

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            # Mark it as retrieved: asyncio would warn if nobody is left to await it.
            self.done.exception()


class Revalidations:
    """The HEADs of tags that are under way in this process. `spawn` runs their tasks."""

    def __init__(
        self,
        upstream: Fetcher,
        rows: TagRows,
        claims: TagClaims,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._upstream = upstream
        self._rows = rows
        self._claims = claims
        self._loop = loop
        self._spawn = spawn
        self._under_way: dict[RequestKey, _Revalidation] = {}

    async def look(self, wanted: CacheRequest, tag: TagAsk) -> TagAnswer | Held:
        """Return the origin's answer, which is in the index by then, or a copy that has become fresh.

        Raises UpstreamError where the origin could not be asked.
        """
        if tag.shared:
            look = self._join(wanted, tag, "")
            try:
                found = await asyncio.shield(look.done)
                if not isinstance(found, TagAnswer) or found.digest or found.asker == self.asker(wanted):
                    return found
            except UpstreamError as error:
                if look.wanted is wanted or not look.wanted.failed_for_other_client(wanted, error):
                    raise
            # Another client's credentials were refused, or their quota is used up; these may be fine.
        return await asyncio.shield(self._join(wanted, tag, self.asker(wanted)).done)

    def asker(self, wanted: CacheRequest) -> str:
        """Return a mark of what a refusal may depend on in the client (its credentials and User-Agent), the
        same in all processes.
        """
        said = (wanted.request.all(name) for name in (b"authorization", b"user-agent"))
        told = [[value.decode("latin-1") for value in each] for each in said]
        return self._claims.mark(json.dumps([wanted.own_account, wanted.lends, *told]))

    def _join(self, wanted: CacheRequest, tag: TagAsk, asker: str) -> _Revalidation:
        key = look_key(wanted, tag.accept, asker, tag.presence)
        look = self._under_way.get(key)
        if look is not None:
            # An answer that another process got before this request must not be used for it.
            look.asked = time.monotonic()
            return look
        look = self._under_way[key] = _Revalidation(wanted, tag, self._loop)
        self._spawn(self._run(look, key))
        return look

    def forget(self, tag: TagKey) -> None:
        """Let no later request join one that began before the tag was dropped, or some tag's content."""
        for key, look in list(self._under_way.items()):
            if concerns(tag, name_of(look.wanted)):
                del self._under_way[key]

    def _leave(self, look: _Revalidation, key: RequestKey) -> None:
        if self._under_way.get(key) is look:
            del self._under_way[key]

    async def _run(self, look: _Revalidation, key: RequestKey) -> None:
        try:
            claim = await self._claims.take(key.text(), lambda: look.asked)
            try:
                await self._ask(look, key, claim)
            finally:
                claim.close()
        except RegproxyError as error:
            # Its traceback would keep every frame's objects alive until the garbage collector runs.
            error.__context__ = error.__cause__ = error.__traceback__ = None
            look.fail(error)
        except asyncio.CancelledError:
            look.fail(UpstreamError("the proxy is shutting down"))
            raise
        except Exception as error:
            log.exception("HEAD of %s failed", look.wanted.target.reference)
            look.fail(UpstreamError(f"internal error: {type(error).__name__}"))
        finally:
            self._leave(look, key)

    async def _ask(self, look: _Revalidation, key: RequestKey, claim: TagClaim) -> None:
        wanted = look.wanted
        answer = from_json(claim.answer)
        digest = answer.digest if isinstance(answer, TagAnswer) else ""
        if answer is not None and not self._rows.dropped_since(wanted, answer.began, digest):
            if isinstance(answer, TagFailure):
                raise answer.error()
            # A refusal holds for equal clients alone; a TagAnswer has its asker with it: see look().
            if isinstance(answer, TagRefusal) and answer.asker == self.asker(wanted):
                raise answer.error(wanted.origin)
            if isinstance(answer, TagAnswer):
                look.done.set_result(answer)
                return
        held = look.tag.fresh()
        if held is not None:
            look.done.set_result(held)
            return
        began = time.monotonic()
        try:
            fetched = await self._head(look)
        except UpstreamError as error:
            failed = failed_answer(error, began, self.asker(wanted))
            if failed is not None:
                claim.publish(to_json(failed), time.monotonic())
            raise
        at = time.monotonic()
        address, direct = fetched.hops, fetched.origin == wanted.origin
        seen = TagAnswer(fetched.response, address, fetched.seconds, began, direct, self.asker(wanted))
        self._upstream.release(fetched.connection, fetched.response)
        entered = self._rows.seen(wanted, look.tag, seen)
        # Later requests ask anew.
        self._leave(look, key)
        look.done.set_result(seen)
        if entered:
            # Other processes must know it before the next of them may ask the origin.
            await self._rows.written()
        claim.publish(to_json(seen), at)

    async def _head(self, look: _Revalidation) -> Fetched:
        wanted = look.wanted
        ask = Ask(own_account=wanted.own_account, lends=wanted.lends, spare=look.tag.usable_if_error)
        # Where a stale copy can be served instead, the client is not kept waiting.
        for attempt in range(1, 1 if look.tag.usable_if_error else ATTEMPTS):
            try:
                return await self._upstream.fetch(wanted.origin, wanted.request, "HEAD", ask)
            except ConnectionLost as error:
                log.info("%s: asked again: %s", wanted.target.reference, error)
            await asyncio.sleep(pause(attempt))
        return await self._upstream.fetch(wanted.origin, wanted.request, "HEAD", ask)


def pause(attempt: int) -> float:
    """Return the seconds before a retry, random so that not all processes retry at once."""
    return _PAUSE * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)
