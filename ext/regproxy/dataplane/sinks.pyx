"""Sinks of received bodies, besides files: another connection, memory."""

from regproxy.dataplane.body cimport Endpoint, Sink
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.stream cimport Stream


cdef class StreamSink(Sink):
    """Relays a body to another stream; `chunked` frames it anew. A slow receiver holds the sender back."""

    cdef Stream target
    cdef bint chunked

    def __cinit__(self, Stream target not None, bint chunked=False):
        self.target = target
        self.chunked = chunked
        self.reason = ""

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef Status status
        if self.chunked:
            status = self.target.write_chunk(origin, p, n)
        else:
            status = self.target.write(origin, p, n)
        if status == Status.FAILED:
            self.reason = "the receiver is gone"
        return status


cdef class BytesSink(Sink):
    """Collects a small body, at most `limit` bytes."""

    cdef readonly bytearray data
    cdef size_t limit

    def __cinit__(self, size_t limit):
        self.data = bytearray()
        self.limit = limit
        self.reason = ""

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        if len(self.data) + n > self.limit:
            self.reason = f"the body is larger than {self.limit} bytes"
            return Status.FAILED
        self.data += p[:n]
        return Status.OK
