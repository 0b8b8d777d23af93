"""Files that bodies are read from."""

from libc.stdlib cimport free, malloc

from regproxy.dataplane.posix cimport *

cdef long long live_files = 0


def live() -> int:
    """Return how many files are open."""
    return live_files


cdef class File:
    """An open file that is read by offset; it closes when the last reader has released it.

    Takes over `fd`, once it has been made. `size` is in bytes, -1 while it grows.
    """

    def __cinit__(self, int fd, long long size, loop):
        global live_files
        self.fd = fd
        self.size = size
        self.loop = loop
        self.nowait = True
        live_files += 1

    def __dealloc__(self):
        global live_files
        if self.fd >= 0:
            close(self.fd)
            live_files -= 1

    cdef long read_at(self, char* p, size_t n, long long offset, long long warm_stop) except? -100:
        """Bytes read; -1: the disk would block; -2: an I/O error (errno). 0 is the end of the file.

        `warm_stop`: up to where a thread has read already. There a read that may block will hardly do so: for
        file systems without RWF_NOWAIT, and those that say of any read, or of this one, that it would.
        """
        cdef iovec vec
        cdef ssize_t got
        if self.nowait:
            vec.iov_base = p
            vec.iov_len = n
            got = preadv2(self.fd, &vec, 1, offset, RWF_NOWAIT)
            if got >= 0:
                return got
            if errno == EOPNOTSUPP or errno == EINVAL:
                self.nowait = False
            elif errno != EAGAIN:
                return -2
        if offset >= warm_stop:
            return -1
        got = pread(self.fd, p, min(n, <size_t>(warm_stop - offset)), offset)
        return got if got >= 0 else -2

    def close(self) -> None:
        """Close now, even if there are references: the file must not be read any more."""
        global live_files
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
            live_files -= 1

    def touch(self, long long offset, size_t n) -> int:
        """Read pages into the page cache; may block, so on a thread. Bytes read, -1 for an error."""
        cdef char* p = <char*>malloc(n)
        cdef ssize_t got
        if p == NULL:
            raise MemoryError
        with nogil:
            got = pread(self.fd, p, n, offset)
        free(p)
        return got
