cdef enum:
    # The bounds of BOUNDS, and one more bucket for larger values
    BUCKETS = 18


cdef class Tally:
    # Since the tally was made
    cdef readonly long long requests
    cdef readonly long long bytes_sent
    cdef readonly long long bytes_saved
    cdef double seconds
    cdef long long buckets[BUCKETS]

    # What take() has given out of it
    cdef long long taken_requests
    cdef long long taken_sent
    cdef long long taken_saved
    cdef double taken_seconds
    cdef long long taken_buckets[BUCKETS]

    cpdef void add(self, long long bytes_sent, double seconds) noexcept
    cpdef void add_saved(self, long long n) noexcept


cdef class Use:
    cdef readonly long long times
    cdef readonly long long sent
    cdef readonly long long saved

    cpdef void add(self, long long times, long long sent, long long saved) noexcept
