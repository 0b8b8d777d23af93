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
    # What the checks of this part's numbers depend on
    cdef uint64_t part

    cdef int _belong(self, long long device, long long inode) noexcept
    cdef uint64_t check(self, uint64_t value, size_t place) noexcept
    cdef long long blocks(self) noexcept
    cdef bint has(self, long long block) noexcept
    cdef long long end_of(self, long long offset) noexcept
    cdef long long next_at(self, long long offset) noexcept
    cdef int _write_words(self, size_t first, size_t count) noexcept
    cdef int mark(self, long long start, long long stop) noexcept
    cdef int note(self, long long written) noexcept
    cdef int refresh(self) noexcept
