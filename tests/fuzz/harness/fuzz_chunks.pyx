"""The chunked coding: in one piece, cut anywhere, and by a decoder that follows the grammar."""

from libc.string cimport memcmp, memcpy, memset

from regproxy.dataplane.http1 cimport CHUNK_END, CHUNK_MALFORMED, ChunkDecoder, decode_chunks

from support cimport EXPANDED_MAX, MARGIN, expand, fence, unfence, wrong

cdef enum:
    DIGITS_MAX = 15
    LINES_MAX = 8192
    PARTIAL = -1
    WHOLE = -2
    BROKEN = -3

cdef struct Cursor:
    const char* p
    size_t n
    size_t i

cdef struct Decoded:
    char* data
    size_t len
    size_t used
    int end

cdef char room[EXPANDED_MAX]
# Where it is decoded, which changes it
cdef char copy[EXPANDED_MAX + MARGIN]
cdef char whole[EXPANDED_MAX]
cdef char pieces[EXPANDED_MAX]
cdef char expected[EXPANDED_MAX]


def address_of(str name):
    """Return where a target is, for the driver."""
    return <size_t><void*>decode


# --- the decoder at work ---------------------------------------------------------------------------------

cdef void feed(ChunkDecoder* d, const char* p, size_t n, Decoded* out) noexcept nogil:
    cdef char* run
    cdef size_t run_len, at = 0, used
    memcpy(copy, p, n)
    fence(copy, n)
    while at < n and d.state < CHUNK_END:
        used = decode_chunks(d, copy + at, n - at, &run, &run_len)
        if used == 0:
            wrong(b"bytes are there, and none is used")
        if used > n - at or run_len > used:
            wrong(b"more is used, or comes of it, than was there")
        if run_len and (run < copy + at or run + run_len > copy + at + used):
            wrong(b"a run is outside of what was used")
        memcpy(out.data + out.len, run, run_len)
        out.len += run_len
        at += used
    out.used += at
    unfence(copy, n)


cdef int end_of(ChunkDecoder* d) noexcept nogil:
    if (d.state == CHUNK_MALFORMED) != (d.error != NULL):
        wrong(b"a malformed body without an error, or an error without one")
    if d.state == CHUNK_MALFORMED:
        return BROKEN
    return WHOLE if d.state == CHUNK_END else PARTIAL


cdef void in_pieces(const char* p, size_t n, unsigned int seed, Decoded* out) noexcept nogil:
    """Cut at places that follow from the seed, some close together and some far apart."""
    cdef ChunkDecoder d
    cdef size_t at = 0, k
    memset(&d, 0, sizeof(d))
    while at < n:
        seed = seed * 1103515245 + 12345
        k = (seed >> 16) % (7 if seed & 0x8000 else 3000) + 1
        k = min(k, n - at)
        feed(&d, p + at, k, out)
        at += k
        if d.state >= CHUNK_END:
            break
    out.end = end_of(&d)


# --- the reference ---------------------------------------------------------------------------------------

cdef int take(Cursor* c) noexcept nogil:
    """Return the next byte, or PARTIAL."""
    if c.i == c.n:
        return PARTIAL
    c.i += 1
    return <unsigned char>c.p[c.i - 1]


cdef int expect(Cursor* c, int wanted) noexcept nogil:
    cdef int byte = take(c)
    return byte if byte == wanted or byte == PARTIAL else BROKEN


cdef int hex_value(int c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    return (c | 32) - 87 if 97 <= (c | 32) <= 102 else -1


cdef bint is_text(int c) noexcept nogil:
    return c == 9 or (c >= 32 and c != 127)


cdef int take_line(Cursor* c, int* left, bint with_cr) noexcept nogil:
    """Take what is left of a line and its CRLF; `left`: how many bytes may still come, `with_cr`: CR too."""
    cdef int byte
    while True:
        byte = take(c)
        if byte == 13 and not (with_cr and left[0] == 0):
            left[0] -= 1
            return expect(c, 10)
        if byte == PARTIAL or not is_text(byte):
            return byte if byte == PARTIAL else BROKEN
        left[0] -= 1
        if left[0] < 0:
            return BROKEN


cdef int take_size(Cursor* c, size_t* size) noexcept nogil:
    """chunk-size BWS [ chunk-ext ] CRLF"""
    cdef int digits = 0, byte = take(c), left = LINES_MAX
    size[0] = 0
    while hex_value(byte) >= 0:
        if digits == DIGITS_MAX:
            return BROKEN
        size[0] = size[0] * 16 + hex_value(byte)
        digits += 1
        byte = take(c)
    if digits == 0 and byte != PARTIAL:
        return BROKEN
    # The first blank is not counted.
    left += 1
    while byte == 32 or byte == 9:
        left -= 1
        if left < 0:
            return BROKEN
        byte = take(c)
    if byte == 13:
        return expect(c, 10)
    left = LINES_MAX
    if byte == 59:
        return take_line(c, &left, False)
    return byte if byte == PARTIAL else BROKEN


cdef int take_trailer(Cursor* c) noexcept nogil:
    """*( field-line CRLF ) CRLF, where no line is a folded one. A first byte is not counted, CR is."""
    cdef int byte, left = LINES_MAX
    while True:
        byte = take(c)
        if byte == 13:
            byte = expect(c, 10)
            return WHOLE if byte == 10 else byte
        if byte == PARTIAL:
            return byte
        if byte == 32 or byte == 58 or byte == 9 or not is_text(byte):
            return BROKEN
        byte = take_line(c, &left, True)
        if byte != 10:
            return byte


cdef int refer(Cursor* c, Decoded* out) noexcept nogil:
    """chunked-body of RFC 9112 section 7.1, from left to right."""
    cdef size_t size, k
    cdef int got
    while True:
        got = take_size(c, &size)
        if got != 10:
            return got
        if size == 0:
            return take_trailer(c)
        k = min(size, c.n - c.i)
        memcpy(out.data + out.len, c.p + c.i, k)
        out.len += k
        c.i += k
        got = expect(c, 13)
        if got != 13:
            return got
        got = expect(c, 10)
        if got != 10:
            return got


# --- the target ------------------------------------------------------------------------------------------

cdef void compare(Decoded* one, Decoded* other, const char* what) noexcept nogil:
    if one.end != other.end or one.used != other.used or one.len != other.len:
        wrong(what)
    if memcmp(one.data, other.data, one.len) != 0:
        wrong(what)


cdef int decode(const unsigned char* data, size_t size) noexcept nogil:
    """Bytes: where it is cut, then the body."""
    cdef ChunkDecoder d
    cdef Cursor c
    cdef Decoded at_once, cut, wanted
    cdef size_t n
    if size < 1:
        return 0
    n = expand(data + 1, size - 1, room)
    memset(&d, 0, sizeof(d))
    at_once.data, at_once.len, at_once.used = whole, 0, 0
    feed(&d, room, n, &at_once)
    at_once.end = end_of(&d)
    cut.data, cut.len, cut.used = pieces, 0, 0
    in_pieces(room, n, data[0], &cut)
    compare(&at_once, &cut, b"cut elsewhere, a body is another one")
    wanted.data, wanted.len = expected, 0
    c.p, c.n, c.i = room, n, 0
    wanted.end = refer(&c, &wanted)
    wanted.used = c.i
    compare(&at_once, &wanted, b"a body is another one than the reference decodes")
    return 0
