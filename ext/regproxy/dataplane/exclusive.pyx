"""A socket that several processes accept from, of which one is woken for each connection.

The kernel knows EPOLLEXCLUSIVE (epoll_ctl(2)) of the set alone at which a thread waits: behind a set within
another one it wakes everybody (ep_poll_callback in fs/eventpoll.c). So the socket is put into the event
loop's own set, under the number of a descriptor that libuv watches for us and that has no events of its own.
libuv finds what to call by that number.
"""

from regproxy.dataplane.posix cimport *


cdef class ExclusiveWatch:
    """Calls `callback(*args)` in the event loop when `fd` can be read, if no other process was woken for it.

    One that is busy is not waited for: only a process that sleeps is woken alone. But the one that was woken
    may die, or be stopped, before it has looked; so everybody has to look now and then. `fd` stays the
    caller's; `close()` comes before it is closed. OSError where the kernel or the event loop can't do it.
    """

    def __cinit__(self, loop, int fd, callback, *args):
        cdef object backend = getattr(loop, "_get_backend_id", None)
        self.epfd = self.stand_in = -1
        if backend is None:
            raise OSError(ENOSYS, "the event loop does not tell its epoll set")
        self.loop = loop
        self.fd = fd
        self.epfd = backend()
        self.stand_in = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.stand_in < 0:
            raise OSError(errno, "eventfd")
        loop.add_reader(self.stand_in, callback, *args)
        if not self.rejoin():
            error = errno
            self.close()
            raise OSError(error, "EPOLLEXCLUSIVE")

    def __dealloc__(self):
        if self.stand_in >= 0:
            close(self.stand_in)

    def close(self) -> None:
        """Leave the event loop."""
        if self.stand_in >= 0:
            self.rest()
            self.loop.remove_reader(self.stand_in)
            close(self.stand_in)
            self.stand_in = -1

    cdef int rest(self) except -1:
        """Be woken no more, until `rejoin`."""
        if self.waits:
            epoll_ctl(self.epfd, EPOLL_CTL_DEL, self.fd, NULL)
            self.waits = False
        return 0

    cdef bint rejoin(self) except -1:
        """Wait behind all others: the kernel wakes the first one that sleeps. False, and errno: it can't be.

        Whoever has taken a connection does so: then they go round, and not all to one process. nginx does the
        same (ngx_reorder_accept_events).
        """
        cdef epoll_event event
        self.rest()
        event.events = EPOLLIN | EPOLLEXCLUSIVE
        event.data.u64 = <uint64_t>self.stand_in
        self.waits = epoll_ctl(self.epfd, EPOLL_CTL_ADD, self.fd, &event) == 0
        return self.waits
