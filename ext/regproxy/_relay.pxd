from regproxy._stream cimport Sink, Source, Stream
from regproxy.openssl cimport EVP_MD_CTX
from regproxy.status cimport Status


cdef enum GrowthState:
    GROWING
    DONE
    BROKEN


cdef class File:
    cdef readonly int fd
    cdef readonly long long size
    cdef object loop
    # Whether preadv2(RWF_NOWAIT) works on this file system
    cdef bint nowait

    cdef long read_at(self, char* p, size_t n, long long offset, long long warm_stop) except? -100


cdef class Growth(Sink):
    cdef readonly File file
    cdef readonly long long written
    cdef readonly long long total
    cdef readonly long long limit
    cdef readonly bint disk_failed
    cdef EVP_MD_CTX* md
    cdef GrowthState state
    cdef list waiters

    cdef long long visible(self) noexcept
    cdef int _offer_all(self, const char* p, size_t n) except -1
    cdef int wait(self, FileSource source, Stream reader) except -1
    cdef int wake_all(self) except -1


cdef class FileSource(Source):
    cdef File file
    cdef Growth growth
    cdef long long offset
    cdef long long stop
    cdef readonly str reason
    # How far a thread has read ahead of us where reads can't be told not to block
    cdef long long warm_stop

    cdef int fault_in(self, Stream waiter, size_t n) except -1
    cdef long long limit_to(self, long long visible) noexcept
    cdef Status available(self, Stream to, size_t* n) except Status.EXC
    cdef bint _is_cold(self, long long offset) except -1


cdef class StreamSink(Sink):
    cdef Stream target
    cdef bint chunked


cdef class BytesSink(Sink):
    cdef readonly bytearray data
    cdef size_t limit
