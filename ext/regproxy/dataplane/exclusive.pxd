cdef class ExclusiveWatch:
    cdef object loop
    # The event loop's epoll set
    cdef int epfd
    cdef int fd
    # What libuv watches in the place of `fd`
    cdef int stand_in
    cdef bint waits

    cdef int rest(self) except -1
    cdef bint rejoin(self) except -1
