# What all harnesses share: inputs that may be long, and the end of a run that has found something.

from libc.stdio cimport fflush, fprintf, stderr
from libc.stdlib cimport abort
from libc.string cimport memset

cdef extern from "<sanitizer/asan_interface.h>" nogil:
    void ASAN_POISON_MEMORY_REGION(const void* p, size_t n)
    void ASAN_UNPOISON_MEMORY_REGION(const void* p, size_t n)

cdef enum:
    # What is behind an input in its memory, and may not be touched
    MARGIN = 64
    # Of an input once it is expanded: beyond every limit of what is fuzzed
    EXPANDED_MAX = 20480
    REPEAT = 0xfe


cdef inline void wrong(const char* what) noexcept nogil:
    """End the run: libFuzzer keeps the input that was at work."""
    fprintf(stderr, b"WRONG: %s\n", what)
    fflush(stderr)
    abort()


cdef inline size_t expand(const unsigned char* data, size_t n, char* out) noexcept nogil:
    """Write an input to out, EXPANDED_MAX bytes, with its repetitions; return the length.

    REPEAT, a byte, k: that byte 16 * k times. What is too long for a fuzzer to find by itself is near then.
    """
    cdef size_t i = 0, filled = 0, k
    while i < n and filled < EXPANDED_MAX:
        if data[i] == REPEAT and i + 2 < n:
            k = min(<size_t>16 * data[i + 2], EXPANDED_MAX - filled)
            memset(out + filled, data[i + 1], k)
            i += 3
        else:
            k = 1
            out[filled] = <char>data[i]
            i += 1
        filled += k
    return filled


cdef inline void fence(const char* p, size_t n) noexcept nogil:
    """Let whoever touches the bytes behind the n of p end the run; MARGIN have to be there."""
    ASAN_UNPOISON_MEMORY_REGION(p, n)
    ASAN_POISON_MEMORY_REGION(p + n, MARGIN)


cdef inline void unfence(const char* p, size_t n) noexcept nogil:
    ASAN_UNPOISON_MEMORY_REGION(p, n + MARGIN)
