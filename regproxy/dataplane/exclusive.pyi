import asyncio
from collections.abc import Callable
from typing import Self

class ExclusiveWatch:
    def __new__(
        cls, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[..., object], *args: object
    ) -> Self: ...
    def close(self) -> None: ...
