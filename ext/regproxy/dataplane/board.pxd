from regproxy.dataplane.posix cimport uint64_t


cdef class Board:
    cdef uint64_t* counters

    cdef uint64_t now(self) noexcept
