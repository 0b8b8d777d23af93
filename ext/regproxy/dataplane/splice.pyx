"""Bytes from one socket to another within the kernel: splice(2), by way of a pipe.

A direction has a pipe only while bytes are in it. Pipes that are free are kept, a few, as long as there are
directions at all. A pipe is filled by one call in an event, and the sender is not read again before it is
empty: what is in it is all that waits for a slow receiver, and the sender's end is seen only behind its last
byte.
"""

from regproxy.dataplane.body cimport Endpoint, Sink, Source
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.stream cimport Stream

cdef enum:
    # What one direction moves in an event, and at most has waiting.
    PIPE_SIZE = 524288
    # Who may have no more pipes of a useful size (pipe(7), pipe-user-pages-soft) copies instead.
    PIPE_SIZE_MIN = 65536
    SPARE_MAX = 8

# Empty pipes: their reading and their writing ends. All belong to the event loop's thread.
cdef int[SPARE_MAX][2] spare
cdef int spare_count = 0
cdef long long open_pipes = 0
cdef long long directions = 0


def live() -> int:
    """Return how many pipes are open, those that are kept for the next direction included."""
    return open_pipes


cdef bint take_pipe(int* ends) noexcept:
    """Take a spare pipe, or make one; False where there is none to be had."""
    global spare_count, open_pipes
    if spare_count:
        spare_count -= 1
        ends[0] = spare[spare_count][0]
        ends[1] = spare[spare_count][1]
        return True
    if pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0:
        return False
    open_pipes += 1
    if fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE) < 0 and fcntl(ends[1], F_GETPIPE_SZ) < PIPE_SIZE_MIN:
        close_pipe(ends)
        return False
    return True


cdef void give_pipe(int* ends) noexcept:
    """Keep an empty pipe for whoever has bytes next, or close it."""
    global spare_count
    if spare_count == SPARE_MAX:
        close_pipe(ends)
        return
    spare[spare_count][0] = ends[0]
    spare[spare_count][1] = ends[1]
    spare_count += 1


cdef void close_pipe(int* ends) noexcept:
    global open_pipes
    close(ends[0])
    close(ends[1])
    open_pipes -= 1


cdef bint unsupported(ssize_t error) noexcept:
    """Tell whether splice() can't be used here at all: by the sockets' kind, the kernel, a seccomp filter."""
    return error == EINVAL or error == ENOSYS or error == EPERM


cdef class Pipe(Source):
    """The bytes of one direction on their way, `held` of them; it has a pipe while there are any."""

    cdef int[2] ends
    cdef size_t held

    def __cinit__(self):
        global directions
        self.drains = True
        self.ends[0] = -1
        directions += 1

    def __dealloc__(self):
        global directions, spare_count
        directions -= 1
        if self.ends[0] >= 0:
            # Of a receiver that is gone: what is in it is nobody's.
            close_pipe(self.ends)
        while directions == 0 and spare_count:
            spare_count -= 1
            close_pipe(spare[spare_count])

    cdef ssize_t fill(self, int fd) noexcept:
        """Take what a socket holds, up to the pipe's size; 0 at its end, -errno if that fails."""
        cdef ssize_t n
        if not take_pipe(self.ends):
            self.ends[0] = -1
            return -EINVAL
        n = splice(fd, NULL, self.ends[1], NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n < 0:
            n = -errno
        if n > 0:
            self.held = n
        else:
            self.release()
        return n

    cdef void release(self) noexcept:
        give_pipe(self.ends)
        self.ends[0] = -1

    cdef Status drain(self, int fd, ssize_t* n) except Status.EXC:
        cdef ssize_t k
        k = splice(self.ends[0], NULL, fd, NULL, self.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if k < 0:
            if errno == EAGAIN or errno == EINTR:
                return Status.OK
            if unsupported(errno):
                # pull() has the rest.
                self.drains = False
                return Status.OK
            n[0] = -errno
            return Status.FAILED
        n[0] = k
        self.held -= k
        if self.held:
            return Status.OK
        self.release()
        return Status.END

    cdef Status pull(self, Endpoint to, char* p, size_t cap, size_t* n) except Status.EXC:
        cdef ssize_t k = read(self.ends[0], p, min(cap, self.held))
        if k < 0:
            raise OSError(errno, "read from a pipe")
        n[0] = k
        self.held -= k
        if self.held:
            return Status.OK
        self.release()
        return Status.END


cdef class SpliceSink(Sink):
    """Relays a body that ends with its connection to another stream, both without TLS.

    What has been read already, and all of it where there is no splice(), is copied as by a StreamSink. A slow
    receiver holds the sender back.
    """

    cdef Stream target
    cdef Pipe pipe

    def __cinit__(self, Stream target not None):
        self.target = target
        self.reason = ""
        self.pipe = Pipe()
        self.draws = target.tls is None

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef Status status = self.target.write(origin, p, n)
        if status == Status.FAILED:
            self.reason = "the receiver is gone"
        return status

    cdef Status draw(self, Endpoint origin, ssize_t* n) except Status.EXC:
        cdef Stream target = self.target
        if target.fd < 0 or target.out.dead or (self.pipe.held and target.out.source is not self.pipe):
            # Gone, or closed by its handler, or made to send something else.
            self.reason = "the receiver is gone"
            return Status.FAILED
        if not target.can_drain():
            target.feeder = origin
            return Status.AGAIN
        self.draws = self.pipe.drains
        if not self.draws:
            return Status.OK
        n[0] = self.pipe.fill(origin.fd)
        if n[0] > 0:
            if not target.send_from(origin, self.pipe):
                return Status.AGAIN
            return Status.OK
        if n[0] == 0:
            return Status.END
        if n[0] == -EAGAIN or n[0] == -EINTR:
            n[0] = 0
            return Status.OK
        if unsupported(-n[0]):
            # The event comes again, and what it tells of is read and pushed.
            self.draws = False
            n[0] = 0
            return Status.OK
        return Status.FAILED
