"""Identifiers of requests: 32 hex digits, unlike any of another process or start.

The first 20 are random, and all of a process's ids have them; the last 12 count its requests.
"""

import os

from libc.string cimport memcpy

cdef char[512] PAIRS  # the two hex digits of each byte


cdef void _fill_pairs() noexcept:
    cdef const char* digits = b"0123456789abcdef"
    cdef int byte
    for byte in range(256):
        PAIRS[2 * byte] = digits[byte >> 4]
        PAIRS[2 * byte + 1] = digits[byte & 15]


_fill_pairs()


cdef class RequestIds:
    """The ids of one process. Use from one thread."""

    def __cinit__(self):
        cdef bytes fixed = os.urandom(ID_FIXED // 2).hex().encode()
        memcpy(self.text, <const char*>fixed, ID_FIXED)
        self.advance()

    cdef void advance(self) noexcept nogil:
        """Put the next id into `text`."""
        cdef uint64_t rest = self.count
        cdef int at = ID_SIZE
        self.count += 1
        while at > ID_FIXED:
            at -= 2
            memcpy(self.text + at, PAIRS + 2 * (rest & 255), 2)
            rest >>= 8

    def next(self) -> bytes:
        """Return an id that no other request has."""
        self.advance()
        return self.text[:ID_SIZE]

    @property
    def last(self) -> bytes:
        """The id that was given last."""
        return self.text[:ID_SIZE]
