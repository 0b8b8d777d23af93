"""hash_all() waits for the thread that hashes, and for who is told of its end."""

from __future__ import annotations

import asyncio
from typing import cast

from regproxy.dataplane.growing_file import GrowingFile
from regproxy.fill.transfer import hash_all

LOOKS = 1000


class Grown:
    """A growth whose thread has ended just now, a little behind: the loop has yet to tell it so."""

    written = 2

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._hashed, self._looks = 1, 0
        self.catching: asyncio.Future[None] | None = loop.create_future()
        self.catching.add_done_callback(self._caught_up)
        self.catching.set_result(None)

    @property
    def hashed(self) -> int:
        self._looks += 1
        assert self._looks < LOOKS, "nobody else has had a turn"
        return self._hashed

    def _caught_up(self, future: asyncio.Future[None]) -> None:
        self.catching = None

    def catch_up(self) -> None:
        self._hashed = self.written


def test_who_is_told_of_a_thread_that_has_ended_has_a_turn() -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        grown = Grown(loop)
        await hash_all(cast(GrowingFile, grown), loop)
        return grown.hashed

    assert asyncio.run(run()) == Grown.written
