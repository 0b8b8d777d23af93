# Bytes that wait, in memory of their own.

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset


# `len` bytes from `data + start` on. All zeros is an empty one.
cdef struct Buf:
    char* data
    size_t start
    size_t len
    size_t cap


cdef inline int buf_append(Buf* b, const char* p, size_t n) except -1:
    cdef size_t cap
    cdef char* grown
    if n == 0:
        return 0
    if b.start and b.start + b.len + n > b.cap:
        memmove(b.data, b.data + b.start, b.len)
        b.start = 0
    if b.len + n > b.cap:
        cap = max(b.cap * 2, b.len + n)
        grown = <char*>realloc(b.data, cap)
        if grown == NULL:
            raise MemoryError
        b.data = grown
        b.cap = cap
    memcpy(b.data + b.start + b.len, p, n)
    b.len += n
    return 0


cdef inline void buf_consume(Buf* b, size_t n) noexcept:
    b.start += n
    b.len -= n
    if b.len == 0:
        # A connection owns memory only for what is waiting.
        free(b.data)
        memset(b, 0, sizeof(Buf))


cdef inline void buf_free(Buf* b) noexcept:
    free(b.data)
    memset(b, 0, sizeof(Buf))
