"""HTTP/1.1 framing: the end of a head, the chunked coding (RFC 9112 section 7.1), CONNECT (section 3.2.3).

All of it works on bytes alone. `head_end`, `ChunkReader`, `connect_target` and `proxy_login` are for Python;
streams call the C functions behind them.
"""

from libc.string cimport memset

from regproxy.dataplane.posix cimport memchr, memmove, strncasecmp

cdef enum:
    # A host name without a trailing dot; what is ahead of an IPv6 literal's first colon, and behind it
    NAME_MAX = 253
    GROUP_MAX = 4
    ADDRESS_MAX = 40
    PORT_DIGITS = 5
    # A chunk up to this size is moved to the one before it; a larger one is taken by itself.
    MOVED = 4096
    SIZE_DIGITS = 15
    EXTENSION_MAX = 8192
    TRAILER_MAX = 8192

cdef tuple CHUNK_STATES = (
    "size", "extension", "size-lf", "data", "data-cr", "data-lf", "trailer-start", "trailer", "trailer-lf",
    "last-lf", "end", "malformed",
)


# --- the end of a head -----------------------------------------------------------------------------------

def head_end(bytes data not None, size_t limit, size_t scanned=0) -> tuple:
    """Return (length, scanned) of the head that data begins with; length 0: partial, -1: none in `limit`."""
    cdef long end = cut_head(data, len(data), limit, &scanned)
    return end, scanned


# --- the chunked coding ----------------------------------------------------------------------------------

cdef int hex_digit(unsigned char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    if 65 <= c <= 70:
        return c - 55
    return -1


cdef const char* take_size_byte(ChunkDecoder* d, unsigned char c) noexcept nogil:
    cdef int digit = hex_digit(c)
    if digit >= 0 and d.length < SIZE_DIGITS:
        d.remaining = d.remaining * 16 + digit
        d.length += 1
    elif d.length and (c == 13 or c == 59 or c == 32 or c == 9):
        d.state = CHUNK_SIZE_LF if c == 13 else CHUNK_EXTENSION
        d.length = 1 if c == 59 else 0
    else:
        return b"a chunk size is not a hexadecimal number"
    return NULL


cdef bint is_control(unsigned char c) noexcept nogil:
    """A byte that no line of text has (RFC 9110 5.5): some parsers take one for a line's end."""
    return (c < 32 and c != 9) or c == 127


cdef const char* take_extension_byte(ChunkDecoder* d, unsigned char c) noexcept nogil:
    """Behind a size: blanks, which are counted downwards, then `;` and the extension, counted upwards."""
    if c == 13:
        d.state = CHUNK_SIZE_LF
        d.length = 0
    elif is_control(c):
        return b"a chunk extension is malformed or too long"
    elif d.length > 0:
        d.length += 1
    elif c == 59:
        d.length = 1
    elif c == 32 or c == 9:
        d.length -= 1
    else:
        # `3 0` is 3 for one parser and 30 for another.
        return b"a chunk extension is malformed or too long"
    # Its `;` counts for nothing.
    if d.length > EXTENSION_MAX + 1 or d.length < -EXTENSION_MAX:
        return b"a chunk extension is malformed or too long"
    return NULL


cdef const char* take_trailer_byte(ChunkDecoder* d, unsigned char c) noexcept nogil:
    if d.state == CHUNK_TRAILER_START:
        if c == 13:
            d.state = CHUNK_LAST_LF
            return NULL
        d.state = CHUNK_TRAILER
        if c == 32 or c == 9 or c == 58:
            return b"a trailer line without a name"
    else:
        d.length += 1
        if c == 13:
            d.state = CHUNK_TRAILER_LF
    if c == 10:
        return b"a trailer line does not end in CRLF"
    if c != 13 and is_control(c):
        return b"a control character in a trailer line"
    if d.length > TRAILER_MAX:
        return b"the trailer is too long"
    return NULL


cdef const char* take_byte(ChunkDecoder* d, unsigned char c) noexcept nogil:
    """Take a byte of the chunk framing; return what is wrong with it, or NULL."""
    if d.state == CHUNK_SIZE:
        return take_size_byte(d, c)
    elif d.state == CHUNK_EXTENSION:
        return take_extension_byte(d, c)
    elif d.state == CHUNK_SIZE_LF:
        if c != 10:
            return b"a chunk size is not followed by CRLF"
        d.state = CHUNK_DATA if d.remaining else CHUNK_TRAILER_START
    elif d.state == CHUNK_DATA_CR:
        if c != 13:
            return b"a chunk is longer than its size"
        d.state = CHUNK_DATA_LF
    elif d.state == CHUNK_DATA_LF:
        if c != 10:
            return b"a chunk is not followed by CRLF"
        d.state = CHUNK_SIZE
    elif d.state == CHUNK_TRAILER_START or d.state == CHUNK_TRAILER:
        return take_trailer_byte(d, c)
    elif d.state == CHUNK_TRAILER_LF:
        if c != 10:
            return b"a trailer line does not end in CRLF"
        d.state = CHUNK_TRAILER_START
    else:
        if c != 10:
            return b"the last chunk is not followed by CRLF"
        d.state = CHUNK_END
    return NULL


cdef size_t decode_chunks(ChunkDecoder* d, char* p, size_t n, char** run, size_t* run_len) noexcept nogil:
    """Decode up to n bytes; return how many were used. `run`: the data in them, `run_len` bytes, maybe none.

    Fewer than n are used where another run follows, and at the end. With CHUNK_MALFORMED the run is what
    came before the fault. Small chunks are moved together, within `p`, and passed on as one run: each by
    itself would cost the receiver a write, or a record and a system call.
    """
    cdef size_t i = 0, k, filled = 0
    run[0] = p
    while i < n and d.state < CHUNK_END:
        if d.state != CHUNK_DATA:
            d.error = take_byte(d, <unsigned char>p[i])
            if d.error != NULL:
                d.state = CHUNK_MALFORMED
            i += 1
            continue
        k = n - i
        if <long long>k > d.remaining:
            k = <size_t>d.remaining
        if filled and k > MOVED:
            break
        if filled == 0:
            run[0] = p + i
        else:
            memmove(run[0] + filled, p + i, k)
        filled += k
        i += k
        d.remaining -= k
        if d.remaining == 0:
            d.state = CHUNK_DATA_CR
    run_len[0] = filled
    return i


cdef class ChunkReader:
    """Decode a chunked body outside of a connection."""

    cdef ChunkDecoder decoder
    cdef readonly long long used

    def __cinit__(self):
        memset(&self.decoder, 0, sizeof(ChunkDecoder))

    @property
    def state(self) -> str:
        """The part that comes next: "size", "data"...; or "end", "malformed"."""
        return CHUNK_STATES[self.decoder.state]

    @property
    def error(self) -> str:
        """What is wrong with the body, "" for nothing."""
        return self.decoder.error.decode() if self.decoder.error != NULL else ""

    def feed(self, bytes data not None) -> list:
        """Take the next bytes; return the runs of data in them. `used` counts the bytes of the body."""
        cdef bytearray copy = bytearray(data)
        cdef char* p = copy
        cdef char* run
        cdef size_t at = 0, length, n = len(copy)
        runs = []
        while at < n and self.decoder.state < CHUNK_END:
            at += decode_chunks(&self.decoder, p + at, n - at, &run, &length)
            if length:
                runs.append(run[:length])
        self.used += at
        return runs


# --- CONNECT ---------------------------------------------------------------------------------------------


cdef bint host_byte(unsigned char c) noexcept nogil:
    return (97 <= c <= 122) or (48 <= c <= 57) or c == 45 or c == 46 or c == 95 or (65 <= c <= 90)


cdef bint address_byte(unsigned char c) noexcept nogil:
    return (48 <= c <= 58) or (97 <= c <= 102) or (65 <= c <= 70) or c == 46


cdef bint token_byte(unsigned char c) noexcept nogil:
    """A byte of a field's name (RFC 9110 5.6.2)."""
    return c > 32 and c < 127 and memchr(b'"(),/:;<=>?@[\\]{}', c, 17) == NULL


cdef bint same_name(const char* p, size_t n, const char* name, size_t name_len) noexcept nogil:
    cdef size_t i
    if n != name_len:
        return False
    for i in range(n):
        if (p[i] | 32 if 65 <= p[i] <= 90 else p[i]) != name[i]:
            return False
    return True


cdef bint is_bodiless_field(const char* p, size_t n) noexcept nogil:
    """Whether a line is `name: value`, and none by which a body would follow."""
    cdef size_t i = 0, k
    while i < n and token_byte(<unsigned char>p[i]):
        i += 1
    if i == 0 or i == n or p[i] != 58:
        return False
    for k in range(i, n):
        if is_control(<unsigned char>p[k]):
            return False
    if same_name(p, i, b"content-length", 14):
        i += 1
        while i < n and (p[i] == 32 or p[i] == 9):
            i += 1
        while n > i and (p[n - 1] == 32 or p[n - 1] == 9):
            n -= 1
        return n == i + 1 and p[i] == 48
    return not same_name(p, i, b"transfer-encoding", 17)


cdef bint has_plain_fields(const char* p, size_t n) noexcept nogil:
    """Whether the lines of a CONNECT's head are fields that each end in CRLF, and it has no content.

    RFC 9110 9.3.6: what follows is the tunnel; who would take it for a body, or this head for two, is led
    astray.
    """
    cdef size_t i = 0
    cdef const char* lf
    cdef size_t length
    while i < n:
        lf = <const char*>memchr(p + i, 10, n - i)
        if lf == NULL:
            return False
        length = lf - p - i
        if length == 0 or p[i + length - 1] != 13:
            return False
        if length > 1 and i > 0 and not is_bodiless_field(p + i, length - 1):
            return False
        i += length + 1
    return True


cdef size_t name_end(const char* p, size_t i, size_t line, size_t* stop) noexcept nogil:
    """Return the index after the host name at i, 0 for none; `stop`: where it ends but for a trailing dot."""
    cdef size_t start = i
    while i < line and host_byte(p[i]):
        i += 1
    stop[0] = i - 1 if i > start and p[i - 1] == 46 else i
    if stop[0] == start or p[stop[0] - 1] == 46 or stop[0] - start > NAME_MAX:
        return 0
    return i


cdef size_t address_end(const char* p, size_t i, size_t line, size_t* stop) noexcept nogil:
    """Return the index after the IPv6 literal whose bracket is at i, 0 for none; `stop`: that of its end."""
    cdef size_t start = i + 1, colon
    i = start
    while i < line and hex_digit(p[i]) >= 0:
        i += 1
    if i - start > GROUP_MAX or i >= line or p[i] != 58:
        return 0
    colon = i
    i += 1
    while i < line and address_byte(p[i]):
        i += 1
    stop[0] = i
    if i - colon < 2 or i - colon > ADDRESS_MAX + 1 or p[i - 1] == 46 or i >= line or p[i] != 93:
        return 0
    return i + 1


cdef object parse_connect(const char* p, size_t n):
    """(host, port) of a head that starts with `CONNECT `; None if it is not `host:port HTTP/1.x` and fields.

    The host comes in lower case, without a trailing dot and without the brackets of an IPv6 literal: as
    `http.messages.parse_authority` has it, which refuses what is refused here.
    """
    cdef const char* end = <const char*>memchr(p, 10, n)
    cdef size_t i, stop = 0, line
    cdef long port = 0
    cdef int digits = 0
    cdef bint bracket
    if end == NULL or not has_plain_fields(p, n):
        return None
    line = end - p - 1
    bracket = line > 8 and p[8] == 91
    i = address_end(p, 8, line, &stop) if bracket else name_end(p, 8, line, &stop)
    if i == 0 or i >= line or p[i] != 58:
        return None
    i += 1
    while i < line and 48 <= p[i] <= 57 and digits < PORT_DIGITS:
        port = port * 10 + (p[i] - 48)
        digits += 1
        i += 1
    if digits == 0 or port < 1 or port > 65535:
        return None
    if line - i != 9 or p[i:i + 8] != b" HTTP/1." or not 48 <= p[i + 8] <= 57:
        return None
    return p[9 if bracket else 8:stop].decode("ascii").lower(), port


cdef bytes find_field(const char* p, size_t n, const char* name, size_t name_len):
    """The value of a field of a head, without blanks around it; several come with a line feed between them.

    None where there is none. Lines are not checked otherwise: one that is folded (RFC 9112 section 5.2) gives
    its first line alone.
    """
    cdef const char* end
    cdef size_t i = 0, line, start, stop
    cdef bytes found = None
    while i < n:
        end = <const char*>memchr(p + i, 10, n - i)
        line = i
        i = n if end == NULL else <size_t>(end - p) + 1
        if line == 0 or i - line <= name_len or p[line + name_len] != 58:
            continue    # the request line, or another field
        if strncasecmp(p + line, name, name_len) != 0:
            continue
        start, stop = line + name_len + 1, i
        while start < stop and (p[start] == 32 or p[start] == 9):
            start += 1
        while stop > start and (p[stop - 1] == 32 or 9 <= p[stop - 1] <= 13):
            stop -= 1
        found = p[start:stop] if found is None else found + b"\n" + p[start:stop]
    return found


def proxy_login(bytes head not None):
    """Return the Proxy-Authorization of a CONNECT request's head, or None."""
    return find_field(<const char*>head, len(head), b"proxy-authorization", 19)


def connect_target(bytes head not None):
    """Return (host, port) of a CONNECT request's head, or None where its target can't be parsed."""
    if not head.startswith(b"CONNECT "):
        return None
    return parse_connect(<const char*>head, len(head))
