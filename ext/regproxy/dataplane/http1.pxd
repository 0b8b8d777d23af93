# HTTP/1.1 framing (RFC 9112) over bytes alone: no connection, nothing is read or written.

from libc.stdio cimport snprintf

from regproxy.dataplane.posix cimport memchr

cdef enum:
    HEAD_PARTIAL = 0
    HEAD_TOO_LARGE = -1
    # What write_chunk_size needs.
    CHUNK_SIZE_MAX = 24


cdef enum ChunkState:
    CHUNK_SIZE
    CHUNK_EXTENSION
    CHUNK_SIZE_LF
    CHUNK_DATA
    CHUNK_DATA_CR
    CHUNK_DATA_LF
    CHUNK_TRAILER_START
    CHUNK_TRAILER
    CHUNK_TRAILER_LF
    CHUNK_LAST_LF
    # From here on nothing is taken any more.
    CHUNK_END
    CHUNK_MALFORMED


# Where in a chunked body we are. All zeros is its beginning.
cdef struct ChunkDecoder:
    ChunkState state
    # Bytes of data that the chunk has yet to bring; while its size is read, the number so far
    long long remaining
    # Length so far of what has a limit: the digits of a size, an extension, the trailer
    long length
    # CHUNK_MALFORMED: what is wrong
    const char* error


cdef size_t decode_chunks(ChunkDecoder* d, char* p, size_t n, char** run, size_t* run_len) noexcept nogil
cdef object parse_connect(const char* p, size_t n)
cdef bytes find_field(const char* p, size_t n, const char* name, size_t name_len)


cdef inline long find_head_end(const char* p, size_t n, size_t start) noexcept nogil:
    """Return the index after the blank line, or -1. A bare LF LF ends a head too: the parser refuses it."""
    cdef size_t i = start
    cdef const char* lf
    while i < n:
        lf = <const char*>memchr(p + i, 10, n - i)
        if lf == NULL:
            return -1
        i = lf - p + 1
        if i < n and p[i] == 10:
            return i + 1
        if i + 1 < n and p[i] == 13 and p[i + 1] == 10:
            return i + 2
    return -1


cdef inline size_t empty_lines(const char* p, size_t n) noexcept nogil:
    """Return the length of the bytes to ignore before a start line (RFC 9112 section 2.2)."""
    cdef size_t i = 0
    while i < n and (p[i] == 13 or p[i] == 10):
        i += 1
    return i


cdef inline long cut_head(const char* p, size_t n, size_t limit, size_t* scanned) noexcept nogil:
    """Length of the head that p begins with, HEAD_PARTIAL, or HEAD_TOO_LARGE: there is none within `limit`.

    `scanned` says where to look on, 0 for a new head: what has been looked at is not looked at again.
    """
    cdef long end = find_head_end(p, n, scanned[0])
    if end > <long>limit or (end < 0 and n > limit):
        return HEAD_TOO_LARGE
    if end < 0:
        # The blank line may be split: look again at its possible first bytes.
        scanned[0] = n - 3 if n > 3 else 0
        return HEAD_PARTIAL
    scanned[0] = 0
    return end


cdef inline size_t write_chunk_size(char* line, size_t n) noexcept nogil:
    """Write the line before a chunk of n bytes; return its length."""
    return snprintf(line, CHUNK_SIZE_MAX, b"%zx\r\n", n)
