"""The CONNECT line and the first byte of a connection (RFC 9110 section 9.3.6, RFC 9112 section 3.2.3)."""

from regproxy.dataplane.posix cimport memchr

cdef enum:
    HOST_MAX = 255


cdef bint host_byte(unsigned char c) noexcept nogil:
    return (97 <= c <= 122) or (48 <= c <= 57) or c == 45 or c == 46 or c == 95 or (65 <= c <= 90)


cdef bint address_byte(unsigned char c) noexcept nogil:
    return (48 <= c <= 58) or (97 <= c <= 102) or (65 <= c <= 70) or c == 46


cdef object parse_connect(const char* p, size_t n):
    """(host, port) of a head that starts with `CONNECT `; None where it is not `host:port HTTP/1.x`.

    The host comes in lower case, without a trailing dot and without the brackets of an IPv6 literal.
    """
    cdef const char* end = <const char*>memchr(p, 10, n)
    cdef size_t start = 8, i = 8, stop, line
    cdef long port = 0
    cdef int digits = 0
    cdef bint bracket
    if end == NULL:
        return None
    line = end - p
    if line and p[line - 1] == 13:
        line -= 1
    bracket = i < line and p[i] == 91
    if bracket:
        start = i = i + 1
        while i < line and address_byte(p[i]):
            i += 1
        stop = i
        if i >= line or p[i] != 93:
            return None
        i += 1
    else:
        while i < line and host_byte(p[i]):
            i += 1
        stop = i
    if stop == start or stop - start > HOST_MAX or i >= line or p[i] != 58:
        return None
    i += 1
    while i < line and 48 <= p[i] <= 57 and digits < 6:
        port = port * 10 + (p[i] - 48)
        digits += 1
        i += 1
    if digits == 0 or port < 1 or port > 65535:
        return None
    if line - i != 9 or p[i:i + 8] != b" HTTP/1." or not 48 <= p[i + 8] <= 57:
        return None
    host = p[start:stop].decode("ascii").lower()
    if not bracket:
        host = host.rstrip(".")
        if not host:
            return None
    return host, port


def connect_target(bytes head not None):
    """(host, port) of a CONNECT request's head, or None where its target can't be understood."""
    if not head.startswith(b"CONNECT "):
        return None
    return parse_connect(<const char*>head, len(head))
