"""Where a head ends, however it comes in pieces; and what a CONNECT line names."""

from regproxy.core.errors import HeadError
from regproxy.dataplane.http1 cimport HEAD_PARTIAL, HEAD_TOO_LARGE, cut_head, parse_connect
from regproxy.http.messages import parse_authority

from support cimport EXPANDED_MAX, MARGIN, expand, fence, unfence, wrong

import re
import traceback

CONNECT_LINE = re.compile(rb"CONNECT ([^\n]*?) HTTP/1\.[0-9]\r\n")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)\r")

cdef char room[EXPANDED_MAX + MARGIN]


def address_of(str name):
    """Return where a target is, for the driver."""
    return <size_t><void*>cut if name == "cut" else <size_t><void*>connect


# --- the end of a head -----------------------------------------------------------------------------------

cdef long reference_cut(const char* p, size_t n, size_t limit) noexcept nogil:
    """The same by looking at each byte: an LF, then LF or CRLF."""
    cdef size_t i
    for i in range(n):
        if p[i] != 10:
            continue
        if i + 1 < n and p[i + 1] == 10:
            return <long>i + 2 if i + 2 <= limit else HEAD_TOO_LARGE
        if i + 2 < n and p[i + 1] == 13 and p[i + 2] == 10:
            return <long>i + 3 if i + 3 <= limit else HEAD_TOO_LARGE
    return HEAD_TOO_LARGE if n > limit else HEAD_PARTIAL


cdef int cut(const unsigned char* data, size_t size) noexcept nogil:
    """Bytes: limit (in 8), how many bytes come at a time, then what comes."""
    cdef size_t n, have = 0, scanned = 0, step, limit
    cdef long found = HEAD_PARTIAL
    if size < 2:
        return 0
    n = expand(data + 2, size - 2, room)
    limit, step = <size_t>data[0] * 8, <size_t>data[1] + 1
    # Small pieces of something long would take long, and find no more.
    if n // step > 32:
        step = n // 32
    while found == HEAD_PARTIAL and have < n:
        have = min(have + step, n)
        fence(room, have)
        found = cut_head(room, have, limit, &scanned)
        if found != reference_cut(room, have, limit):
            wrong(b"a head is cut elsewhere than the reference cuts it")
        if found > 0 and scanned != 0:
            wrong(b"the next head would not be looked for from its beginning")
        unfence(room, have)
    return 0


# --- CONNECT ---------------------------------------------------------------------------------------------

cdef int connect(const unsigned char* data, size_t size) noexcept:
    cdef size_t n
    cdef object found
    try:
        n = expand(data, size, room)
        line = b"CONNECT " + room[:n] + b"\r\n\r\n"
        found = parse_connect(<const char*>line, len(line))
        if found != reference_connect(line):
            print(line, found, reference_connect(line), flush=True)
            wrong(b"a CONNECT names another host than the reference reads")
    except BaseException:
        traceback.print_exc()
        wrong(b"an exception")
    return 0


cdef object reference_connect(bytes line):
    """The same by the parser of heads, which other requests go through: both have to mean one host."""
    match = CONNECT_LINE.match(line)
    if match is None:
        return None
    lines = line[match.end():].split(b"\n")
    lines.pop()
    if not all(is_field(each) for each in lines):
        return None
    try:
        return parse_authority(match[1].decode("latin-1"), None)
    except HeadError:
        return None


cdef bint is_field(bytes line) except -1:
    """Whether a line, its CR included, is empty or a field by which no content follows."""
    match = FIELD_LINE.fullmatch(line)
    if match is None:
        return line == b"\r"
    name = match[1].lower()
    return name != b"transfer-encoding" and (name != b"content-length" or match[2].strip(b" \t") == b"0")
