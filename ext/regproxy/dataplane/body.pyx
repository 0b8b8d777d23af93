"""The interfaces between a stream and the sources and sinks of bodies."""

from regproxy.dataplane.posix cimport ssize_t
from regproxy.dataplane.reactor cimport Pollable
from regproxy.dataplane.status cimport Status


cdef class Endpoint(Pollable):
    """The connection that a body comes from, or goes to."""

    cdef int wake(self) except -1:
        """Go on sending: the source has more."""
        raise NotImplementedError

    cdef size_t offer(self, const char* p, size_t n) except? 0:
        """Send up to n bytes that the waiting source would have pulled next; return how many were taken."""
        raise NotImplementedError

    cdef int resume(self) except -1:
        """Go on receiving: the sink takes more again."""
        raise NotImplementedError


cdef class Source:
    """The source of a body that is sent."""

    cdef Status pull(self, Endpoint to, char* p, size_t cap, size_t* n) except Status.EXC:
        """Fill p with up to cap bytes. OK: n > 0; END: it was all, maybe 0; AGAIN, COLD: wake() follows."""
        raise NotImplementedError

    cdef Status span(self, Endpoint to, int* fd, long* offset, size_t* n) except Status.EXC:
        """The same as a piece of a file for sendfile; END: nothing is left."""
        raise NotImplementedError

    cdef int advance(self, size_t n) except -1:
        """Go on by n bytes, which sendfile has sent of the last span."""
        raise NotImplementedError

    cdef Status drain(self, int fd, ssize_t* n) except Status.EXC:
        """Write to a socket itself; n is how much. OK: more is left; END: nothing; FAILED: -errno."""
        raise NotImplementedError


cdef class Sink:
    """The sink of a body that is received."""

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        """Take n bytes; FAILED: `reason` says why, and no more are wanted; AGAIN: resume() follows."""
        raise NotImplementedError

    cdef Status draw(self, Endpoint origin, ssize_t* n) except Status.EXC:
        """Read from the origin's socket itself; n is how much. AGAIN: resume() follows; END: it has ended.

        FAILED: n is -errno of the origin's socket, or 0 where no more are wanted, and `reason` says why.
        """
        raise NotImplementedError
