"""One epoll set per worker, watched by the event loop as a single fd.

A nested epoll set costs one more system call per round than `loop.add_reader` for each connection, and saves
the four that registering and dropping a libuv poll handle take, a Handle object per connection and a Python
call per event.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from libc.stdint cimport uint32_t, uint64_t
from cpython.ref cimport Py_DECREF, Py_INCREF

from regproxy.dataplane.posix cimport (
    CLOCK_MONOTONIC, EINTR, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN,
    EPOLLOUT, clock_gettime, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, errno, timespec,
)

cdef enum:
    EVENTS_PER_ROUND = 128
    ROUNDS = 4
    TICK_MS = 250


cdef uint64_t monotonic_ms() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000 + <uint64_t>ts.tv_nsec // 1000000


cdef class Pollable:
    """Something with an fd that the reactor watches."""

    def __cinit__(self):
        self.fd = -1

    cdef int on_events(self, uint32_t events) except -1:
        raise NotImplementedError

    cdef int on_tick(self, uint64_t now) except -1:
        return 0

    cdef int on_crash(self, str reason) except -1:
        """Give up this item, and only it, after its handler raised."""
        return 0

    def fileno(self) -> int:
        return self.fd


cdef class Reactor:
    """The worker's epoll set and scratch memory. `start()` hangs it into the loop, `stop()` takes it out.

    `debug`: a stream whose handler asks for something out of turn raises AssertionError.
    """

    def __cinit__(self, loop, bint debug=False):
        self.loop = loop
        self.debug = debug
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, "epoll_create1")
        self.wire_in = <char*>malloc(SCRATCH_IN)
        self.plain_in = <char*>malloc(SCRATCH_IN)
        self.plain_out = <char*>malloc(SCRATCH_OUT)
        self.wire_out = <char*>malloc(SCRATCH_OUT)
        if not (self.wire_in and self.plain_in and self.plain_out and self.wire_out):
            raise MemoryError
        self.now = monotonic_ms()

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)
        free(self.wire_in)
        free(self.plain_in)
        free(self.plain_out)
        free(self.wire_out)
        free(self.table)

    def start(self) -> None:
        self.loop.add_reader(self.epfd, self._poll)
        self._tick_handle = self.loop.call_later(TICK_MS * 0.001, self._tick)

    def stop(self) -> None:
        """Leave the loop. Every item must have been closed before."""
        self.loop.remove_reader(self.epfd)
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None

    def items(self) -> list:
        """Return every registered item; for draining and for tests."""
        cdef list found = []
        cdef int i
        for i in range(self.table_size):
            if self.table[i] != NULL:
                found.append(<object>self.table[i])
        return found

    cdef int hold(self, Pollable item) except -1:
        """Register an item without watching its fd: it has its ticks, and is one of items()."""
        cdef int wanted
        cdef void** grown
        if item.fd >= self.table_size:
            wanted = max(256, item.fd * 2)
            grown = <void**>realloc(self.table, wanted * sizeof(void*))
            if grown == NULL:
                raise MemoryError
            memset(&grown[self.table_size], 0, (wanted - self.table_size) * sizeof(void*))
            self.table = grown
            self.table_size = wanted
        self.generation += 1
        item.generation = self.generation
        item.reactor = self
        Py_INCREF(item)
        self.table[item.fd] = <void*>item
        return 0

    cdef int watch(self, Pollable item, uint32_t interest) except -1:
        cdef epoll_event event
        cdef int error
        self.hold(item)
        item.interest = interest
        event.events = interest
        event.data.u64 = (<uint64_t>item.generation << 32) | <uint32_t>item.fd
        if epoll_ctl(self.epfd, EPOLL_CTL_ADD, item.fd, &event) < 0:
            error = errno
            self.forget(item)
            raise OSError(error, "epoll_ctl")
        return 0

    cdef int rewatch(self, Pollable item, uint32_t interest) except -1:
        cdef epoll_event event
        item.interest = interest
        event.events = interest
        event.data.u64 = (<uint64_t>item.generation << 32) | <uint32_t>item.fd
        if epoll_ctl(self.epfd, EPOLL_CTL_MOD, item.fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    cdef int unwatch(self, Pollable item) except -1:
        """Take the item's fd out of the epoll set, for a file that other processes may have open too."""
        if epoll_ctl(self.epfd, EPOLL_CTL_DEL, item.fd, NULL) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    cdef int forget(self, Pollable item) except -1:
        """Drop the item; its fd must be closed right after, which takes it out of the epoll set."""
        if 0 <= item.fd < self.table_size and self.table[item.fd] == <void*>item:
            self.table[item.fd] = NULL
            Py_DECREF(item)
        return 0

    def _arrived(self, Pollable item):
        """Handle an event of an item that the event loop watches itself, and what has come in meanwhile."""
        self.now = monotonic_ms()
        if item.fd >= 0:
            self._tell(item, EPOLLIN)
        self._poll()

    def _poll(self):
        """Handle the ready events. While there are more, repeat a few times without the event loop."""
        cdef int _i
        for _i in range(ROUNDS):
            if self._round() == 0:
                break

    cdef int _round(self) except -1:
        cdef epoll_event events[EVENTS_PER_ROUND]
        cdef int n, i
        n = epoll_wait(self.epfd, events, EVENTS_PER_ROUND, 0)
        if n < 0:
            if errno == EINTR:
                return 0
            raise OSError(errno, "epoll_wait")
        self.now = monotonic_ms()
        self.crowd = 0
        for i in range(n):
            if events[i].events & EPOLLOUT:
                self.crowd += 1
        # Requests come first: their answers are short, while a body can wait its turn.
        for i in range(n):
            if not events[i].events & EPOLLOUT:
                self._dispatch(events[i].data.u64, events[i].events)
        if self.crowd:
            for i in range(n):
                if events[i].events & EPOLLOUT:
                    self._dispatch(events[i].data.u64, events[i].events)
        return n

    cdef int _dispatch(self, uint64_t key, uint32_t events) except -1:
        cdef int fd = <int>(key & 0xFFFFFFFF)
        cdef Pollable item
        if fd >= self.table_size or self.table[fd] == NULL:
            return 0
        item = <Pollable>self.table[fd]
        # An earlier event of this round may have closed this fd and a new item may own its number.
        if item.generation != <uint32_t>(key >> 32):
            return 0
        return self._tell(item, events)

    cdef int _tell(self, Pollable item, uint32_t events) except -1:
        try:
            item.on_events(events)
        except Exception as exc:
            self._crash(item, exc)
        return 0

    def _tick(self):
        cdef int i
        cdef Pollable item
        self.now = monotonic_ms()
        for i in range(self.table_size):
            if self.table[i] == NULL:
                continue
            item = <Pollable>self.table[i]
            try:
                item.on_tick(self.now)
            except Exception as exc:
                self._crash(item, exc)
        self._tick_handle = self.loop.call_later(TICK_MS * 0.001, self._tick)

    cdef int _crash(self, Pollable item, exc) except -1:
        self.loop.call_exception_handler({"message": "connection handler failed", "exception": exc})
        try:
            item.on_crash(f"internal error: {type(exc).__name__}")
        except Exception as again:
            self.loop.call_exception_handler({"message": "connection clean-up failed", "exception": again})
        return 0
