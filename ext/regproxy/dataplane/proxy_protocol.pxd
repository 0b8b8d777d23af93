# The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): who connects, said by a balancer.

from regproxy.dataplane.posix cimport sockaddr_storage

cdef enum:
    PREFACE_BAD = -1
    PREFACE_PARTIAL = 0
    # It says who connects
    PREFACE_SOURCE = 1
    # It says that the balancer itself does, or nothing
    PREFACE_LOCAL = 2


cdef int parse_preface(const char* p, size_t n, sockaddr_storage* source, size_t* used) noexcept nogil
