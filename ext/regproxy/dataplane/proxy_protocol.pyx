"""The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): who connects, said by a balancer.

All of it works on bytes alone. `preface` is for Python; streams call the C function behind it.
"""

from libc.string cimport memset

from regproxy.dataplane.posix cimport (
    AF_INET, AF_INET6, inet_ntop, inet_pton, memcmp, memcpy, sockaddr_in, sockaddr_in6, sockaddr_storage,
)

cdef enum:
    # Section 2.1: the longest line, CRLF included
    LINE_MAX = 107
    # Section 2.2: signature, version and command, family, length
    FIXED = 16
    # Addresses and TLVs; what balancers send of a certificate is below 2 KiB
    REST_MAX = 4096
    ADDRESS_MAX = 46
    PROXY = 0x21
    LOCAL = 0x20
    TCP4 = 0x11
    TCP6 = 0x21
    UNSPECIFIED = 0x00
    LENGTH_4 = 12
    LENGTH_6 = 36

cdef const char* SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


cdef int parse_preface(const char* p, size_t n, sockaddr_storage* source, size_t* used) noexcept nogil:
    """Parse the header that p begins with, whose length goes to `used`; PREFACE_PARTIAL: more has to come.

    `source` is set with PREFACE_SOURCE alone.
    """
    if n == 0:
        return PREFACE_PARTIAL
    if p[0] == 80:
        return parse_line(p, n, source, used)
    if memcmp(p, SIGNATURE, min(n, <size_t>12)) != 0:
        return PREFACE_BAD
    return PREFACE_PARTIAL if n < FIXED else parse_binary(p, n, source, used)


cdef int parse_binary(const char* p, size_t n, sockaddr_storage* source, size_t* used) noexcept nogil:
    cdef const unsigned char* u = <const unsigned char*>p
    cdef size_t rest = (<size_t>u[14] << 8) | u[15]
    if rest > REST_MAX or (u[12] != PROXY and u[12] != LOCAL):
        return PREFACE_BAD
    if n < FIXED + rest:
        return PREFACE_PARTIAL
    used[0] = FIXED + rest
    if u[12] == LOCAL or u[13] == UNSPECIFIED:
        return PREFACE_LOCAL
    if u[13] == TCP4 and rest >= LENGTH_4:
        set_source(source, AF_INET, p + FIXED, p + FIXED + 8)
        return PREFACE_SOURCE
    if u[13] == TCP6 and rest >= LENGTH_6:
        set_source(source, AF_INET6, p + FIXED, p + FIXED + 32)
        return PREFACE_SOURCE
    return PREFACE_BAD


cdef void set_source(sockaddr_storage* source, int family, const char* address,
                     const char* port) noexcept nogil:
    """`port`: two bytes in network order."""
    memset(source, 0, sizeof(sockaddr_storage))
    source.ss_family = <unsigned short>family
    if family == AF_INET:
        memcpy(&(<sockaddr_in*>source).sin_addr, address, 4)
        memcpy(&(<sockaddr_in*>source).sin_port, port, 2)
    else:
        memcpy(&(<sockaddr_in6*>source).sin6_addr, address, 16)
        memcpy(&(<sockaddr_in6*>source).sin6_port, port, 2)


cdef int parse_line(const char* p, size_t n, sockaddr_storage* source, size_t* used) noexcept nogil:
    """`PROXY TCP4 SOURCE DESTINATION PORT PORT`, each between single spaces, or `PROXY UNKNOWN ...`."""
    cdef size_t end = 0, at = 11
    cdef char address[16]
    cdef char ignored[16]
    cdef char port[2]
    cdef int family
    if memcmp(p, b"PROXY ", min(n, <size_t>6)) != 0:
        return PREFACE_BAD
    while end < n and p[end] != 10:
        if end >= LINE_MAX - 1:
            return PREFACE_BAD
        end += 1
    if end == n:
        return PREFACE_PARTIAL
    if p[end - 1] != 13:
        return PREFACE_BAD
    used[0] = end + 1
    end -= 1
    if end >= 13 and memcmp(p, b"PROXY UNKNOWN", 13) == 0 and (end == 13 or p[13] == 32):
        return PREFACE_LOCAL
    if end < at or memcmp(p, b"PROXY TCP", 9) != 0 or p[10] != 32 or (p[9] != 52 and p[9] != 54):
        return PREFACE_BAD
    family = AF_INET if p[9] == 52 else AF_INET6
    if not (take_address(p, end, &at, family, address) and take_address(p, end, &at, family, ignored)):
        return PREFACE_BAD
    if not (take_port(p, end, &at, port) and take_port(p, end, &at, ignored)) or at != end + 1:
        return PREFACE_BAD
    set_source(source, family, address, port)
    return PREFACE_SOURCE


cdef bint take_address(const char* p, size_t end, size_t* at, int family, char* address) noexcept nogil:
    """Take a word and the space behind it."""
    cdef char text[ADDRESS_MAX]
    cdef size_t i = at[0], n
    while i < end and p[i] != 32:
        if p[i] == 0:
            return False    # inet_pton would stop there
        i += 1
    n = i - at[0]
    if n == 0 or n >= ADDRESS_MAX:
        return False
    memcpy(text, p + at[0], n)
    text[n] = 0
    at[0] = i + 1
    return inet_pton(family, text, address) == 1


cdef bint take_port(const char* p, size_t end, size_t* at, char* port) noexcept nogil:
    """Take a word and what is behind it: a space, or the end of the line."""
    cdef size_t i = at[0]
    cdef long number = 0
    while i < end and p[i] != 32:
        if p[i] < 48 or p[i] > 57 or i - at[0] >= 5:
            return False
        number = number * 10 + p[i] - 48
        i += 1
    if i == at[0] or number > 65535:
        return False
    at[0] = i + 1
    port[0] = <char>(number >> 8)
    port[1] = <char>(number & 255)
    return True


def preface(bytes data not None) -> tuple:
    """Return (what, length, address) of the header that data begins with.

    What: "partial", "bad", "source" (the address is that of who connects) or "local" (it is "").
    """
    cdef sockaddr_storage source
    cdef size_t used = 0
    cdef char text[64]
    cdef void* address = &(<sockaddr_in*>&source).sin_addr
    cdef int found = parse_preface(<const char*>data, len(data), &source, &used)
    if found == PREFACE_SOURCE:
        if source.ss_family == AF_INET6:
            address = &(<sockaddr_in6*>&source).sin6_addr
        inet_ntop(source.ss_family, address, text, 64)
        return "source", used, (<bytes>text).decode()
    words = {PREFACE_BAD: "bad", PREFACE_PARTIAL: "partial", PREFACE_LOCAL: "local"}
    return words[found], used if found > 0 else 0, ""
