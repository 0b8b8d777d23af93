"""Counting without Python objects, in C integers: requests, bytes and a histogram of durations (Tally), what
use was made of something (Use).
"""

cimport cython

# Seconds; a bucket holds durations up to its bound. From a hit in memory to a large blob over a slow line.
BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)

cdef double[BUCKETS - 1] limits
cdef int position
if len(BOUNDS) != BUCKETS - 1:
    raise ImportError("BUCKETS in tally.pxd does not fit BOUNDS")
for position in range(BUCKETS - 1):
    limits[position] = BOUNDS[position]


@cython.final
cdef class Tally:
    """The counts of one set of labels. Adding takes nanoseconds; take() moves what is new elsewhere."""

    cpdef void add(self, long long bytes_sent, double seconds) noexcept:
        """Count one request that took `seconds` and was answered with `bytes_sent` bytes of body."""
        cdef int i = 0
        # Also for what is not a number: one such sum would spoil the histogram for good.
        if not seconds > 0:
            seconds = 0
        while i < BUCKETS - 1 and seconds > limits[i]:
            i += 1
        self.buckets[i] += 1
        self.seconds += seconds
        self.requests += 1
        self.bytes_sent += bytes_sent

    cpdef void add_saved(self, long long n) noexcept:
        """Count `n` bytes of those sent that did not have to be fetched for it."""
        self.bytes_saved += n

    def take(self):
        """Return (requests, bytes_sent, bytes_saved, seconds, buckets) since the last take; None: no news.

        `buckets` are counts of BOUNDS' buckets and of what is above, each without the ones below it.
        """
        if self.requests == self.taken_requests and self.bytes_saved == self.taken_saved:
            return None
        cdef int i
        counts = []
        for i in range(BUCKETS):
            counts.append(self.buckets[i] - self.taken_buckets[i])
            self.taken_buckets[i] = self.buckets[i]
        delta = (
            self.requests - self.taken_requests,
            self.bytes_sent - self.taken_sent,
            self.bytes_saved - self.taken_saved,
            self.seconds - self.taken_seconds,
            counts,
        )
        self.taken_requests = self.requests
        self.taken_sent = self.bytes_sent
        self.taken_saved = self.bytes_saved
        self.taken_seconds = self.seconds
        return delta

    def __repr__(self):
        return f"<Tally requests={self.requests} bytes_sent={self.bytes_sent} bytes_saved={self.bytes_saved}>"


@cython.final
cdef class Use:
    """How often something was used, and the bytes that were sent for it: of those, `saved` were not fetched.

    Unlike a Tally it is for names of which there are many.
    """

    cpdef void add(self, long long times, long long sent, long long saved) noexcept:
        """Count."""
        self.times += times
        self.sent += sent
        self.saved += saved

    def take(self):
        """Return (times, sent, saved) since the last take; None: no news."""
        if self.times == 0 and self.sent == 0:
            return None
        taken = (self.times, self.sent, self.saved)
        self.times = self.sent = self.saved = 0
        return taken

    def __repr__(self):
        return f"<Use times={self.times} sent={self.sent} saved={self.saved}>"
