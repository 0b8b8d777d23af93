from typing import Self

from regproxy.dataplane.body import Sink
from regproxy.dataplane.growing_file import GrowingFile
from regproxy.dataplane.stream import Stream

class StreamSink(Sink):
    def __new__(cls, target: Stream, chunked: bool = False) -> Self: ...

class TeeSink(Sink):
    def __new__(cls, relay: StreamSink, copy: GrowingFile) -> Self: ...
    @property
    def kept(self) -> bool: ...

class BytesSink(Sink):
    def __new__(cls, limit: int) -> Self: ...
    @property
    def data(self) -> bytearray: ...
