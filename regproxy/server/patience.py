"""How long an origin is waited for where there is something to serve instead."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from regproxy.core.errors import UpstreamTimeout

T = TypeVar("T")


async def in_time(answer: Coroutine[Any, Any, T], limit: float) -> T:
    """Await what an origin says, `limit` seconds at most; 0: for as long as that takes.

    Raises UpstreamTimeout, and what the answer raises.
    """
    if not limit:
        return await answer
    try:
        async with asyncio.timeout(limit):
            return await answer
    except TimeoutError:
        raise UpstreamTimeout(f"no answer within {limit:g} s (REGPROXY_STALE_AFTER)") from None
