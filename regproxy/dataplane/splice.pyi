from typing import Self

from regproxy.dataplane.body import Sink, Source
from regproxy.dataplane.stream import Stream

class Pipe(Source):
    def __new__(cls) -> Self: ...

class SpliceSink(Sink):
    def __new__(cls, target: Stream) -> Self: ...

def live() -> int: ...
