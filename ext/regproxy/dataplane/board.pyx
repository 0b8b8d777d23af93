"""Shared memory of one proxy's processes: a counter that tells whether their caches are still valid.

And two words for the admin port: when somebody asked it last for what processes know, and whether the proxy
is switched offline.
"""

from regproxy.dataplane.posix cimport (
    MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, errno, mmap, munmap, strerror, uint64_t,
)

cdef enum:
    BOARD_SIZE = 4096

SIZE = BOARD_SIZE

cdef extern from *:
    """
    #define board_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define board_store(p, n) __atomic_store_n((p), (n), __ATOMIC_RELEASE)
    #define board_add(p, n) __atomic_add_fetch((p), (n), __ATOMIC_ACQ_REL)
    """
    uint64_t board_load(uint64_t* p) noexcept nogil
    void board_store(uint64_t* p, uint64_t n) noexcept nogil
    uint64_t board_add(uint64_t* p, uint64_t n) noexcept nogil


cdef class Board:
    """A page that several processes map: `Board(fd)` of a memfd of SIZE bytes; the fd stays the caller's.

    `generation` goes up whenever one of them changes what the others may remember, `purges` with it where
    nobody can say what that was. OSError where it can't be mapped.
    """

    def __cinit__(self, int fd):
        cdef void* page = mmap(NULL, BOARD_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if page == MAP_FAILED:
            self.counters = NULL
            raise OSError(errno, f"the shared page can't be mapped: {strerror(errno).decode()}")
        self.counters = <uint64_t*>page

    def __dealloc__(self):
        if self.counters != NULL:
            munmap(self.counters, BOARD_SIZE)

    cdef uint64_t now(self) noexcept:
        """Return the generation."""
        return board_load(&self.counters[0])

    @property
    def generation(self) -> int:
        return self.now()

    @property
    def purges(self) -> int:
        return board_load(&self.counters[1])

    @property
    def asked(self) -> int:
        """When ask() was called last, as it was told; 0: never."""
        return board_load(&self.counters[2])

    def ask(self, uint64_t now) -> None:
        """Tell the others that somebody wants to know what they do. `now`: seconds of CLOCK_MONOTONIC."""
        board_store(&self.counters[2], now)

    @property
    def offline(self) -> bool:
        """Whether no registry is to be asked."""
        return board_load(&self.counters[3]) != 0

    def set_offline(self, bint on) -> None:
        """Switch all processes offline, or back."""
        board_store(&self.counters[3], on)
        board_add(&self.counters[0], 1)

    def purge(self) -> None:
        """Tell the others to forget everything."""
        board_add(&self.counters[1], 1)
        board_add(&self.counters[0], 1)

    def bump(self) -> int:
        """Tell the others to look again; return the new generation."""
        return board_add(&self.counters[0], 1)
