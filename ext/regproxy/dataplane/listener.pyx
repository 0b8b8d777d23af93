"""A listening socket: each connection that it accepts becomes a Stream."""

from libc.stdint cimport uint32_t

from regproxy.dataplane.exclusive cimport ExclusiveWatch
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.reactor cimport Pollable, Reactor
from regproxy.dataplane.stream cimport Stream

cdef enum:
    PREFACE_MS = 5000
    # How many connections are taken at a time, where nobody else takes them
    ACCEPTS = 32


cdef class Listener(Pollable):
    """Accepts from a listening, non-blocking socket: `on_accept(stream)` for each new connection.

    `front` marks the proxy port, whose heads may be CONNECT and whose first byte is looked at. `shared`:
    other processes accept from the socket too. Then one connection is taken at a time, which leaves them
    their share, and each connection wakes one process (`exclusive`), all of them where that can't be.
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
    # None: the reactor's epoll set has the socket
    cdef ExclusiveWatch alone
    cdef bint rests

    def __cinit__(self, Reactor reactor not None, int fd, on_accept, bint front=True,
                  size_t head_limit=32768, bint shared=False, balances=None, on_refused=None):
        self.fd = fd
        self.on_accept = on_accept
        self.balances = balances
        self.on_refused = on_refused
        self.front = front
        self.head_limit = head_limit
        self.accepts = 1 if shared else ACCEPTS
        if shared:
            reactor.hold(self)
            try:
                self.alone = ExclusiveWatch(reactor.loop, fd, reactor._arrived, self)
                return
            except OSError:
                reactor.forget(self)
        reactor.watch(self, EPOLLIN)

    @property
    def exclusive(self) -> bool:
        """Tell whether a connection wakes this process alone, though others wait for it too."""
        return self.alone is not None

    def close(self) -> None:
        """Stop accepting. Our descriptor of the socket is closed too; other processes may have others."""
        if self.fd >= 0:
            # While those are open, closing ours would leave it in the epoll set, ready for ever.
            if self.alone is None:
                self.reactor.unwatch(self)
            else:
                self.alone.close()
            self.reactor.forget(self)
            close(self.fd)
            self.fd = -1

    cdef int on_events(self, uint32_t events) except -1:
        if self._accept() == 0 and not self.rests:
            self.reactor.woken_in_vain += 1
        return 0

    cdef int on_tick(self, uint64_t now) except -1:
        # Whoever was woken alone may have been killed or stopped since, with nobody else to know of it.
        if self.alone is not None and not self.rests:
            if not self.alone.waits:
                self.alone.rejoin()  # the kernel had no room for it the last time
            self._accept()
        return 0

    cdef int _accept(self) except -1:
        """Take what waits; return how many connections that were."""
        cdef int _i, fd, taken = 0
        cdef socklen_t n
        cdef sockaddr_storage address
        for _i in range(self.accepts):
            if self.fd < 0:
                return taken
            n = sizeof(address)
            fd = accept4(self.fd, <sockaddr*>&address, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno == EMFILE or errno == ENFILE:
                    self._rest()
                return taken
            taken += 1
            self.reactor.accepted += 1
            if self.alone is not None:
                self.alone.rejoin()
            self._take(fd, &address, n)
        return taken

    cdef int _take(self, int fd, sockaddr_storage* address, socklen_t n) except -1:
        """Make a stream of an accepted socket, and tell of it."""
        cdef Stream stream
        try:
            stream = Stream(self.reactor, fd, self.front, self.head_limit)
        except BaseException:
            close(fd)
            raise
        memcpy(&stream.peer_address, address, n)
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
        self.rests = True
        if self.alone is None:
            self.reactor.rewatch(self, 0)
        else:
            self.alone.rest()
        self.reactor.loop.call_later(0.1, self._wake_up)

    def _wake_up(self):
        if self.fd < 0:
            return
        self.rests = False
        if self.alone is None:
            self.reactor.rewatch(self, EPOLLIN)
        else:
            self.alone.rejoin()
