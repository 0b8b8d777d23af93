"""The map of a scattered part: a bit for each block that is present.

The bits are in a file too, so that other processes see them and a restart finds them. Plain reads and writes,
no shared memory: a disk that fails is an error here, and would be a signal there.

    8 bytes    "regproxm"
    8          the content's length
    8          how many bytes are there from the beginning on, to the byte
    8          of which device and
    8          inode the part is
    then       a bit for each block of BLOCK bytes, in words of 64
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc

from regproxy.dataplane.posix cimport *

cdef enum:
    HEADER = 40
    WRITTEN_AT = 16

cdef uint64_t MAGIC = 0x6d78_6f72_7067_6572
cdef uint64_t ALL = 0xffff_ffff_ffff_ffff

BLOCK_SIZE = BLOCK


cdef class Extents:
    """The blocks of `total` bytes. Takes over `fd`, a map file, new or existing; -1: not shared.

    Only the part's filler marks blocks. If the constructor fails, `fd` is still the caller's.
    """

    def __cinit__(self, long long total, int fd=-1):
        self.fd = -1
        if total <= 0:
            raise ValueError(f"a content of {total} bytes has no extents")
        self.total = total
        self.words = <size_t>(self.blocks() + 63) // 64
        self.bits = <uint64_t*>calloc(self.words, sizeof(uint64_t))
        if self.bits == NULL:
            raise MemoryError
        self.fd = fd

    def __dealloc__(self):
        free(self.bits)
        if self.fd >= 0:
            close(self.fd)

    def start(self, long long device, long long inode, long long written) -> None:
        """Write a new map file, for a part that has its first `written` bytes. Raises OSError."""
        cdef uint64_t header[5]
        cdef size_t n = HEADER + self.words * sizeof(uint64_t)
        cdef char* whole
        cdef ssize_t put
        header[:] = [MAGIC, <uint64_t>self.total, <uint64_t>written, <uint64_t>device, <uint64_t>inode]
        self.written = written
        if self.fd < 0:
            return
        whole = <char*>calloc(n, 1)
        if whole == NULL:
            raise MemoryError
        memcpy(whole, header, HEADER)
        # All of it now: a full disk shows here, not when bits are set.
        put = pwrite(self.fd, whole, n, 0)
        free(whole)
        if put != <ssize_t>n:
            raise OSError(errno if put < 0 else ENOSPC, "a map can't be written")

    def load(self, long long device, long long inode) -> bool:
        """Load the file; False where it is no map of this part. Raises OSError."""
        cdef uint64_t header[5]
        cdef ssize_t got = pread(self.fd, header, HEADER, 0)
        if got < 0:
            raise OSError(errno, "a map can't be read")
        if got != HEADER or header[0] != MAGIC or <long long>header[1] != self.total:
            return False
        if <long long>header[3] != device or <long long>header[4] != inode:
            return False
        if self.refresh():
            raise OSError(errno, "a map can't be read")
        return True

    cdef int refresh(self) noexcept:
        """Read the file again; 0, or -1 and errno. A bit that was set stays set."""
        cdef uint64_t written = 0
        cdef size_t n = self.words * sizeof(uint64_t), i
        cdef uint64_t* found = <uint64_t*>malloc(n)
        cdef ssize_t got
        if found == NULL:
            return -1
        # `written` first: it is written last.
        got = pread(self.fd, &written, sizeof(written), WRITTEN_AT)
        if got == sizeof(written):
            got = pread(self.fd, found, n, HEADER)
        if got < 0:
            free(found)
            return -1
        for i in range(<size_t>got // sizeof(uint64_t)):
            self.bits[i] |= found[i]
        free(found)
        if <long long>written > self.written and <long long>written <= self.total:
            self.written = <long long>written
        # Its filler may have been killed between the two.
        self.written = max(self.written, self.end_of(self.written))
        return 0

    cdef long long blocks(self) noexcept:
        """Return the number of blocks, the last one maybe short. `total` may be up to 63 bits."""
        return (self.total - 1) // BLOCK + 1

    cdef bint has(self, long long block) noexcept:
        return (self.bits[block >> 6] >> (block & 63)) & 1

    cdef long long end_of(self, long long offset) noexcept:
        """Return the end of the present bytes from `offset` on; `offset` itself if absent or out of range."""
        cdef long long block = offset // BLOCK
        cdef long long last = self.blocks()
        if offset < 0 or offset >= self.total or not self.has(block):
            return offset
        while block < last and self.has(block):
            if self.bits[block >> 6] == ALL:
                block = (block | 63) + 1
            else:
                block += 1
        return self.total if block >= last else block * BLOCK

    cdef long long next_at(self, long long offset) noexcept:
        """Return where the next present block begins, at or after `offset`; `total` where none is."""
        cdef long long block = offset // BLOCK if offset > 0 else 0
        cdef long long last = self.blocks()
        while block < last and not self.has(block):
            if self.bits[block >> 6] == 0:
                block = (block | 63) + 1
            else:
                block += 1
        if block >= last:
            return self.total
        return max(block * BLOCK, offset)

    cdef int mark(self, long long start, long long stop) noexcept:
        """Mark all blocks from that of `start` up to `stop` as present. 0, or -1 and errno."""
        cdef long long block = start // BLOCK
        cdef long long last = self.blocks() if stop == self.total else stop // BLOCK
        cdef size_t first = <size_t>(block >> 6), n
        cdef ssize_t put
        if block >= last:
            return 0
        while block < last:
            self.bits[block >> 6] |= (<uint64_t>1) << (block & 63)
            block += 1
        if self.fd < 0:
            return 0
        n = (<size_t>((last - 1) >> 6) - first + 1) * sizeof(uint64_t)
        put = pwrite(self.fd, &self.bits[first], n, HEADER + first * sizeof(uint64_t))
        return 0 if put == <ssize_t>n else -1

    cdef int note(self, long long written) noexcept:
        """Note that the first `written` bytes are present. 0, or -1 and errno."""
        cdef uint64_t value = <uint64_t>written
        self.written = written
        if self.fd < 0:
            return 0
        return 0 if pwrite(self.fd, &value, sizeof(value), WRITTEN_AT) == sizeof(value) else -1

    def end(self, long long offset) -> int:
        """Return the end of the present bytes from `offset` on, as far as whole blocks tell."""
        return self.end_of(offset)

    def hole(self, long long offset) -> tuple[int, int]:
        """Return (start, stop) of the first missing range from `offset` on; both `total`: none."""
        cdef long long start = self.end_of(offset)
        return start, self.next_at(start)
