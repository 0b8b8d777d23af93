"""A reload that is asked for, and what became of it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from regproxy.process.boot import ControlChannel
from regproxy.process.reloads import Askers, Reloads


class Asker:
    """A child, as Askers see it."""

    def __init__(self, *numbers: str) -> None:
        self.reloads = list(numbers)
        self.told: list[tuple[str, ...]] = []

    def say(self, *words: str) -> None:
        self.told.append(words)


def test_who_is_answered() -> None:
    askers = Askers()
    first: Any = Asker("1", "2")
    second: Any = Asker("7")
    assert askers.take(first)
    assert not askers.take(first)
    askers.begin()
    askers.take(second)
    askers.answer("refused", 'no "such"\nthing')
    told = [("reloaded", number, "refused", '"no \\"such\\"\\nthing"') for number in ("1", "2")]
    assert (first.told, second.told) == (told, [])
    askers.answer("done")
    assert second.told == []
    askers.begin()
    askers.answer("done")
    assert second.told == [("reloaded", "7", "done", '""')]


def test_one_reload_in_the_place_of_another() -> None:
    askers = Askers()
    first: Any = Asker("1")
    askers.take(first)
    askers.begin()
    askers.begin()
    assert [words[2] for words in first.told] == ["failed"]


def test_a_workers_side() -> None:
    async def run() -> None:
        ours, supervisors = socket.socketpair()
        control = ControlChannel(ours.detach())
        try:
            reloads = Reloads(control)
            asking = [asyncio.create_task(reloads.ask()) for _ in range(3)]
            await asyncio.sleep(0)
            assert supervisors.recv(100) == b"reload 1\nreload 2\nreload 3\n"
            assert reloads.hear('reloaded 2 refused "a b"')
            assert reloads.hear('reloaded 9 done ""')
            assert not reloads.hear("retire")
            assert await asking[1] == ("refused", "a b")
            reloads.give_up()
            assert (await asking[0])[0] == "unknown"
            asking[2].cancel()
        finally:
            control.close()
            supervisors.close()

    asyncio.run(run())
