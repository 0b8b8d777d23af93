cimport cython

from regproxy.dataplane.file cimport File


# A reader's place in a growth, in a list that is walked only when bytes are kept in memory.
cdef struct ReaderCursor:
    long long offset
    # Given up: it no longer holds back the origin
    bint lost
    ReaderCursor* before
    ReaderCursor* behind


@cython.final
cdef class MemoryWindow:
    cdef File file
    # From `disk_end` on bytes are in memory, those below `floor` no longer
    cdef long long disk_end
    cdef long long floor
    # How far the slowest reader may be behind
    cdef long long size

    cdef int keep(self, const char* p, size_t n, long long offset) noexcept
    cdef bint trim(self, ReaderCursor* readers, long long written) noexcept
    cdef int give_back(self, long long upto) noexcept

    cdef inline bint lacks(self, File file, long long offset) noexcept:
        """Return whether a reader of `file` comes too late: it is this memory, without that byte."""
        return file is self.file and offset < self.floor


cdef MemoryWindow open_window(File disk, long long written)
