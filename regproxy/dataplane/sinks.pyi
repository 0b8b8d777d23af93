from typing import Self

from regproxy.dataplane.body import Sink
from regproxy.dataplane.stream import Stream

class StreamSink(Sink):
    def __new__(cls, target: Stream, chunked: bool = False) -> Self: ...

class BytesSink(Sink):
    def __new__(cls, limit: int) -> Self: ...
    @property
    def data(self) -> bytearray: ...
