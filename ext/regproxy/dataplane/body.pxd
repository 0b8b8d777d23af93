# What a stream, and whoever gives it a body or takes one, know of each other.

from regproxy.dataplane.reactor cimport Pollable
from regproxy.dataplane.status cimport Status


cdef class Endpoint(Pollable):
    """The connection that a body comes from, or goes to."""
    cdef int wake(self) except -1
    cdef size_t offer(self, const char* p, size_t n) except? 0
    cdef int resume(self) except -1


cdef class Source:
    """Where a body that is sent comes from."""
    cdef Status pull(self, Endpoint to, char* p, size_t cap, size_t* n) except Status.EXC
    cdef Status span(self, Endpoint to, int* fd, long* offset, size_t* n) except Status.EXC
    cdef int advance(self, size_t n) except -1


cdef class Sink:
    """Where a body that is received goes. push() takes all of it; AGAIN asks for no more until resume()."""
    cdef readonly str reason
    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC
