from libc.stdint cimport uint64_t

cdef enum:
    ID_SIZE = 32
    ID_FIXED = 20  # characters that all ids of a process have in common
    ID_COUNTED = 12


cdef class RequestIds:
    cdef uint64_t count
    cdef char text[ID_SIZE]

    cdef void advance(self) noexcept nogil
