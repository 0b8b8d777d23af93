"""Bodies: file -> stream, stream -> growing file with SHA-256, stream -> stream."""

from libc.stdlib cimport free, malloc

from regproxy._stream cimport Sink, Source, Stream
from regproxy.openssl cimport *
from regproxy.posix cimport *
from regproxy.status cimport Status

cdef enum:
    # The end of a body stays here until its digest has matched: nobody can take a wrong body for complete.
    HOLD_BACK = 16384
    FAULT_IN = 1048576
    NO_LIMIT = 0
    # So many readers get new bytes from memory; more of them read the file, each in its turn.
    OFFERS = 2

cdef long long live_files = 0
cdef EVP_MD* sha256 = EVP_MD_fetch(NULL, b"SHA2-256", NULL)


def live() -> int:
    """How many files are open."""
    return live_files


cdef class File:
    """An open file that is read by offset; it closes when the last reader has let go of it.

    Takes over `fd`. `size` is in bytes, -1 while it grows.
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

        `warm_stop`: up to where a thread has read already, for file systems without RWF_NOWAIT.
        """
        cdef iovec vec
        cdef ssize_t got
        if self.nowait:
            vec.iov_base = p
            vec.iov_len = n
            got = preadv2(self.fd, &vec, 1, offset, RWF_NOWAIT)
            if got >= 0:
                return got
            if errno == EAGAIN:
                return -1
            if errno != EOPNOTSUPP and errno != EINVAL:
                return -2
            self.nowait = False
        if offset >= warm_stop:
            return -1
        got = pread(self.fd, p, min(n, <size_t>(warm_stop - offset)), offset)
        return got if got >= 0 else -2

    def close(self) -> None:
        """Close now, for a file that nobody may read any more, whoever still holds it."""
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


cdef class Growth(Sink):
    """A part file that grows as the origin's body arrives, hashed on the way, with any number of readers.

    `finish()` lets the readers have the end, `fail(reason)` cuts them.
    """

    def __cinit__(self, File file not None, long long limit=NO_LIMIT):
        self.file = file
        self.limit = limit
        self.total = -1
        self.waiters = []
        self.reason = ""
        self.md = EVP_MD_CTX_new()
        if self.md == NULL or EVP_DigestInit_ex2(self.md, sha256, NULL) != 1:
            raise MemoryError

    def __dealloc__(self):
        EVP_MD_CTX_free(self.md)

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def failed(self) -> bool:
        return self.state == BROKEN

    @property
    def waiting(self) -> int:
        """Readers that have sent all there is."""
        return len(self.waiters)

    def expect(self, long long total) -> None:
        """The length that the origin declared, in bytes; -1: it did not."""
        self.total = total

    def hexdigest(self) -> str:
        """SHA-256 of all that was written; once only."""
        cdef unsigned char digest[64]
        cdef unsigned int n = 0
        EVP_DigestFinal_ex(self.md, digest, &n)
        return digest[:n].hex()

    def finish(self) -> None:
        self.state = DONE
        self.total = self.written
        self.wake_all()

    def fail(self, str reason not None) -> None:
        if self.state == GROWING:
            self.state = BROKEN
            self.reason = reason
            self.wake_all()

    cdef Status push(self, Stream origin, const char* p, size_t n) except Status.EXC:
        cdef size_t at = 0
        cdef ssize_t k
        if self.limit != NO_LIMIT and self.written + <long long>n > self.limit:
            self.reason = f"the body is larger than {self.limit} bytes"
            return Status.FAILED
        while at < n:
            k = pwrite(self.file.fd, p + at, n - at, self.written + <long long>at)
            if k < 0:
                if errno == EINTR:
                    continue
                self.disk_failed = True
                self.reason = f"writing to the cache failed: {strerror(errno).decode()}"
                return Status.FAILED
            at += k
        EVP_DigestUpdate(self.md, p, n)
        self.written += n
        if len(self.waiters) <= OFFERS:
            self._offer_all(p, n)
        self.wake_all()
        return Status.OK

    cdef int _offer_all(self, const char* p, size_t n) except -1:
        """Give new bytes straight to readers that have caught up; with many, the loop shares better."""
        cdef FileSource source
        cdef long long start = self.written - <long long>n, limit = self.visible()
        cdef size_t taken
        for source, reader in self.waiters:
            if start <= source.offset < limit:
                if source.limit_to(limit) <= source.offset:
                    continue
                taken = <size_t>(source.limit_to(limit) - source.offset)
                source.offset += (<Stream>reader).offer(p + (source.offset - start), taken)
        return 0

    cdef long long visible(self) noexcept:
        """How many bytes readers may have now."""
        cdef long long n
        if self.state == DONE:
            return self.written
        n = (self.total if self.total >= 0 else self.written) - HOLD_BACK
        if n > self.written:
            n = self.written
        return n if n > 0 else 0

    cdef int wait(self, FileSource source, Stream reader) except -1:
        self.waiters.append((source, reader))
        return 0

    cdef int wake_all(self) except -1:
        # wake() only arms the reader, so nobody is added to the list meanwhile.
        for _, reader in self.waiters:
            (<Stream>reader).wake()
        self.waiters.clear()
        return 0


cdef class FileSource(Source):
    """Bytes [start, stop) of a file; with `growth`, as far as it has grown. stop -1: to its end."""

    def __cinit__(self, File file not None, long long start, long long stop, Growth growth=None):
        self.file = file
        self.growth = growth
        self.offset = start
        self.stop = stop
        self.reason = ""

    cdef int fault_in(self, Stream waiter, size_t n) except -1:
        """Have a thread read what comes next, then wake the waiter."""
        file = self.file
        future = file.loop.run_in_executor(None, file.touch, self.offset, n)
        future.add_done_callback(lambda future: self._warmed(waiter, future))
        return 0

    def _warmed(self, Stream waiter, future):
        # An error, or the end, shows again with its errno when pull() comes to it.
        got = 1 if future.exception() is not None else max(future.result(), 1)
        self.warm_stop = self.offset + got
        waiter.wake()

    cdef long long limit_to(self, long long visible) noexcept:
        """How far this reader may read of what is visible."""
        return self.stop if 0 <= self.stop < visible else visible

    cdef Status available(self, Stream to, size_t* n) except Status.EXC:
        cdef long long limit
        cdef Growth growth = self.growth
        if growth is None:
            limit = self.stop
        elif growth.state == BROKEN:
            self.reason = growth.reason
            return Status.FAILED
        else:
            limit = growth.visible()
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

    cdef Status pull(self, Stream to, char* p, size_t cap, size_t* n) except Status.EXC:
        cdef size_t can
        cdef long got
        cdef Status status = self.available(to, &can)
        n[0] = 0
        if status != Status.OK:
            return status
        got = self.file.read_at(p, min(can, cap), self.offset, self.warm_stop)
        if got == -1:
            self.fault_in(to, min(can, <size_t>FAULT_IN))
            return Status.COLD
        if got <= 0:
            failed = f"reading the cache failed: {strerror(errno).decode()}"
            self.reason = failed if got else "the file was cut"
            return Status.FAILED
        n[0] = got
        self.offset += got
        return Status.END if self.offset == self.stop else Status.OK

    cdef Status span(self, Stream to, int* fd, long* offset, size_t* n) except Status.EXC:
        cdef Status status = self.available(to, n)
        fd[0] = self.file.fd
        offset[0] = self.offset
        if status != Status.OK:
            return status
        # Not more at a time, so that the other connections have their turn.
        n[0] = min(n[0], <size_t>FAULT_IN)
        if self.offset >= self.warm_stop:
            # sendfile waits for the disk. The first and the last page stand for those between them.
            if self._is_cold(self.offset) or self._is_cold(self.offset + <long long>n[0] - 1):
                self.fault_in(to, n[0])
                return Status.COLD
            self.warm_stop = self.offset + <long long>n[0]
        n[0] = min(n[0], <size_t>(self.warm_stop - self.offset))
        return Status.OK

    cdef bint _is_cold(self, long long offset) except -1:
        """Whether the disk would have to be waited for. An error, or the end, shows when bytes are sent."""
        cdef char byte
        return self.file.read_at(&byte, 1, offset, self.warm_stop) == -1

    cdef int advance(self, size_t n) except -1:
        self.offset += n
        return 0


cdef class StreamSink(Sink):
    """Relays a body to another stream; `chunked` frames it anew. A slow receiver holds the sender back."""

    def __cinit__(self, Stream target not None, bint chunked=False):
        self.target = target
        self.chunked = chunked
        self.reason = ""

    cdef Status push(self, Stream origin, const char* p, size_t n) except Status.EXC:
        cdef Status status
        if self.chunked:
            status = self.target.write_chunk(origin, p, n)
        else:
            status = self.target.write(origin, p, n)
        if status == Status.FAILED:
            self.reason = "the receiver is gone"
        return status


cdef class BytesSink(Sink):
    """Collects a small body, at most `limit` bytes."""

    def __cinit__(self, size_t limit):
        self.data = bytearray()
        self.limit = limit
        self.reason = ""

    cdef Status push(self, Stream origin, const char* p, size_t n) except Status.EXC:
        if len(self.data) + n > self.limit:
            self.reason = f"the body is larger than {self.limit} bytes"
            return Status.FAILED
        self.data += p[:n]
        return Status.OK
