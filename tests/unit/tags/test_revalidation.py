"""One HEAD of a tag for all who ask: whose failure it is when it fails.

The upstream is a mock: no real registry ends a quota between two requests on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from regproxy.cache.index.index import TagRow
from regproxy.core.errors import Busy, RateLimited, UpstreamError, UpstreamTimeout
from regproxy.fill.fill import CacheRequest
from regproxy.fill.tag_request import TagAsk
from regproxy.http.messages import Request, parse_request
from regproxy.http.origin import Origin
from regproxy.registry.accept import parse_accept
from regproxy.registry.targets import parse_target
from regproxy.tags.claim_files import FileClaims
from regproxy.tags.revalidation import Revalidations
from tests.support.images import MANIFEST

ORIGIN = Origin("https", "reg.test", 443)
PATH = "/v2/app/manifests/latest"
ACCEPT = parse_accept((MANIFEST.encode(),))
ROW = TagRow("", "sha256:" + "a" * 64, MANIFEST, 2, 0.0, ACCEPT.named)
RATE_LIMITED = RateLimited("reg.test: the quota is used up", retry_after=5)


class Upstream:
    """Fails once it is let go on: anonymous requests by `error`, others as UpstreamTimeout."""

    def __init__(self, error: UpstreamError) -> None:
        self.asked: list[bytes | None] = []
        self.go = asyncio.Event()
        self._error = error

    async def fetch(self, origin: Origin, request: Request, method: str, ask: object = None) -> Any:
        who = request.get(b"authorization")
        self.asked.append(who)
        await self.go.wait()
        raise self._error if who is None else UpstreamTimeout("reg.test: too late")

    def release(self, *_: object) -> None:
        raise AssertionError("nothing was answered")

    distrust = release


class Rows:
    """Nothing was dropped."""

    def dropped_since(self, *_: object) -> bool:
        return False


def wanted(token: str = "") -> CacheRequest:
    head = f"HEAD {PATH} HTTP/1.1\r\nHost: reg.test\r\nAccept: {MANIFEST}\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    return CacheRequest(ORIGIN, parse_request(f"{head}\r\n".encode()), parse_target(PATH))


async def outcome(work: Coroutine[Any, Any, object]) -> object:
    try:
        return await work
    except UpstreamError as error:
        return error


@pytest.mark.parametrize(
    "error, others, heads",
    [
        (RATE_LIMITED, UpstreamTimeout, 2),
        (Busy("reg.test: too many at once"), UpstreamTimeout, 2),
        (UpstreamTimeout("reg.test: too late"), UpstreamTimeout, 1),
    ],
    ids=["its quota", "its share", "the registry's fault"],
)
def test_what_fails_for_one_client_alone(
    tmp_path: Path, error: UpstreamError, others: type[UpstreamError], heads: int
) -> None:
    """Two ask together, the first one anonymously. The second has credentials, and a quota of its own."""

    async def test() -> None:
        upstream = Upstream(error)
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        spawn: Callable[[Coroutine[Any, Any, None]], None] = lambda work: tasks.append(  # noqa: E731
            loop.create_task(work)
        )
        claims = FileClaims(tmp_path, b"key", None)
        revalidations = Revalidations(upstream, Rows(), claims, loop, spawn)  # type: ignore[arg-type]
        tag = TagAsk(ACCEPT, lambda: None, row=ROW, shared=True, usable_if_error=True)
        one = loop.create_task(outcome(revalidations.look(wanted(), tag)))
        two = loop.create_task(outcome(revalidations.look(wanted("mine"), tag)))
        while not upstream.asked:
            await asyncio.sleep(0)
        upstream.go.set()
        assert await one is error
        assert type(await two) is others
        assert upstream.asked == [None, b"Bearer mine"][:heads]
        await asyncio.gather(*tasks)

    asyncio.run(test())
