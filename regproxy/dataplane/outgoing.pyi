from typing import Self, final

from regproxy.dataplane.reactor import Reactor

@final
class Outgoing:
    def __new__(cls, reactor: Reactor, fd: int) -> Self: ...
