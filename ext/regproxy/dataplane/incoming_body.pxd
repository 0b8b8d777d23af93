cimport cython

from regproxy.dataplane.body cimport Endpoint, Sink
from regproxy.dataplane.http1 cimport ChunkDecoder
from regproxy.dataplane.status cimport Status


cdef enum FramingKind:
    FRAMING_LENGTH
    FRAMING_CHUNKED
    FRAMING_EOF


@cython.final
cdef class IncomingBody:
    cdef Sink sink
    # The sink takes no more for now
    cdef bint held
    cdef FramingKind framing
    cdef ChunkDecoder chunks
    # Bytes of a body with a length that are still to come
    cdef long long remaining
    # Why it was given up
    cdef str reason

    cdef Status feed(self, Endpoint origin, char* p, size_t n, size_t* used) except Status.EXC
    cdef str missing(self, bint clean)

    cdef Status _feed_chunked(self, Endpoint origin, char* p, size_t n, size_t* used) except Status.EXC
    cdef Status _give(self, Endpoint origin, const char* p, size_t n) except Status.EXC

    cdef inline bint is_empty(self) noexcept:
        """Return whether no byte is left of a length."""
        return self.framing == FRAMING_LENGTH and self.remaining == 0

    cdef inline bint draws(self) noexcept:
        """Return whether the sink may read from the socket itself: the body ends with the connection."""
        return self.framing == FRAMING_EOF and self.sink.draws


cdef inline bint is_held(IncomingBody body) noexcept:
    """Return whether there is a body whose sink takes no more for now; `body` may be None."""
    return body is not None and body.held
