"""Sources of bodies that are sent."""

cimport cython

from regproxy.dataplane.body cimport Endpoint
from regproxy.dataplane.file cimport File
from regproxy.dataplane.growing_file cimport BROKEN, DONE, GrowingFile, Reader
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.status cimport Status

cdef enum:
    FAULT_IN = 1048576


@cython.no_gc_clear
cdef class FileSource(Reader):
    """Bytes [start, stop) of a file; with `growth`, as far as it has grown. stop -1: to its end."""

    cdef File file
    # How far a thread has read ahead of us where reads can't be told not to block
    cdef long long warm_stop

    def __cinit__(self, File file not None, long long start, long long stop, GrowingFile growth=None):
        self.file = file
        self.growth = growth
        self.offset = start
        self.stop = stop
        self.reason = ""
        if growth is not None:
            self.place = growth.enter(start)

    cdef File _at(self, size_t* n):
        """Return the file that has the next bytes, and limit n to the bytes that it has."""
        cdef GrowingFile growth = self.growth
        if growth is None or growth.window is None:
            return self.file
        if self.offset >= growth.window.disk_end:
            return growth.window.file
        if growth.window.disk_end - self.offset < <long long>n[0]:
            n[0] = <size_t>(growth.window.disk_end - self.offset)
        return self.file

    cdef bint _is_late(self, File file) noexcept:
        """Return whether the next bytes were in memory, and are there no longer."""
        return self.growth.window is not None and self.growth.window.lacks(file, self.offset)

    cdef int fault_in(self, Endpoint waiter, size_t n) except -1:
        """Have a thread read the next bytes, then wake the waiter."""
        cdef size_t can = n
        file = self._at(&can)
        future = file.loop.run_in_executor(None, file.touch, self.offset, n)
        future.add_done_callback(lambda future: self._warmed(waiter, future))
        return 0

    def _warmed(self, Endpoint waiter, future):
        # An error, or the end, shows again with its errno when pull() comes to it.
        got = 1 if future.exception() is not None else max(future.result(), 1)
        self.warm_stop = self.offset + got
        waiter.wake()

    cdef Status available(self, Endpoint to, size_t* n) except Status.EXC:
        cdef long long limit
        cdef GrowingFile growth = self.growth
        if growth is None:
            limit = self.stop
        elif growth.state == BROKEN:
            self.reason = growth.reason
            return Status.FAILED
        else:
            limit = growth.visible(self.offset)
            if growth.state == DONE and self.stop < 0:
                self.stop = growth.written
            limit = self.limit_to(limit)
        if self.offset < limit:
            n[0] = <size_t>(limit - self.offset)
            return Status.OK
        if 0 <= self.stop <= self.offset:
            return Status.END
        if growth is None or growth.state == DONE:
            self.reason = "the file is shorter than it should be"
            return Status.FAILED
        growth.wait(self, to)
        return Status.AGAIN

    cdef Status pull(self, Endpoint to, char* p, size_t cap, size_t* n) except Status.EXC:
        cdef size_t can
        cdef long got
        cdef Status status = self.available(to, &can)
        cdef File file
        n[0] = 0
        if status != Status.OK:
            return status
        file = self._at(&can)
        if self.growth is not None and self._is_late(file):
            self.reason = "the bytes are not in memory any more"
            return Status.FAILED
        got = file.read_at(p, min(can, cap), self.offset, self.warm_stop)
        if got == -1:
            self.fault_in(to, min(can, <size_t>FAULT_IN))
            return Status.COLD
        if got <= 0:
            failed = f"reading the cache failed: {strerror(errno).decode()}"
            self.reason = failed if got else "the file was cut"
            return Status.FAILED
        n[0] = got
        self.advance_by(got)
        return Status.END if self.offset == self.stop else Status.OK

    cdef Status span(self, Endpoint to, int* fd, long* offset, size_t* n) except Status.EXC:
        cdef Status status = self.available(to, n)
        cdef File file
        if status != Status.OK:
            return status
        file = self._at(n)
        if self.growth is not None and self._is_late(file):
            self.reason = "the bytes are not in memory any more"
            return Status.FAILED
        fd[0] = file.fd
        offset[0] = self.offset
        # Not more at a time, so that the other connections have their turn.
        n[0] = min(n[0], <size_t>FAULT_IN)
        if self.offset >= self.warm_stop:
            # sendfile waits for the disk. The first and the last page stand for those between them.
            if self._is_cold(file, self.offset) or self._is_cold(file, self.offset + <long long>n[0] - 1):
                self.fault_in(to, n[0])
                return Status.COLD
            self.warm_stop = self.offset + <long long>n[0]
        n[0] = min(n[0], <size_t>(self.warm_stop - self.offset))
        return Status.OK

    cdef bint _is_cold(self, File file, long long offset) except -1:
        """Return whether a read would wait for the disk. An error, or the end, shows when bytes are sent."""
        cdef char byte
        return file.read_at(&byte, 1, offset, self.warm_stop) == -1

    cdef int advance(self, size_t n) except -1:
        return self.advance_by(n)
