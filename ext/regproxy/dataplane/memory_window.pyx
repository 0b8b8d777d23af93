"""What a disk does not take of a body: in memory, as far as the slowest reader may be behind."""

cimport cython
from libc.stdlib cimport free, malloc

from regproxy.dataplane.file cimport File
from regproxy.dataplane.posix cimport *

cdef enum:
    # Bytes kept in memory of a body that the disk does not take.
    WINDOW = 16777216
    # The same where many bodies are: as much as a manifest may have.
    SMALL_WINDOW = 4194304
    MANY = 16
    # At most this much of the bytes on disk is copied, within the event loop.
    COPIED = 4194304

cdef long long in_memory = 0


cdef MemoryWindow open_window(File disk, long long written):
    """Return a window for the bytes behind the `written` ones on disk. None: no memory, errno says why.

    All of a short body is in it, for readers that come when it is done.
    """
    global in_memory
    cdef MemoryWindow window
    cdef int fd = memfd_create(b"regproxy-body", MFD_CLOEXEC)
    cdef char* p
    cdef ssize_t got
    if fd < 0:
        return None
    try:
        window = MemoryWindow.__new__(MemoryWindow)
        window.file = File(fd, -1, disk.loop)
    except BaseException:
        close(fd)
        raise
    in_memory += 1
    window.size = WINDOW if in_memory <= MANY else SMALL_WINDOW
    window.disk_end = window.floor = written
    if 0 < written <= COPIED:
        p = <char*>malloc(written)
        got = pread(disk.fd, p, written, 0) if p != NULL else -1
        if got == written and pwrite(fd, p, got, 0) == got:
            window.disk_end = window.floor = 0
        free(p)
    return window


@cython.final
cdef class MemoryWindow:
    """Bytes [floor, ...) of a body, in a file in memory, at the offsets that they have in the body."""

    def __dealloc__(self):
        global in_memory
        if self.file is not None:
            in_memory -= 1

    cdef int keep(self, const char* p, size_t n, long long offset) noexcept:
        """Write n bytes; 0, or -1 and errno."""
        cdef size_t at = 0
        cdef ssize_t k
        while at < n:
            k = pwrite(self.file.fd, p + at, n - at, offset + <long long>at)
            if k < 0:
                if errno == EINTR:
                    continue
                return -1
            at += k
        return 0

    cdef bint trim(self, ReaderCursor* readers, long long written) noexcept:
        """Free bytes that every reader has had; True where the window is used up and a reader is behind."""
        cdef long long lowest = written
        if written - self.floor <= self.size:
            return False
        while readers != NULL:
            if not readers.lost:
                lowest = min(lowest, readers.offset)
            readers = readers.behind
        self.give_back(lowest)
        return written - self.floor > self.size

    cdef int give_back(self, long long upto) noexcept:
        """Free the bytes below `upto`."""
        if upto > self.floor:
            fallocate(self.file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, self.floor, upto - self.floor)
            self.floor = upto
        return 0
