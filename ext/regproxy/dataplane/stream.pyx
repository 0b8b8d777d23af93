"""An fd with or without TLS: readiness, the head cut, bodies in and out, back-pressure, timeouts.

A Stream tells its handler (a Python object) what happened, once per message head and never per chunk:

    on_connect(host, port, login)
                                a CONNECT head; host is None where its target can't be understood, login is
                                its Proxy-Authorization, None without one
    on_foreign(kind)            the first byte is not what was expected: "tls" before, "plain" after CONNECT
    on_head(head)               a whole head, blank line included; nothing more is read until asked for
    on_answering(owner, began, request_id)
                                an Answer is being sent again, and has not gone out at once; on_sent() follows
    on_head_too_large()         no blank line within the limit
    on_handshake()              TLS is up
    on_body(complete, reason)   the body that `receive` asked for is over
    on_sent()                   the kernel has all that an earlier send() could not hand to it at once
    on_source_failed(reason)    the body that is being sent can't be completed
    on_eof(partial)             the peer ended the connection between heads (partial: within one)
    on_timeout(what)            "read" or "send": nothing moved for too long
    on_closed(reason)           the connection broke; the stream is closed already
"""

from libc.stdlib cimport free
from libc.string cimport memset
from libc.stdint cimport uint32_t, uint64_t

from regproxy.dataplane.answers cimport Answer, Answers
from regproxy.dataplane.body cimport Endpoint, Sink, Source
from regproxy.dataplane.buffer cimport Buf, buf_append, buf_consume, buf_free
from regproxy.dataplane.http1 cimport (
    HEAD_PARTIAL, HEAD_TOO_LARGE, cut_head, empty_lines, find_field, find_head_end, parse_connect,
)
from regproxy.dataplane.reactor cimport SCRATCH_IN, SCRATCH_OUT, Reactor
from regproxy.dataplane.proxy_protocol cimport (
    PREFACE_BAD, PREFACE_PARTIAL, PREFACE_SOURCE, parse_preface,
)
from regproxy.dataplane.read_states cimport (
    READ_BODY, READ_HEAD, READ_IDLE, READ_LINGERING, READ_PAUSED, READ_PREFACE, ReadState, check_step,
)
from regproxy.dataplane.records cimport ENCRYPTED_MAX
from regproxy.dataplane.incoming_body cimport IncomingBody, is_held
from regproxy.dataplane.outgoing cimport OUT_HIGH, Outgoing
from regproxy.dataplane.tls cimport Conn
from regproxy.dataplane.tls_contexts cimport Context
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.status cimport Status

cdef enum:
    HEADS_PER_EVENT = 64
    LINGER_MS = 2000
    LEAVING_MS = 500
    TLS_HANDSHAKE_BYTE = 0x16

cdef long long live_streams = 0


def live() -> int:
    """Return how many streams have an open fd."""
    return live_streams


cdef double monotonic() noexcept nogil:
    """Return the seconds of CLOCK_MONOTONIC, as time.monotonic() does."""
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <double>ts.tv_sec + <double>ts.tv_nsec * 1e-9


cdef str address_text(sockaddr_storage* address):
    """Return an IP address as text, without its port; IPv4 mapped into IPv6 as IPv4. "" for any other."""
    cdef char text[64]
    cdef void* ip
    if address.ss_family == AF_INET6:
        ip = &(<sockaddr_in6*>address).sin6_addr
    elif address.ss_family == AF_INET:
        ip = &(<sockaddr_in*>address).sin_addr
    else:
        return ""
    if inet_ntop(address.ss_family, ip, text, 64) == NULL:
        return ""
    return text.decode().removeprefix("::ffff:")


cdef tuple address_and_port(sockaddr_storage* address):
    """Return an IP address as text and its port; ("", 0) for any other."""
    if address.ss_family == AF_INET6:
        return address_text(address), ntohs((<sockaddr_in6*>address).sin6_port)
    if address.ss_family == AF_INET:
        return address_text(address), ntohs((<sockaddr_in*>address).sin_port)
    return "", 0


cdef inline int _set_state(Stream stream, ReadState to) except -1:
    """Go to another state of reading: the only place that does.

    A handler that asks for what `read_states` does not allow gets what it asked for, and nothing breaks here;
    it has lost count of its messages, though, which is an AssertionError on a debug reactor. Of a stream that
    is closed nothing comes, whatever is asked.
    """
    if stream.reactor.debug and stream.fd >= 0:
        check_step(stream.state, to)
    stream.state = to
    return 0


cdef class Stream(Endpoint):
    """One connection. `Stream(reactor, fd)` takes over a connected, non-blocking socket.

    If that fails, `fd` is still the caller's.
    """

    def __cinit__(self, Reactor reactor not None, int fd, bint front=False, size_t head_limit=32768):
        global live_streams
        self.fd = fd
        self.front = front
        self.head_limit = head_limit
        self.out = Outgoing(reactor, fd)
        # The interest of a connection that waits for a head, which is how nearly all of them begin.
        reactor.watch(self, EPOLLIN | EPOLLRDHUP)
        self.out.stream = self
        live_streams += 1
        reactor.streams_open += 1

    def __dealloc__(self):
        # A registered stream is held by the reactor, so it can only get here closed.
        buf_free(&self.inb)

    # --- the Python interface ----------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        return self.fd >= 0

    @property
    def idle(self) -> bool:
        """Nothing was asked for: between heads, or before the first byte of a handshake."""
        if self.handshaking:
            return not self.fed
        return self.state == READ_HEAD and self.inb.len == 0 and self.out.waiting.len == 0

    @property
    def unannounced(self) -> bool:
        """A balancer has yet to say who connects: there is no handler so far."""
        return self.state == READ_PREFACE

    @property
    def waiting(self) -> int:
        """The number of bytes that the kernel has not taken yet."""
        return self.out.waiting.len

    @property
    def plain_sent(self) -> int:
        """The number of bytes that were sent so far, before TLS, with those that wait."""
        return self.out.plain_sent

    @property
    def spent(self) -> bool:
        """Whether TLS has sent so many records under one key that the connection should end."""
        return self.tls is not None and self.tls.spent()

    @property
    def half_closed(self) -> bool:
        return self.eof_in or self.rdhup

    @property
    def peer(self) -> str:
        """The other side's address, without its port."""
        return address_text(&self.peer_address)

    @property
    def here(self) -> tuple[str, int]:
        """This side's address and port, which a client has connected to; ("", 0) once it is closed."""
        cdef sockaddr_storage address
        cdef socklen_t n = sizeof(sockaddr_storage)
        if self.fd < 0 or getsockname(self.fd, <sockaddr*>&address, &n) != 0:
            return "", 0
        return address_and_port(&address)

    @property
    def there(self) -> tuple[str, int]:
        """The other side's address and port, as the kernel has them; ("", 0) once it is closed."""
        cdef sockaddr_storage address
        cdef socklen_t n = sizeof(sockaddr_storage)
        if self.fd < 0 or getpeername(self.fd, <sockaddr*>&address, &n) != 0:
            return "", 0
        return address_and_port(&address)

    def set_send_timeout(self, double seconds) -> None:
        self.out.timeout = <long>(seconds * 1000)

    def stand_in(self, Stream client not None) -> None:
        """Be the connection of this client from now on: this is one end of a pair. `peer` is its address."""
        self.peer_address = client.peer_address
        self.paired = True

    def start_tls(self, Context context not None, bytes host not None, bint is_ip, double timeout) -> None:
        """Begin the handshake, as the context's side, for `timeout` seconds at most.

        Bytes read beyond the last head belong to it.
        """
        cdef Buf early = self.inb
        # A socket's own BIO would not see bytes that have been read already.
        self.tls = self.out.tls = Conn(context, host, -1 if early.len else self.fd, is_ip)
        memset(&self.inb, 0, sizeof(Buf))
        self.handshaking = True
        self.fed = False
        self.front = False
        self.in_deadline = self.reactor.now + <uint64_t>(timeout * 1000)
        try:
            if early.len or not context.server or self.tls.direct:
                self._decrypt(early.data + early.start if early.len else NULL, early.len)
        finally:
            buf_free(&early)
        self._arm()

    def next_head(self, double idle_timeout, double head_timeout) -> None:
        """Read the next head: `idle_timeout` seconds until its first byte, then `head_timeout` for all of it.

        0 is no limit.
        """
        self._next_head(idle_timeout, head_timeout)

    cdef int _next_head(self, double idle_timeout, double head_timeout) except -1:
        cdef double first = head_timeout if self.inb.len else idle_timeout
        _set_state(self, READ_HEAD)
        self.scanned = 0
        self.head_begun = self.inb.len > 0
        self.head_timeout = <long>(head_timeout * 1000)
        self.in_timeout = 0
        self.in_deadline = self.reactor.now + <uint64_t>(first * 1000) if first else 0
        if self.inb.len:
            self._process()
        if self.fd < 0:
            return 0
        if self.eof_in or (self.tls is not None and self.tls.direct and not self.in_event):
            # The end, or bytes inside OpenSSL, that no event will tell of again.
            self.reactor.loop.call_soon(self._again)
        return self._arm()

    def watch_idle(self, double timeout) -> bool:
        """Keep an origin's idle connection; False where it already has bytes or its end waiting."""
        if self.fd < 0 or self.inb.len or self.eof_in or self.rdhup or self.out.dead:
            return False
        if self.tls is not None and not self.tls.drained():
            # No event would report bytes that OpenSSL has read already.
            return False
        _set_state(self, READ_IDLE)
        self.in_timeout = 0
        self.in_deadline = self.reactor.now + <uint64_t>(timeout * 1000)
        self._arm()
        return True

    def reusable(self) -> bool:
        """Check whether an idle connection can take a request: nothing has come since the last event.

        What has would be taken for the answer. Over TLS a record counts, whatever is in it: the tickets of
        TLS 1.3 come ahead of the first answer and are read with it, and one that comes later is read by the
        event that tells of it. Only one that comes in this very turn of the loop costs another connection.
        """
        cdef char byte
        if self.state != READ_IDLE or self.fd < 0 or self.out.dead or self.eof_in or self.rdhup:
            return False
        if self.inb.len or self.out.waiting.len or (self.tls is not None and not self.tls.drained()):
            return False
        return recv(self.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN

    def receive(self, Sink sink not None, str framing, long long length, double timeout) -> None:
        """Give the body to the sink: framing "length", "chunked" or "eof"; on_body tells its end."""
        cdef IncomingBody body = IncomingBody(sink, framing, length)
        _set_state(self, READ_BODY)
        self.body = body
        self.in_timeout = <long>(timeout * 1000)
        self.in_deadline = self.reactor.now + self.in_timeout
        self._drain_body()
        self._arm()

    def pause(self) -> None:
        """Read nothing until told otherwise."""
        _set_state(self, READ_PAUSED)
        if self.body is not None:
            self.body.held = False
        self.in_deadline = 0
        self._arm()

    def send(self, bytes head not None, bytes body=b"", Source source=None, bint chunked=False,
             bint last=False) -> bool:
        """Send head, body and then the source; True: the kernel has it all, False: on_sent() will follow.

        `chunked` frames the source in chunks; `last` ends the connection after it.
        """
        return self._send(head, body, source, chunked, last)

    cdef bint _send(self, bytes head, bytes body, Source source, bint chunked, bint last) except -1:
        if self.fd < 0 or self.out.dead:
            return False
        self.out.send_head(head, body, source, chunked, last)
        return self._settled()

    def notify_sent(self) -> bool:
        """Return True where nothing waits to be sent; otherwise on_sent() will be called."""
        return self._settled()

    def end_chunks(self) -> bool:
        """Send the last chunk of a body that write_chunk framed; answers as send() does."""
        if self.fd < 0 or self.out.dead:
            return False
        self.out.emit(b"0\r\n\r\n", 5, False)
        return self._settled()

    def shut_write(self) -> None:
        """Forward a half-close once everything is out (tunnels)."""
        if self.fd >= 0 and not self.out.dead:
            if self.out.waiting.len:
                self.shut_later = True
            else:
                self._shut()

    def extend_read(self, double seconds) -> None:
        """Wait that much longer for the next byte."""
        self.in_deadline = self.reactor.now + <uint64_t>(seconds * 1000)

    def close(self, bint linger=False) -> None:
        """End the connection in order, after all waiting bytes are sent.

        `linger` reads on for a moment: a peer that is still sending would otherwise get a reset that
        destroys our last answer (RFC 9112 section 9.6).
        """
        self._close(linger)

    cdef int _close(self, bint linger) except -1:
        if self.fd < 0:
            return 0
        if self.out.dead:
            self._destroy()
            return 0
        self.out.stop()
        self.linger = linger
        self.body = None
        _set_state(self, READ_PAUSED)
        self.in_deadline = 0
        self.tell_sent = False
        if self.fd >= 0 and self.out.waiting.len == 0 and not self.out.alert_due:
            self._drained()
        if self.fd >= 0:
            if (self.out.waiting.len or self.out.alert_due) and not self.out.deadline:
                self.out.deadline = self.reactor.now + (self.out.timeout or LINGER_MS)
            self._arm()
        return 0

    def abort(self) -> None:
        """Cut the connection by a reset: the peer can't take what it has for complete."""
        cdef linger now
        if self.fd < 0:
            return
        now.l_onoff = 1
        now.l_linger = 0
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
        self._destroy()

    # --- events ------------------------------------------------------------------------------------------

    cdef int on_events(self, uint32_t events) except -1:
        cdef int error = 0
        cdef socklen_t n = sizeof(error)
        self.in_event = True
        try:
            if events & EPOLLOUT:
                self._writable()
            if self.fd >= 0 and events & EPOLLIN and self.interest & EPOLLIN and not is_held(self.body):
                if self.state != READ_PAUSED or self.handshaking:
                    self._readable()
                    if self.fd >= 0 and events & (EPOLLERR | EPOLLHUP) and self.state != READ_PAUSED:
                        return 0    # whatever is left to read comes before the end
            if self.fd >= 0 and events & EPOLLHUP and not events & EPOLLERR and (
                    self.write_shut or (self.paired and self.state == READ_BODY)):
                # Both sides have ended, in order: what the kernel still holds is read first, when it can be.
                self.hup = True
                self.rdhup = True
            elif self.fd >= 0 and events & (EPOLLERR | EPOLLHUP):
                getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &n)
                self._broken(strerror(error).decode() if error else "connection closed by the peer")
            elif events & EPOLLRDHUP:
                # The peer will send nothing more; it may still read, and what it sent may still be unread.
                self.rdhup = True
        finally:
            self.in_event = False
            if self.fd >= 0:
                self._arm()
        return 0

    cdef int on_tick(self, uint64_t now) except -1:
        if self.in_deadline and now > self.in_deadline and not is_held(self.body):
            self.in_deadline = 0
            if self.out.leaving:
                self._leave()
            elif self.out.closing:
                self._destroy()
            elif self.state == READ_PREFACE:
                self._refuse_preface("none came in time")
            else:
                self.handler.on_timeout("read")
        elif self.out.deadline and now > self.out.deadline:
            self.out.deadline = 0
            if self.out.closing and not self.tell_sent:
                self.abort()
            else:
                self.handler.on_timeout("send")
        return 0

    cdef int on_crash(self, str reason) except -1:
        return self._broken(reason)

    cdef int _arm(self) except -1:
        """Tell epoll what we wait for now. Within an event this is done once, at its end."""
        cdef uint32_t want = 0
        if self.in_event or self.fd < 0:
            return 0
        if not self.rdhup:
            want = EPOLLRDHUP
        if not self.eof_in and (
            self.handshaking or (self.state != READ_PAUSED and not is_held(self.body) and not self.backlog)
        ):
            want |= EPOLLIN
        if self.out.sending():
            want |= EPOLLOUT
        if self.hup and not want & EPOLLIN:
            # EPOLLHUP can't be masked; edge-triggered it is told once, and again when we want to read.
            want |= EPOLLET
        if want != self.interest:
            self.reactor.rewatch(self, want)
        return 0

    # --- incoming ----------------------------------------------------------------------------------------

    cdef int _readable(self) except -1:
        cdef ssize_t n
        if self.tls is not None and self.tls.direct:
            return self._read_direct()
        if self.body is not None and self.body.draws() and self.inb.len == 0:
            if self.tls is None:
                return self._draw()
        n = recv(self.fd, self.reactor.wire_in, SCRATCH_IN, 0)
        if n < 0:
            if errno == EAGAIN or errno == EINTR:
                return 0
            return self._broken(strerror(errno).decode())
        if n == 0:
            return self._on_eof(False)
        self.reactor.wire_bytes_in += n
        if self.tls is None:
            return self._take(self.reactor.wire_in, n)
        return self._decrypt(self.reactor.wire_in, n)

    cdef int _draw(self) except -1:
        """Let the sink take the body from the socket; such a body ends with the connection."""
        cdef ssize_t n = 0
        cdef IncomingBody body = self.body
        cdef Status status = body.sink.draw(self, &n)
        if status == Status.FAILED:
            return self._broken(strerror(-n).decode()) if n else self._body_over(False, body.sink.reason)
        if status == Status.END:
            return self._on_eof(False)
        self.plain_received += n
        self.reactor.wire_bytes_in += n
        if self.in_timeout:
            self.in_deadline = self.reactor.now + self.in_timeout
        body.held = status == Status.AGAIN
        return 0

    cdef int _decrypt(self, const char* p, size_t n) except -1:
        """Feed cipher text; plaintext goes on to _take. All of it is used up, whatever the handler does."""
        cdef Conn tls = self.tls
        cdef Reactor r = self.reactor
        cdef size_t filled, got
        cdef Status status
        if tls.direct:
            return self._read_direct()
        if self.handshaking and n and self._not_tls(<unsigned char>p[0]):
            return 0
        tls.wire.source = p
        tls.wire.source_len = n
        if self.handshaking:
            self._shake()
            if self.fd < 0 or self.handshaking:
                return 0
        while self.fd >= 0:
            filled = 0
            status = Status.OK
            tls.wire.dest = r.wire_out
            tls.wire.dest_cap = SCRATCH_OUT
            tls.wire.dest_len = 0
            while filled + ENCRYPTED_MAX <= SCRATCH_IN:
                status = tls.read(r.plain_in + filled, SCRATCH_IN - filled, &got)
                if status != Status.OK:
                    break
                filled += got
                if tls.drained():
                    status = Status.AGAIN
                    break
            if tls.wire.dest_len:
                self.out.transmit(r.wire_out, tls.wire.dest_len)
            # Whoever takes the data may use OpenSSL, which forgets why we have failed.
            reason = tls.failure() if status == Status.FAILED else ""
            if filled:
                self._take(r.plain_in, filled)
            if status == Status.AGAIN or self.fd < 0:
                return 0
            if status == Status.END:
                return self._on_eof(True)
            if status == Status.FAILED:
                return self._broken(reason)
        return 0

    cdef bint _not_tls(self, unsigned char first) except -1:
        """Look at the first byte, which should be a ClientHello's; plain text gets a plain answer."""
        if self.fed or not self.tls.context.server:
            return False
        self.fed = True
        if first == TLS_HANDSHAKE_BYTE:
            return False
        self.tls = self.out.tls = None
        self.handshaking = False
        self.in_deadline = 0
        self.handler.on_foreign("plain")
        return True

    cdef int _shake(self) except -1:
        cdef Conn tls = self.tls
        cdef Reactor r = self.reactor
        cdef Status status
        tls.wire.dest = r.wire_out
        tls.wire.dest_cap = SCRATCH_OUT
        tls.wire.dest_len = 0
        status = tls.handshake()
        if tls.wire.dest_len:
            self.out.transmit(r.wire_out, tls.wire.dest_len)
        if status == Status.AGAIN:
            return 0
        if status == Status.END:
            return self._on_eof(False)
        if status != Status.OK:
            if tls.context.server:
                r.handshakes_failed += 1
            else:
                r.upstream_handshakes_failed += 1
            return self._broken(f"TLS handshake failed: {tls.failure()}")
        if tls.context.server:
            r.handshakes_done += 1
        else:
            r.upstream_handshakes_done += 1
        self.handshaking = False
        self.in_deadline = 0
        self.handler.on_handshake()
        return 0

    cdef int _read_direct(self) except -1:
        """The socket's own BIO: OpenSSL or the kernel reads; stop when told to, or when there is no more."""
        cdef Conn tls = self.tls
        cdef Reactor r = self.reactor
        cdef size_t got, filled
        cdef Status status = Status.OK
        cdef ssize_t peeked
        cdef char first
        if self.handshaking:
            if not self.fed and tls.context.server:
                peeked = recv(self.fd, &first, 1, MSG_PEEK)
                if peeked < 0 and (errno == EAGAIN or errno == EINTR):
                    # What comes from now on must not be read before it has been looked at.
                    return 0
                if peeked == 1 and self._not_tls(<unsigned char>first):
                    return 0
            self._shake()
        while (self.fd >= 0 and not self.handshaking and self.state != READ_PAUSED and not is_held(self.body)
               and not self.backlog):
            filled = 0
            while filled + ENCRYPTED_MAX <= SCRATCH_IN:
                status = tls.read(r.plain_in + filled, SCRATCH_IN - filled, &got)
                if status != Status.OK:
                    break
                filled += got
            r.wire_bytes_in += filled
            # As in _decrypt: whoever takes the data may use OpenSSL.
            reason = tls.failure() if status == Status.FAILED else ""
            if filled:
                self._take(r.plain_in, filled)
            if self.fd < 0 or status == Status.AGAIN:
                return 0
            if status == Status.END:
                return self._on_eof(True)
            if status == Status.FAILED:
                if "unexpected eof" in reason:
                    return self._on_eof(False)
                return self._broken(reason)
        return 0

    def _again(self):
        """Go on with what was left when the last event ended."""
        if self.fd < 0:
            return
        self.backlog = False
        self.in_event = True
        try:
            self._process()
            if self.fd >= 0 and self.eof_in and self.state == READ_HEAD and not self.backlog:
                self._on_eof(self.eof_clean)
            elif self.fd >= 0 and self.tls is not None and self.tls.direct and not is_held(self.body):
                self._read_direct()
        except Exception as exc:
            self.reactor._crash(self, exc)
        finally:
            self.in_event = False
            if self.fd >= 0:
                self._arm()

    cdef int expect_preface(self, object on_welcome, object on_refused, long timeout) except -1:
        """Read a header of the PROXY protocol, then call on_welcome(stream): before that it has no handler.

        A header that is none, or has not come after `timeout` ms, is the end: on_refused(peer, reason).
        """
        self.on_welcome = on_welcome
        self.on_refused = on_refused
        self.in_deadline = self.reactor.now + timeout
        return _set_state(self, READ_PREFACE)

    cdef int _read_preface(self) except -1:
        cdef sockaddr_storage source
        cdef size_t used = 0
        cdef int found = parse_preface(self.inb.data + self.inb.start, self.inb.len, &source, &used)
        if found == PREFACE_PARTIAL:
            return 0
        if found == PREFACE_BAD:
            return self._refuse_preface("what came is none")
        buf_consume(&self.inb, used)
        if found == PREFACE_SOURCE:
            memcpy(&self.peer_address, &source, sizeof(sockaddr_storage))
        _set_state(self, READ_PAUSED)
        self.in_deadline = 0
        welcome = self.on_welcome
        self.on_welcome = self.on_refused = None
        welcome(self)
        return 0

    cdef int _refuse_preface(self, str reason) except -1:
        refused = self.on_refused
        peer = self.peer
        self.abort()
        refused(peer, reason)
        return 0

    cdef int _take(self, const char* p, size_t n) except -1:
        cdef long end
        if self.state == READ_PREFACE:
            buf_append(&self.inb, p, n)
            return self._read_preface()
        self.plain_received += n
        if self.state == READ_LINGERING:
            return 0
        if self.state == READ_IDLE:
            return self._broken("the origin sent bytes that nobody asked for")
        if self.inb.len == 0 and self.state == READ_BODY:
            if self.in_timeout:
                self.in_deadline = self.reactor.now + self.in_timeout
            return self._feed_body(p, n)
        if self.inb.len == 0 and self.state == READ_HEAD and not self.front and p[0] > 32:
            end = find_head_end(p, n, 0)
            if end == <long>n and n <= self.head_limit:
                # The usual case: one whole head and nothing else.
                return self._hand_over(p[:n])
        if not self.head_begun and self.state == READ_HEAD:
            self.head_begun = True
            self.in_deadline = self.reactor.now + self.head_timeout if self.head_timeout else 0
        buf_append(&self.inb, p, n)
        return self._process()

    cdef int _process(self) except -1:
        """Work off what is buffered, as far as the state allows. A handler may change that at any call."""
        cdef int budget = HEADS_PER_EVENT
        if self.processing:
            return 0
        self.processing = True
        try:
            while self.fd >= 0 and self.inb.len and not is_held(self.body):
                if self.state == READ_HEAD:
                    if budget == 0:
                        # One client with many pipelined requests must not keep the others waiting.
                        self.backlog = True
                        self.reactor.loop.call_soon(self._again)
                        break
                    budget -= 1
                    if not self._cut_head():
                        break
                elif self.state == READ_BODY:
                    self._drain_body()
                else:
                    break
        finally:
            self.processing = False
        return 0

    cdef bint _cut_head(self) except -1:
        cdef char* p = self.inb.data + self.inb.start
        cdef size_t skipped = empty_lines(p, self.inb.len)
        cdef long end
        cdef bytes head
        if skipped:
            buf_consume(&self.inb, skipped)
            self.scanned = 0
        if self.inb.len == 0:
            return False
        p = self.inb.data + self.inb.start
        if self.front and <unsigned char>p[0] == TLS_HANDSHAKE_BYTE:
            _set_state(self, READ_PAUSED)
            self.handler.on_foreign("tls")
            return True
        end = cut_head(p, self.inb.len, self.head_limit, &self.scanned)
        if end == HEAD_TOO_LARGE:
            _set_state(self, READ_PAUSED)
            self.in_deadline = 0
            self.handler.on_head_too_large()
            return True
        if end == HEAD_PARTIAL:
            return False
        head = p[:end]
        buf_consume(&self.inb, end)
        self._hand_over(head)
        return True

    cdef int _hand_over(self, bytes head) except -1:
        cdef Answer answer
        cdef double now
        _set_state(self, READ_PAUSED)
        self.in_deadline = 0
        if self.scope is not None:
            now = monotonic()
            answer = self.scope.find(head, now)
            if answer is not None and (self.tls is None or not self.tls.spent()):
                return self._answer_again(answer, now)
        if self.front and head.startswith(b"CONNECT "):
            target = parse_connect(<const char*>head, len(head))
            if target is None:
                self.handler.on_connect(None, 0, None)
            else:
                login = find_field(<const char*>head, len(head), b"proxy-authorization", 19)
                self.handler.on_connect(target[0], target[1], login)
        else:
            self.handler.on_head(head)
        return 0

    cdef int _answer_again(self, Answer answer, double began) except -1:
        """Send an answer that has been sent before, and do for it what the handler would do."""
        cdef Answers answers = self.scope.answers
        cdef double took
        answers.repeated += 1
        answers.ids.advance()
        # What it was sent with before has been encrypted or copied by now.
        answer.name(answers.ids.text)
        if not self._send(answer.head, answer.body, None, False, answer.last):
            # However it ends is the handler's to count: also the last one, and where send() has failed.
            self.tell_sent = True
            self.handler.on_answering(answer.owner, began, answers.ids.last)
            return 0
        took = monotonic() - began
        if self.peer_text is None:
            self.peer_text = self.peer.encode()
        answers.count(answer, self.client, self.peer_text, took)
        if answer.last:
            return self._close(False)
        return self._next_head(answers.idle_timeout, answers.head_timeout)

    cdef int _drain_body(self) except -1:
        """Feed the body from the buffer, which is detached first: the sink may call this stream again."""
        cdef Buf taken
        if self.inb.len == 0 or self.state != READ_BODY:
            if self.state == READ_BODY and self.body.is_empty():
                self._body_over(True, "")
            elif self.state == READ_BODY and self.eof_in:
                self._on_eof(self.eof_clean)
            elif self.state == READ_BODY and self.tls is not None and self.tls.direct and not self.in_event:
                self.reactor.loop.call_soon(self._again)
            return 0
        taken = self.inb
        memset(&self.inb, 0, sizeof(Buf))
        try:
            self._feed_body(taken.data + taken.start, taken.len)
        finally:
            free(taken.data)
        if self.fd >= 0 and self.state == READ_BODY and self.eof_in:
            self._on_eof(self.eof_clean)
        return 0

    cdef int _feed_body(self, const char* p, size_t n) except -1:
        cdef size_t used = 0
        cdef IncomingBody body = self.body
        # The bytes are in memory of ours, and nothing else uses them.
        cdef Status status = body.feed(self, <char*>p, n, &used)
        if self.fd < 0:
            return 0
        if status == Status.FAILED:
            return self._body_over(False, body.reason)
        if used < n:
            buf_append(&self.inb, p + used, n - used)
        if status == Status.END:
            return self._body_over(True, "")
        return 0

    cdef int _body_over(self, bint complete, str reason) except -1:
        _set_state(self, READ_PAUSED)
        self.in_deadline = 0
        self.body = None
        self.handler.on_body(complete, reason)
        return 0

    cdef int _on_eof(self, bint clean) except -1:
        if self.out.dead:
            # Our send() has met the reset, and used its error up: this is no orderly end.
            return 0
        self.eof_in = True
        self.eof_clean = clean
        if self.state == READ_PREFACE:
            # Balancers look so whether somebody listens.
            return self._destroy()
        if self.out.closing or self.state == READ_LINGERING:
            if self.out.leaving:
                return self._leave()
            if self.out.waiting.len == 0 and not self.out.alert_due:
                return self._destroy()
            return 0
        if self.handshaking:
            if self.tls.context.server:
                self.reactor.handshakes_failed += 1
            else:
                self.reactor.upstream_handshakes_failed += 1
            return self._broken("connection closed during the TLS handshake")
        if self.state == READ_HEAD:
            if self.backlog:
                # Whole heads are still to be answered; _again() comes back here behind them.
                return 0
            partial = self.inb.len > 0
            _set_state(self, READ_PAUSED)
            self.in_deadline = 0
            self.handler.on_eof(partial)
        elif self.state == READ_IDLE:
            return self._broken("connection closed by the peer")
        elif self.state == READ_BODY:
            reason = self.body.missing(clean or self.tls is None)
            return self._body_over(not reason, reason)
        return 0

    cdef int resume(self) except -1:
        """Go on receiving: the sink takes more again."""
        if self.fd < 0 or not is_held(self.body):
            return 0
        self.body.held = False
        if self.in_timeout:
            self.in_deadline = self.reactor.now + self.in_timeout
        if self.inb.len or (self.tls is not None and self.tls.direct):
            self.reactor.loop.call_soon(self._again)
        return self._arm()

    # --- outgoing ----------------------------------------------------------------------------------------

    cdef int _leave(self) except -1:
        """Close where the peer has taken everything, else check again later."""
        if self.out.confirmed():
            return self._destroy()
        self.in_deadline = self.reactor.now + LEAVING_MS
        return 0

    cdef int _writable(self) except -1:
        if self.out.dead or not self.out.flush():
            return 0
        if self.out.source is not None and not self.out.source_waiting:
            self._pump()
        if self.fd >= 0 and self.out.all_sent() and not self.out.dead:
            self._drained()
        return 0

    cdef int _pump(self) except -1:
        if self.out.pump() == Status.FAILED:
            self.handler.on_source_failed(self.out.reason)
        return 0

    cdef int _drained(self) except -1:
        cdef Endpoint feeder = self.feeder
        self.out.deadline = 0
        if feeder is not None:
            self.feeder = None
            feeder.resume()
        if self.shut_later:
            self.shut_later = False
            self._shut()
        if self.out.closing:
            if self.out.leaving and self.state != READ_LINGERING:
                # close() and shutdown() drop what the kernel has encrypted and not yet given to TCP. How much
                # that is it does not tell, but it is nothing once TCP's own queue has had time to run empty.
                _set_state(self, READ_LINGERING)
                self.in_deadline = self.reactor.now + LEAVING_MS
                return 0
            if self.linger and not self.eof_in:
                self._shut()
                self.linger = False
                _set_state(self, READ_LINGERING)
                self.in_deadline = self.reactor.now + LINGER_MS
                return 0
            if self.state == READ_LINGERING:
                return 0
            if not self.tell_sent:
                return self._destroy()
        if self.tell_sent:
            self.tell_sent = False
            self.handler.on_sent()
        return 0

    cdef bint _settled(self) except -1:
        if self.out.dead:
            return False
        if self.out.all_sent():
            return True
        self.tell_sent = True
        self._arm()
        return False

    cdef int wake(self) except -1:
        """Go on sending: the source has more."""
        if self.out.source_waiting:
            self.out.source_waiting = False
            self._arm()
        return 0

    cdef size_t offer(self, const char* p, size_t n) except? 0:
        """Send up to n bytes of what the waiting source would have pulled next; how many were taken."""
        return self.out.offer(p, n)

    cdef Status write(self, Endpoint feeder, const char* p, size_t n) except Status.EXC:
        """Relay n bytes; AGAIN: enough waits here already, `feeder` is resumed when that is sent."""
        if self.fd < 0 or self.out.dead:
            return Status.FAILED
        self.out.emit_all(p, n, False)
        if self.out.waiting.len > OUT_HIGH:
            self.feeder = feeder
            self._arm()
            return Status.AGAIN
        if self.out.waiting.len:
            self._arm()
        return Status.OK

    cdef bint can_drain(self):
        """Check whether a source's drain() may write to the socket now: nothing waits that goes before it."""
        return self.fd >= 0 and not self.out.dead and self.out.all_sent()

    cdef bint send_from(self, Endpoint feeder, Source source) except -1:
        """Relay from a source that drains, now; False: not all went, `feeder` is resumed when it has.

        Only where can_drain() says so.
        """
        self.out.source = source
        self.out.source_waiting = False
        self._pump()
        if self.fd < 0 or self.out.dead or self.out.all_sent():
            return True
        self.feeder = feeder
        self._arm()
        return False

    cdef Status write_chunk(self, Endpoint feeder, const char* p, size_t n) except Status.EXC:
        """Relay n bytes as chunks of the chunked coding."""
        if self.fd < 0 or self.out.dead:
            return Status.FAILED
        self.out.emit_chunks(p, n)
        return self.write(feeder, NULL, 0)

    cdef int _shut(self) except -1:
        self.write_shut = True
        shutdown(self.fd, SHUT_WR)
        return 0

    # --- the end -----------------------------------------------------------------------------------------

    cdef int _broken(self, str reason) except -1:
        handler = self.handler
        closing = self.out.closing
        self._destroy()
        if handler is not None and not (closing and not self.tell_sent):
            handler.on_closed(reason)
        return 0

    cdef int _destroy(self) except -1:
        global live_streams
        cdef Endpoint feeder
        if self.fd < 0:
            return 0
        self.reactor.forget(self)
        close(self.fd)
        self.fd = -1
        live_streams -= 1
        self.reactor.streams_open -= 1
        buf_free(&self.inb)
        self.out.close()
        _set_state(self, READ_PAUSED)
        self.tls = None
        self.body = None
        self.handler = None
        self.on_welcome = self.on_refused = None
        feeder = self.feeder
        self.feeder = None
        if feeder is not None:
            # Its next push fails, which tells the feeder's own handler.
            feeder.resume()
        return 0
