from libc.stdint cimport uint64_t


cdef enum:
    # The unit of presence in a part, in bytes. A power of two.
    BLOCK = 65536


cdef class Extents:
    cdef readonly long long total
    cdef readonly long long written
    cdef readonly int fd
    cdef uint64_t* bits
    cdef size_t words

    cdef long long blocks(self) noexcept
    cdef bint has(self, long long block) noexcept
    cdef long long end_of(self, long long offset) noexcept
    cdef long long next_at(self, long long offset) noexcept
    cdef int mark(self, long long start, long long stop) noexcept
    cdef int note(self, long long written) noexcept
    cdef int refresh(self) noexcept
