from collections.abc import Callable
from typing import Self

from regproxy.dataplane.reactor import Pollable, Reactor
from regproxy.dataplane.stream import Stream

class Listener(Pollable):
    def __new__(
        cls,
        reactor: Reactor,
        fd: int,
        on_accept: Callable[[Stream], object],
        front: bool = True,
        head_limit: int = 32768,
        shared: bool = False,
        balances: Callable[[str], bool] | None = None,
        on_refused: Callable[[str, str], object] | None = None,
    ) -> Self: ...
    @property
    def exclusive(self) -> bool: ...
    def close(self) -> None: ...
