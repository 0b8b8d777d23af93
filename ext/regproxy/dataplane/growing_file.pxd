from regproxy.dataplane.block_map cimport Extents
from regproxy.dataplane.body cimport Endpoint, Sink, Source
from regproxy.dataplane.file cimport File
from regproxy.dataplane.memory_window cimport MemoryWindow, ReaderCursor
from regproxy.dataplane.openssl cimport EVP_MD_CTX
from regproxy.dataplane.status cimport Status


cdef enum GrowthState:
    GROWING
    DONE
    BROKEN


cdef class GrowingFile


cdef class RangeWriter


cdef class Reader(Source):
    """A reader of [offset, stop) of a file that may grow. stop -1: to its end."""
    cdef readonly str reason
    cdef GrowingFile growth
    cdef ReaderCursor* place
    cdef long long offset
    cdef long long stop

    cdef long long limit_to(self, long long visible) noexcept
    cdef int advance_by(self, long long n) except -1


cdef class GrowingFile(Sink):
    cdef readonly File file
    cdef readonly long long written
    cdef readonly long long total
    cdef readonly long long limit
    cdef readonly bint too_large
    cdef EVP_MD_CTX* md
    # How many of the written bytes went through `md`, and how many of the coming bytes are present already
    cdef readonly long long hashed
    cdef long long surplus
    # The file is at least so long, as far as this process has written it
    cdef long long reach
    cdef GrowthState state
    cdef list waiters

    # Where it is filled in several places at once
    cdef readonly Extents extents
    # A thread hashes bytes that were written ahead of their turn; its future
    cdef readonly bint hashing
    cdef readonly object catching
    # Called, from the loop, when a reader waits for missing bytes
    cdef public object on_wait
    cdef bint told
    # What is being fetched: readers that wait for the next bytes of one need not be reported
    cdef public tuple tending

    # When the disk takes no more
    cdef readonly int disk_errno
    cdef public object on_spill
    cdef MemoryWindow window
    # Longer content is not stored; 0: no limit
    cdef public long long largest
    cdef bint impatient
    cdef object hurrying
    cdef ReaderCursor* places
    cdef Endpoint held_back

    cdef long long visible(self, long long offset) noexcept
    cdef long long _open_end(self) noexcept
    cdef Status put(self, RangeWriter segment, const char* p, size_t n) except Status.EXC
    cdef Status _put_run(self, RangeWriter segment, const char* p, size_t n) except Status.EXC
    cdef Status _extend(self, Endpoint origin, const char* p, size_t n) except Status.EXC
    cdef Status _place(self, long long offset, const char* p, size_t n) except Status.EXC
    cdef Status _append(self, const char* p, size_t n) except Status.EXC
    cdef Status _remember(self, const char* p, size_t n) except Status.EXC
    cdef int _advance(self, long long first, long long start, long long stop) noexcept
    cdef int _hash_lag(self) except -1
    cdef int look(self) except -1
    cdef Status _spill(self) except Status.EXC
    cdef bint _trim(self) noexcept
    cdef int _settle(self) except -1
    cdef ReaderCursor* enter(self, long long offset) except NULL
    cdef int leave(self, ReaderCursor* place) except -1
    cdef int moved(self) except -1
    cdef int grow_to(self, long long size) except -1
    cdef int _offer_all(self, long long start, const char* p, size_t n) except -1
    cdef int wait(self, Reader source, Endpoint to) except -1
    cdef bint _tended(self, long long offset) noexcept
    cdef int wake_all(self) except -1
    cdef bint _waits_on(self, Reader source) noexcept
    cdef int _forget_gone(self) except -1


cdef class RangeWriter(Sink):
    cdef readonly GrowingFile growth
    # The socket that its bytes come from, which may be another's once the body has ended; -1: none have come
    cdef int fd
    cdef readonly long long start
    cdef readonly long long offset
    cdef public long long stop
    cdef public long long body_stop
    cdef readonly bint full
