from libc.stdint cimport uint64_t

cimport cython

from regproxy.dataplane.body cimport Endpoint, Source
from regproxy.dataplane.buffer cimport Buf
from regproxy.dataplane.reactor cimport Reactor
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.tls cimport Conn

cdef enum:
    # A relay stops reading its source when this much waits for a slow receiver.
    OUT_HIGH = 262144


@cython.final
cdef class Outgoing:
    # The connection: sources wake it, and it is told of a peer that is gone. None: it is closed
    cdef Endpoint stream
    cdef Reactor reactor
    cdef int fd
    cdef Conn tls

    # What the kernel did not take
    cdef Buf waiting
    # The size of the answer in memory that was sent last: so much may wait in addition
    cdef size_t whole
    # The rest of the body, and whether it has nothing now
    cdef Source source
    cdef bint source_waiting
    # Why it has failed
    cdef str reason
    cdef bint chunked
    # Whether the receiver left some of the last batch, or took it whole; neither at a body's beginning
    cdef bint slow
    cdef bint swift

    # The connection ends behind what is to be sent
    cdef bint closing
    # On a socket's own BIO: the closure alert has yet to be sent; how many bytes the peer had not confirmed
    # when we looked last, 0 where close() need not wait
    cdef bint alert_due
    cdef int leaving
    # The peer is gone: nothing can be sent any more
    cdef bint dead

    cdef long long plain_sent
    # When the receiver has taken nothing for too long, and what that is, in milliseconds; 0: never
    cdef uint64_t deadline
    cdef long timeout

    cdef int send_head(self, bytes head, bytes body, Source source, bint chunked, bint last) except -1
    cdef int emit_all(self, const char* p, size_t n, bint last) except -1
    cdef int emit_chunks(self, const char* p, size_t n) except -1
    cdef int emit(self, const char* p, size_t n, bint last) except -1
    cdef int transmit(self, const char* p, size_t n) except -1
    cdef size_t offer(self, const char* p, size_t n) except? 0
    cdef bint flush(self) except -1
    cdef Status pump(self) except Status.EXC
    cdef bint confirmed(self) noexcept
    cdef int stop(self) except -1
    cdef int close(self) noexcept

    cdef bint _sends_files(self) noexcept
    cdef int _keep(self, const char* p, size_t n) except -1
    cdef bint _ended(self) except -1
    cdef Status _pump_batch(self) except Status.EXC
    cdef Status _pump_file(self) except Status.EXC
    cdef Status _pump_drain(self) except Status.EXC
    cdef Status _source_failed(self, str reason) except Status.EXC
    cdef int _failed(self, str reason) except -1

    cdef inline bint all_sent(self) noexcept:
        """Return whether the kernel has all that there is so far, and no source has more."""
        return self.waiting.len == 0 and self.source is None

    cdef inline void renew(self) noexcept:
        """Give the receiver its time anew."""
        self.deadline = self.reactor.now + self.timeout if self.timeout else 0

    cdef inline bint sending(self) noexcept:
        """Return whether the kernel is to say when it takes more; start or stop the receiver's time."""
        cdef bint more = self.waiting.len > 0 or self.alert_due
        more = more or (self.source is not None and not self.source_waiting)
        if more or self.leaving:
            if not self.deadline:
                self.renew()
        else:
            # Nothing waits for the receiver: a slow origin, or disk, is not its fault.
            self.deadline = 0
        return more and not self.dead
