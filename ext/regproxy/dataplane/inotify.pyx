"""Follow files that other processes write, by inotify: their growth, and other events.

A part's growth is reported to its `GrowingFile` without any Python; all other events to a Python callback.
"""

from libc.stdint cimport uint32_t
from libc.stdio cimport snprintf

from regproxy.dataplane.growing_file cimport GrowingFile
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.reactor cimport Pollable, Reactor

cdef enum:
    EVENTS_BYTES = 16384


cdef class Followed:
    """One followed file. `eager`: report every write too, not only other events. `close()` ends it."""

    cdef Watch watch
    cdef int wd
    cdef public GrowingFile growth
    cdef object on_change
    cdef public bint eager

    def close(self) -> None:
        self.watch._drop(self)

    cdef int _happened(self, uint32_t mask) except -1:
        if self.growth is not None:
            self.growth.look()
        if self.eager or mask & ~IN_MODIFY:
            self.on_change()
        return 0


cdef class Watch(Pollable):
    """The inotify instance of a worker. OSError where the kernel gives none."""

    cdef dict followed

    def __cinit__(self, Reactor reactor not None):
        self.followed = {}
        self.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, f"inotify: {strerror(errno).decode()}")
        reactor.watch(self, EPOLLIN)

    def follow(self, int fd, on_change not None, GrowingFile growth=None) -> Followed:
        """Call `on_change()` when the open file `fd` is written to, closed by a writer, renamed or removed.

        With `growth`, writes are reported to it alone (see Followed.eager). A file can be followed once at a
        time. Raises OSError.
        """
        cdef char path[32]
        cdef Followed entry = Followed()
        # By its descriptor: the name may be another file's by now, or gone.
        snprintf(path, sizeof(path), b"/proc/self/fd/%d", fd)
        entry.wd = inotify_add_watch(
            self.fd, path, IN_MODIFY | IN_CLOSE_WRITE | IN_MOVE_SELF | IN_ATTRIB | IN_DELETE_SELF
        )
        if entry.wd < 0:
            raise OSError(errno, f"inotify: {strerror(errno).decode()}")
        entry.watch = self
        entry.growth = growth
        entry.on_change = on_change
        entry.eager = True
        self.followed[entry.wd] = entry
        return entry

    def close(self) -> None:
        """Follow nothing any more."""
        if self.fd >= 0:
            self.followed.clear()
            self.reactor.forget(self)
            close(self.fd)
            self.fd = -1

    cdef int _drop(self, Followed entry) except -1:
        if self.followed.get(entry.wd) is entry:
            del self.followed[entry.wd]
            if self.fd >= 0:
                inotify_rm_watch(self.fd, entry.wd)
        return 0

    cdef int on_events(self, uint32_t events) except -1:
        cdef char buffer[EVENTS_BYTES]
        cdef inotify_event* event
        cdef Followed entry
        cdef ssize_t n, at = 0
        if self.fd < 0:
            return 0
        n = read(self.fd, buffer, EVENTS_BYTES)
        while at < n:
            event = <inotify_event*>(buffer + at)
            at += sizeof(inotify_event) + event.len
            if event.mask & IN_Q_OVERFLOW:
                for entry in list(self.followed.values()):
                    entry._happened(event.mask)
                continue
            entry = self.followed.get(event.wd)
            if entry is not None:
                entry._happened(event.mask)
        return 0
