from libc.stdint cimport uint64_t

from regproxy.dataplane.board cimport Board
from regproxy.dataplane.buffer cimport Buf
from regproxy.dataplane.request_ids cimport RequestIds
from regproxy.dataplane.tally cimport Tally, Use


cdef class Answer:
    # What goes out: the head with its Date and empty line, and the body
    cdef readonly bytes head
    cdef readonly bytes body
    # For the handler, where it does not go out at once
    cdef readonly object owner
    cdef Tally tally
    # Of the image, and of the content; None: nobody counts that
    cdef Use image
    cdef Use content
    cdef bint saved
    cdef bint last
    # Until when it is good, in seconds of CLOCK_MONOTONIC; the second (epoch) of its Date, for which alone it
    # is good; and what must not have changed until then
    cdef double until
    cdef long second
    cdef uint64_t generation
    cdef uint64_t epoch
    # The access log's line: what stands before the milliseconds, the peer, the duration, and the end
    cdef bytes before_ms
    cdef bytes before_peer
    cdef bytes before_took
    cdef bytes end
    # Where the request's id is in the head and in the end of the line, -1 for nowhere: both are this object's
    # own, and are written anew for each request
    cdef Py_ssize_t id_in_head
    cdef Py_ssize_t id_in_end

    cdef void name(self, const char* request_id) noexcept


cdef class Answers:
    cdef Board board
    cdef readonly RequestIds ids
    cdef readonly double idle_timeout
    cdef readonly double head_timeout
    cdef readonly bint open
    # How many answers have been sent again
    cdef readonly long long repeated
    cdef uint64_t epoch
    # The board's generation and the epoch when the last look-up began
    cdef uint64_t begun_generation
    cdef uint64_t begun_epoch
    cdef dict scopes
    # Those with answers, how many answers that are, and the bytes of their bodies
    cdef list filled
    cdef readonly size_t kept
    cdef size_t held
    cdef Buf lines
    # Called when many lines wait
    cdef public object on_lines

    cdef int count(self, Answer answer, Use client, bytes peer, double took) except -1
    cdef int _log(self, Answer answer, const char* peer, size_t n, double took) except -1


cdef class Scope:
    cdef readonly Answers answers
    cdef dict known

    cdef Answer find(self, bytes head, double now)
