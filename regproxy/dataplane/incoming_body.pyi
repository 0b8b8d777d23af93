from typing import Self, final

from regproxy.dataplane.body import Sink

@final
class IncomingBody:
    def __new__(cls, sink: Sink, framing: str, length: int) -> Self: ...
