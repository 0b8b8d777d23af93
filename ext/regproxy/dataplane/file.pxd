cdef class File:
    cdef readonly int fd
    cdef readonly long long size
    cdef object loop
    # Whether preadv2(RWF_NOWAIT) works on this file system
    cdef bint nowait

    cdef long read_at(self, char* p, size_t n, long long offset, long long warm_stop) except? -100
