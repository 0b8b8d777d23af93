# The interfaces between a stream and the sources and sinks of bodies.

from regproxy.dataplane.posix cimport ssize_t
from regproxy.dataplane.reactor cimport Pollable
from regproxy.dataplane.status cimport Status


cdef class Endpoint(Pollable):
    """The connection that a body comes from, or goes to."""
    cdef int wake(self) except -1
    cdef size_t offer(self, const char* p, size_t n) except? 0
    cdef int resume(self) except -1


cdef class Source:
    """The source of a body that is sent."""
    cdef Status pull(self, Endpoint to, char* p, size_t cap, size_t* n) except Status.EXC
    cdef Status span(self, Endpoint to, int* fd, long* offset, size_t* n) except Status.EXC
    cdef int advance(self, size_t n) except -1
    # Whether drain() works
    cdef bint drains
    cdef Status drain(self, int fd, ssize_t* n) except Status.EXC


cdef class Sink:
    """The sink of a body that is received. push() takes all of it; AGAIN: no more until resume()."""
    cdef readonly str reason
    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC
    # Whether draw() works
    cdef bint draws
    cdef Status draw(self, Endpoint origin, ssize_t* n) except Status.EXC
