"""End tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel the tasks, and wait until they have ended; what they raise is dropped."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        # Taken from the task: it would keep the frames that it passed, and all that is open in them, until
        # the garbage collector runs if one of them holds the task (as an asyncio.Timeout does).
        with suppress(asyncio.CancelledError):
            task.exception()
