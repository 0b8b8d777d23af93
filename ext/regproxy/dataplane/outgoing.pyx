"""What a connection sends: through TLS where it has that, to the kernel, and what the kernel does not take.

An Outgoing is given a head and a body in memory or from a source (`send_head`), or bytes as they come (`emit`
and the like). `flush` and `pump` go on when the kernel takes more. A send that fails is told to the stream
from the event loop: the handler that would hear of it may be in the middle of sending.
"""

cimport cython

from regproxy.dataplane.body cimport Source
from regproxy.dataplane.buffer cimport buf_append, buf_consume, buf_free
from regproxy.dataplane.http1 cimport CHUNK_SIZE_MAX, write_chunk_size
from regproxy.dataplane.reactor cimport (
    BATCH, CROWD_BATCH, FEW, FIRST_BATCH, SCRATCH_OUT, SLOW_BATCH, Reactor,
)
from regproxy.dataplane.tls cimport Conn
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.status cimport Status

cdef enum:
    # No connection has more than this waiting, besides an answer that is in memory as a whole: what a relay
    # adds at once, with the framing of the smallest chunks, stays below it.
    OUT_MAX = OUT_HIGH + 2097152
    CHUNK_HEAD_ROOM = 16
    # The bytes that a socket takes at once, whatever its buffer's size.
    FITS = 16384


cdef int unsent(int fd) noexcept nogil:
    """Return how many bytes of a TCP socket the peer has not confirmed."""
    cdef int n = 0
    return n if ioctl(fd, SIOCOUTQ, &n) == 0 else 0


@cython.final
cdef class Outgoing:
    """The way out of one connection, whose fd is the stream's."""

    def __cinit__(self, Reactor reactor not None, int fd):
        self.reactor = reactor
        self.fd = fd

    def __dealloc__(self):
        buf_free(&self.waiting)

    cdef int close(self) noexcept:
        """Let go of everything: the fd is closed."""
        self.fd = -1
        buf_free(&self.waiting)
        self.stream = None
        self.tls = None
        self.source = None
        return 0

    cdef int stop(self) except -1:
        """Send no more of the source, and what waits yet; the closure alert behind it, where there is TLS."""
        if not self.closing and self.tls is not None and self.tls.established:
            self.emit(NULL, 0, True)
        self.closing = True
        self.source = None
        self.source_waiting = False
        return 0

    # --- what is given -----------------------------------------------------------------------------------

    cdef int send_head(self, bytes head, bytes body, Source source, bint chunked, bint last) except -1:
        """Send head and body, and whatever else fits into the first batch; the source is for `pump`.

        `chunked` frames the source in chunks; `last`: the connection ends behind it.
        """
        cdef size_t n = len(head), m = len(body), got = 0
        cdef Reactor r = self.reactor
        cdef Status status
        self.closing = self.closing or last
        self.whole = n + m
        if n + m > BATCH:
            self.emit(head, n, False)
            self.emit_all(body, m, last and source is None)
        else:
            memcpy(r.plain_out, <const char*>head, n)
            memcpy(r.plain_out + n, <const char*>body, m)
            if (source is not None and n + m < FIRST_BATCH and not chunked and self.waiting.len == 0
                    and not self._sends_files()):
                # The head and the first piece of the body go out together.
                status = source.pull(self.stream, r.plain_out + n + m, FIRST_BATCH - n - m, &got)
                if status == Status.END:
                    source = None
                elif status == Status.AGAIN or status == Status.COLD:
                    self.source_waiting = True
            self.emit(r.plain_out, n + m + got, last and source is None)
        self.source = source
        self.slow = self.swift = False
        self.chunked = chunked
        return 0

    cdef bint _sends_files(self) noexcept:
        return self.tls is not None and self.tls.kernel_sends

    cdef int emit_all(self, const char* p, size_t n, bint last) except -1:
        """Send n bytes of plaintext in batches; see emit()."""
        cdef size_t at = 0, k
        while at < n and not self.dead:
            k = min(n - at, <size_t>BATCH)
            self.emit(p + at, k, last and at + k == n)
            at += k
        return 0

    cdef int emit_chunks(self, const char* p, size_t n) except -1:
        """Send n bytes as chunks of the chunked coding."""
        cdef char* out = self.reactor.plain_out
        cdef size_t at = 0, k, h
        cdef char size_line[CHUNK_SIZE_MAX]
        while at < n and not self.dead:
            k = min(n - at, <size_t>(BATCH - 32))
            h = write_chunk_size(size_line, k)
            memcpy(out, size_line, h)
            memcpy(out + h, p + at, k)
            memcpy(out + h + k, b"\r\n", 2)
            self.emit(out, h + k + 2, False)
            at += k
        return 0

    cdef size_t offer(self, const char* p, size_t n) except? 0:
        """Send up to n bytes of what the waiting source would have pulled next; how many were taken.

        The bytes are in memory just now, so that the way through the file is saved; only a stream whose
        source has caught up, and which has nothing else waiting, takes any.
        """
        cdef size_t at = 0, k
        if self.fd < 0 or self.dead or not self.source_waiting or self.chunked or self.waiting.len:
            return 0
        while at < n and not self.dead and self.waiting.len == 0:
            k = min(n - at, <size_t>BATCH)
            self.emit(p + at, k, False)
            at += k
        return at

    # --- to the kernel -----------------------------------------------------------------------------------

    cdef int emit(self, const char* p, size_t n, bint last) except -1:
        """Send n <= BATCH bytes of plaintext; keep those that the kernel leaves. `last` adds close_notify."""
        cdef Conn tls = self.tls
        cdef size_t done = 0
        cdef Status status = Status.OK
        self.plain_sent += n
        if tls is None:
            return self.transmit(p, n) if n else 0
        if tls.direct:
            if tls.kernel_sends:
                self.transmit(p, n)
            elif n:
                if self.waiting.len == 0:
                    status = tls.write(p, n, &done)
                    self.reactor.wire_bytes_out += done
                    if status == Status.FAILED or status == Status.END:
                        return self._failed(tls.failure())
                if done < n:
                    self._keep(p + done, n - done)
            if last and not self.dead:
                self.alert_due = True
                self._ended()
            return 0
        tls.wire.dest = self.reactor.wire_out
        tls.wire.dest_cap = SCRATCH_OUT
        tls.wire.dest_len = 0
        if n:
            status = tls.write(p, n, &done)
        if status != Status.OK:
            return self._failed(tls.failure())
        if last:
            tls.close_notify()
        return self.transmit(self.reactor.wire_out, tls.wire.dest_len)

    cdef int transmit(self, const char* p, size_t n) except -1:
        """Hand wire bytes to the kernel, or append them to those that wait for it."""
        cdef ssize_t k = 0
        if n == 0:
            return 0
        if self.waiting.len == 0:
            k = send(self.fd, p, n, MSG_NOSIGNAL)
            if k < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self._failed(strerror(errno).decode())
                k = 0
            self.reactor.wire_bytes_out += k
        if <size_t>k < n:
            self.renew()
            return self._keep(p + k, n - k)
        return 0

    cdef int _keep(self, const char* p, size_t n) except -1:
        """Queue n bytes for the kernel; give up a connection with too many queued."""
        if self.waiting.len + n > OUT_MAX + self.whole:
            return self._failed("the peer does not read: too many bytes wait for it")
        return buf_append(&self.waiting, p, n)

    cdef bint flush(self) except -1:
        """Send the waiting bytes; True when none are left."""
        cdef ssize_t k
        cdef size_t done = 0
        cdef Status status
        if self.waiting.len == 0:
            return self._ended()
        if self.tls is not None and self.tls.direct and not self.tls.kernel_sends and self.tls.established:
            status = self.tls.write(self.waiting.data + self.waiting.start, self.waiting.len, &done)
            if status == Status.FAILED or status == Status.END:
                self._failed(self.tls.failure())
                return False
            k = <ssize_t>done
        else:
            k = send(self.fd, self.waiting.data + self.waiting.start, self.waiting.len, MSG_NOSIGNAL)
            if k < 0:
                if errno != EAGAIN and errno != EINTR:
                    self._failed(strerror(errno).decode())
                    return False
                k = 0
        if k:
            self.reactor.wire_bytes_out += k
            buf_consume(&self.waiting, k)
            self.deadline = 0
            if self.waiting.len:
                self.renew()
        return self.waiting.len == 0 and self._ended()

    cdef bint _ended(self) except -1:
        """Send the closure alert that is due; True when none is."""
        if self.alert_due and self.waiting.len == 0:
            if self.tls.kernel_sends and self.plain_sent > FITS:
                self.leaving = unsent(self.fd) or 1
            self.alert_due = self.tls.close_notify() == Status.AGAIN
        return not self.alert_due

    cdef bint confirmed(self) noexcept:
        """Return whether the peer has confirmed everything; where it went on, it has its time anew."""
        cdef int left = unsent(self.fd)
        if left == 0 and self.waiting.len == 0 and not self.alert_due:
            return True
        if left != self.leaving:
            self.renew()
        self.leaving = left or 1
        return False

    cdef int _failed(self, str reason) except -1:
        """Give up: the peer is gone, or does not read."""
        if not self.dead:
            self.dead = True
            buf_free(&self.waiting)
            self.source = None
            self.reactor.loop.call_soon(self._report, reason)
        return 0

    def _report(self, str reason):
        if self.stream is not None:
            self.stream.on_crash(reason)

    # --- the source --------------------------------------------------------------------------------------

    cdef Status pump(self) except Status.EXC:
        """Send a batch of the source; FAILED: that can't go on, `reason` says why."""
        self.deadline = 0
        if self._sends_files() and not self.chunked:
            return self._pump_file()
        if self.source.drains:
            return self._pump_drain()
        return self._pump_batch()

    cdef Status _pump_batch(self) except Status.EXC:
        cdef char* p = self.reactor.plain_out
        cdef char* body = p + CHUNK_HEAD_ROOM
        cdef size_t n = 0, k = 0
        cdef char size_line[CHUNK_SIZE_MAX]
        cdef bint over
        cdef Source source = self.source
        cdef Status status
        if self.tls is not None:
            # More than what went out with the head: a large body.
            self.tls.take_over()
        if self.slow:
            n = SLOW_BATCH
        elif self.reactor.crowd > FEW:
            n = CROWD_BATCH
        else:
            n = BATCH if self.swift else FIRST_BATCH
        status = source.pull(self.stream, body, n, &n)
        if status == Status.FAILED:
            return self._source_failed(source_reason(source))
        if status == Status.AGAIN or status == Status.COLD:
            self.source_waiting = True
            return Status.OK
        over = status == Status.END
        if self.chunked:
            if n:
                k = write_chunk_size(size_line, n)
                memcpy(body - k, size_line, k)
                memcpy(body + n, b"\r\n", 2)
                n += 2
            if over:
                memcpy(body + n, b"0\r\n\r\n", 5)
                n += 5
        if over:
            self.source = None
        self.emit(body - k, n + k, over and self.closing)
        self.slow = self.waiting.len > 0
        self.swift = not self.slow
        return Status.OK

    cdef Status _pump_file(self) except Status.EXC:
        """Have the kernel send a piece of the file that the source is."""
        cdef int fd
        cdef long offset
        cdef size_t n = 0
        cdef ssize_t k
        cdef Source source = self.source
        cdef Status status = source.span(self.stream, &fd, &offset, &n)
        if status == Status.FAILED:
            return self._source_failed(source_reason(source))
        if status == Status.AGAIN or status == Status.COLD:
            self.source_waiting = True
            return Status.OK
        if status == Status.END:
            self.source = None
            if self.closing:
                self.emit(NULL, 0, True)
            return Status.OK
        k = sendfile(self.fd, fd, &offset, n)
        if k == 0:
            return self._source_failed("the file was cut")
        if k > 0:
            source.advance(k)
            self.plain_sent += k
            self.reactor.wire_bytes_out += k
        elif errno == EIO:
            return self._source_failed(f"reading the cache failed: {strerror(errno).decode()}")
        elif errno != EAGAIN and errno != EINTR:
            self._failed(strerror(errno).decode())
        return Status.OK

    cdef Status _pump_drain(self) except Status.EXC:
        """Let the source write to the socket what it takes."""
        cdef ssize_t n = 0
        cdef Status status = self.source.drain(self.fd, &n)
        if status == Status.FAILED:
            self._failed(strerror(-n).decode())
            return Status.OK
        self.plain_sent += n
        self.reactor.wire_bytes_out += n
        if status == Status.END:
            self.source = None
        return Status.OK

    cdef Status _source_failed(self, str reason) except Status.EXC:
        self.source = None
        self.reason = reason
        return Status.FAILED


cdef str source_reason(Source source):
    return getattr(source, "reason", "") or "the body can't be completed"
