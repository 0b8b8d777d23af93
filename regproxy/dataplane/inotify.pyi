from collections.abc import Callable
from typing import Self

from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.reactor import Pollable, Reactor

class Followed:
    eager: bool
    growth: GrowingFile | None
    def close(self) -> None: ...

class Watch(Pollable):
    def __new__(cls, reactor: Reactor) -> Self: ...
    def follow(
        self, fd: int, on_change: Callable[[], object], growth: GrowingFile | None = None
    ) -> Followed: ...
    def close(self) -> None: ...
