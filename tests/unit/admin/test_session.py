"""Connections to the admin port: tasks of requests that follow each other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from regproxy.admin.session import AdminSession


class Stream:
    """A stream that sends nothing."""

    handler: object = None

    def set_send_timeout(self, seconds: float) -> None:
        """Do nothing."""

    def next_head(self, idle: float, head: float) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


def test_a_request_that_was_pipelined_is_cancelled_with_its_client() -> None:
    """The end of the task before must not forget that of the next one."""

    async def run() -> None:
        port: Any = SimpleNamespace(loop=asyncio.get_running_loop())
        stream: Any = Stream()
        session = AdminSession(port, stream)

        async def first() -> None:
            session._begin(second())  # as on_sent() has it, where the next head is here already

        async def second() -> None:
            await asyncio.Event().wait()

        session._begin(first())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task = session._task
        assert task is not None and not task.done()
        session.on_closed("gone")
        await asyncio.wait((task,), timeout=20)
        assert task.cancelled()

    asyncio.run(run())
