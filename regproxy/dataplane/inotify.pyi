from collections.abc import Callable
from typing import Self

from regproxy.dataplane.growing_file import Growth
from regproxy.dataplane.reactor import Pollable, Reactor

class Followed:
    eager: bool
    growth: Growth | None
    def close(self) -> None: ...

class Watch(Pollable):
    def __new__(cls, reactor: Reactor) -> Self: ...
    def follow(self, fd: int, on_change: Callable[[], object], growth: Growth | None = None) -> Followed: ...
    def close(self) -> None: ...
