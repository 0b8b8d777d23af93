"""Reloads that the admin API asks for: a worker's question to the supervisor, and the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from regproxy.process import boot
from regproxy.process.boot import ControlChannel
from regproxy.process.children import Child

_SECONDS: Final = 120.0  # a first worker has 30 s to come up, and then each other
_REASON_MAX: Final = 2000  # characters


class Askers:
    """The supervisor's side: who waits for the reload under way, and for the next one."""

    def __init__(self) -> None:
        self._now: list[tuple[Child, str]] = []
        self._next: list[tuple[Child, str]] = []

    def take(self, child: Child) -> bool:
        """Note what a child has asked for; return whether that was anything."""
        asked, child.reloads = child.reloads, []
        self._next += [(child, number) for number in asked]
        return bool(asked)

    def begin(self) -> None:
        """Note that a reload begins: it is for all who have asked before."""
        self.answer("failed", "another reload has begun")
        self._now, self._next = self._next, []

    def answer(self, result: str, reason: str = "") -> None:
        """Say what became of the reload. `result`: as the metric regproxy_reloads_total has it."""
        askers, self._now = self._now, []
        for child, number in askers:
            child.say(boot.RELOADED, number, result, json.dumps(reason[:_REASON_MAX]))


class Reloads:
    """A worker's side."""

    def __init__(self, control: ControlChannel) -> None:
        self._control = control
        self._waiting: dict[str, asyncio.Future[tuple[str, str]]] = {}
        self._number = 0

    async def ask(self) -> tuple[str, str]:
        """Have the configuration read again; return what became of it, and why.

        "done", "refused" or "failed", as the supervisor says; "unknown": it has not said so in time.
        """
        self._number += 1
        number = str(self._number)
        answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._control.say(boot.RELOAD, number)
            async with asyncio.timeout(_SECONDS):
                return await answer
        except TimeoutError:
            return "unknown", f"it is not over after {_SECONDS:g} s; the log will say how it ends"
        finally:
            del self._waiting[number]

    def hear(self, word: str) -> bool:
        """Take an answer of the supervisor; False: this is none."""
        words = word.split(" ", 3)
        if words[0] != boot.RELOADED or len(words) != 4:
            return False
        answer = self._waiting.get(words[1])
        if answer is not None and not answer.done():
            answer.set_result((words[2], json.loads(words[3])))
        return True

    def give_up(self) -> None:
        """Tell all who wait that there will be no answer."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(("unknown", "the supervisor has died"))
