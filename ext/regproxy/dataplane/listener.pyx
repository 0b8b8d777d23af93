"""A listening socket: each connection that it accepts becomes a Stream."""

from libc.stdint cimport uint32_t

from regproxy.dataplane.posix cimport *
from regproxy.dataplane.reactor cimport Pollable, Reactor
from regproxy.dataplane.stream cimport Stream

cdef enum:
    PREFACE_MS = 5000


cdef class Listener(Pollable):
    """Accepts from a listening, non-blocking socket: `on_accept(stream)` for each new connection.

    `front` marks the proxy port, whose heads may be CONNECT and whose first byte is looked at. `accepts`: how
    many connections are taken at a time; where other processes listen too, 1 leaves them their share.
    `balances(peer)` says whether an address is a balancer's, which has to say who connects by a header of the
    PROXY protocol; without a proper one within 5 s the connection is cut: `on_refused(peer, reason)`.

    Takes over `fd`, but for where it fails.
    """

    cdef object on_accept
    cdef object balances
    cdef object on_refused
    cdef bint front
    cdef size_t head_limit
    cdef int accepts

    def __cinit__(self, Reactor reactor not None, int fd, on_accept, bint front=True,
                  size_t head_limit=32768, int accepts=32, balances=None, on_refused=None):
        self.fd = fd
        self.on_accept = on_accept
        self.balances = balances
        self.on_refused = on_refused
        self.front = front
        self.head_limit = head_limit
        self.accepts = accepts
        reactor.watch(self, EPOLLIN)

    def close(self) -> None:
        """Stop accepting. Our descriptor of the socket is closed too; other processes may have others."""
        if self.fd >= 0:
            # While those are open, closing ours would leave it in the epoll set, ready for ever.
            self.reactor.unwatch(self)
            self.reactor.forget(self)
            close(self.fd)
            self.fd = -1

    cdef int on_events(self, uint32_t events) except -1:
        cdef int _i, fd
        cdef socklen_t n
        cdef sockaddr_storage address
        cdef Stream stream
        for _i in range(self.accepts):
            if self.fd < 0:
                return 0
            n = sizeof(address)
            fd = accept4(self.fd, <sockaddr*>&address, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno == EMFILE or errno == ENFILE:
                    self._rest()
                return 0
            try:
                stream = Stream(self.reactor, fd, self.front, self.head_limit)
            except BaseException:
                close(fd)
                raise
            memcpy(&stream.peer_address, &address, n)
            try:
                if self.balances is not None and self.balances(stream.peer):
                    stream.expect_preface(self.on_accept, self.on_refused, PREFACE_MS)
                else:
                    self.on_accept(stream)
            except BaseException:
                stream.abort()
                raise
        return 0

    def _rest(self):
        """Pause accepting: without file descriptors a readable listener would spin."""
        message = "out of file descriptors: not accepting for 100 ms"
        self.reactor.loop.call_exception_handler({"message": message})
        self.reactor.rewatch(self, 0)
        self.reactor.loop.call_later(0.1, self._wake_up)

    def _wake_up(self):
        if self.fd >= 0:
            self.reactor.rewatch(self, EPOLLIN)
