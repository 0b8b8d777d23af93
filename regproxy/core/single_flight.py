"""Single-flight: concurrent requests with the same key share one run and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Flights(Generic[_Key, _Value]):
    """At most one run for each key at a time. A waiter may be cancelled: the run goes on for the others."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: dict[_Key, asyncio.Task[_Value]] = {}

    def __contains__(self, key: _Key) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def under_way(self, key: _Key) -> asyncio.Task[_Value] | None:
        """Return the task of the run, None if there is none."""
        return self._tasks.get(key)

    def start(self, key: _Key, run: Callable[[], Coroutine[Any, Any, _Value]]) -> asyncio.Task[_Value]:
        """Return the task of the run, which is started unless one is under way."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(run())

            def ended(done: asyncio.Task[_Value]) -> None:
                if self._tasks.get(key) is done:
                    del self._tasks[key]
                # Retrieved, so that asyncio does not log the error when all waiters have gone.
                if not done.cancelled():
                    done.exception()

            task.add_done_callback(ended)
        return task

    async def join(self, key: _Key, run: Callable[[], Coroutine[Any, Any, _Value]]) -> _Value:
        """Wait for the run of `key` and return or raise its result."""
        return await asyncio.shield(self.start(key, run))

    def close(self) -> None:
        """Cancel every run."""
        for task in tuple(self._tasks.values()):
            task.cancel()
