"""Sinks of received bodies, besides files: another connection, memory."""

from regproxy.dataplane.body cimport Endpoint, Sink
from regproxy.dataplane.growing_file cimport GrowingFile
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


cdef class TeeSink(Sink):
    """Relays a body as a StreamSink does, and keeps a copy of it in a growing file.

    A copy that can't be kept (the disk is full, or the body larger than the file's limit) is given up, and
    the body relayed to its end: see `kept`.
    """

    cdef StreamSink relay
    cdef GrowingFile copy

    def __cinit__(self, StreamSink relay not None, GrowingFile copy not None):
        self.relay = relay
        self.copy = copy
        self.reason = ""

    @property
    def kept(self) -> bool:
        """Whether all bytes so far are in the copy."""
        return self.copy is not None

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef Status status = self.relay.push(origin, p, n)
        if status == Status.FAILED:
            self.reason = self.relay.reason
        elif self.copy is not None:
            # In memory it would hold the client back, and nobody reads it there.
            if self.copy.push(origin, p, n) != Status.OK or self.copy.memory is not None:
                self.copy.fail("it is not kept")
                self.copy = None
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
