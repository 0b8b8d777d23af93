from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # The largest batch of a body, in plaintext, for a receiver that took the last one whole: each one that it
    # can take at once saves a wake-up.
    BATCH = 524288
    # A body's first batch: what a receiver that takes nothing leaves waiting.
    FIRST_BATCH = 262144
    # With more bodies than this under way, each has a smaller batch: the last one in a round waits less.
    FEW = 2
    CROWD_BATCH = 131072
    # The batch for a receiver that did not take the last one whole: waiting bytes occupy memory of their own.
    SLOW_BATCH = 65536
    SCRATCH_IN = 262144
    # A batch plus the framing of its TLS records, or a whole handshake flight.
    SCRATCH_OUT = BATCH + 65536


cdef class Pollable:
    """Something with an fd that the reactor watches. It is registered once and leaves by closing its fd."""
    cdef int fd
    cdef uint32_t interest
    cdef uint32_t generation
    cdef Reactor reactor

    cdef int on_events(self, uint32_t events) except -1
    cdef int on_tick(self, uint64_t now) except -1
    cdef int on_crash(self, str reason) except -1


cdef class Reactor:
    # The epoll set, itself watched by the event loop
    cdef int epfd
    cdef readonly object loop
    # Whether streams check their handlers
    cdef readonly bint debug
    cdef void** table
    cdef int table_size
    cdef uint32_t generation
    cdef object _tick_handle

    # Scratch memory, valid within one event only: cipher text in, plaintext in and out, cipher text out
    cdef char* wire_in
    cdef char* plain_in
    cdef char* plain_out
    cdef char* wire_out

    # Time and counters
    cdef uint64_t now
    # How many connections could send on in this round
    cdef int crowd
    cdef readonly long long streams_open
    cdef readonly long long handshakes_done
    cdef readonly long long handshakes_failed
    cdef readonly long long upstream_handshakes_done
    cdef readonly long long upstream_handshakes_failed
    cdef readonly long long wire_bytes_in
    cdef readonly long long wire_bytes_out
    # Connections that were accepted, and events of listeners that brought none
    cdef readonly long long accepted
    cdef readonly long long woken_in_vain

    cdef int _round(self) except -1
    cdef int _dispatch(self, uint64_t key, uint32_t events) except -1
    cdef int hold(self, Pollable item) except -1
    cdef int watch(self, Pollable item, uint32_t interest) except -1
    cdef int _tell(self, Pollable item, uint32_t events) except -1
    cdef int rewatch(self, Pollable item, uint32_t interest) except -1
    cdef int unwatch(self, Pollable item) except -1
    cdef int forget(self, Pollable item) except -1
    cdef int _crash(self, Pollable item, exc) except -1
