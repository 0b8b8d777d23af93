"""The map of a scattered part: a bit for each block that is present.

The bits are in a file too, so that other processes see them and a restart finds them. Plain reads and writes,
no shared memory: a disk that fails is an error here, and would be a signal there.

    8 bytes    "regproxn"
    8          the content's length
    8          of which device and
    8          inode the part is
    16         how many bytes are there from the beginning on, to the byte
    then       16 each: a bit for each of 64 blocks of BLOCK bytes

What is in 16 bytes is a number of 64 bits and the check of it, which depends on its place and on the part. A
number that does not agree with its check counts as 0: what a damaged map says is there has been written.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc

from regproxy.dataplane.posix cimport *

cdef enum:
    HEADER = 48
    WRITTEN_AT = 32
    # A number and its check
    PAIR = 16

cdef uint64_t MAGIC = 0x6e78_6f72_7067_6572
cdef uint64_t ALL = 0xffff_ffff_ffff_ffff
# SplitMix64's (https://prng.di.unimi.it/splitmix64.c)
cdef uint64_t GAMMA = 0x9e37_79b9_7f4a_7c15
cdef uint64_t FIRST = 0xbf58_476d_1ce4_e5b9
cdef uint64_t SECOND = 0x94d0_49bb_1331_11eb

BLOCK_SIZE = BLOCK


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    """Return 64 bits, half of which change with any one of `value`."""
    value += GAMMA
    value = (value ^ (value >> 30)) * FIRST
    value = (value ^ (value >> 27)) * SECOND
    return value ^ (value >> 31)


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
        cdef uint64_t header[6]
        cdef size_t n = HEADER + self.words * PAIR
        cdef char* whole
        cdef ssize_t put
        self._belong(device, inode)
        self.written = written
        header[:] = [MAGIC, <uint64_t>self.total, <uint64_t>device, <uint64_t>inode, <uint64_t>written,
                     self.check(<uint64_t>written, 0)]
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
        cdef uint64_t header[6]
        cdef ssize_t got = pread(self.fd, header, HEADER, 0)
        if got < 0:
            raise OSError(errno, "a map can't be read")
        if got != HEADER or header[0] != MAGIC or <long long>header[1] != self.total:
            return False
        if <long long>header[2] != device or <long long>header[3] != inode:
            return False
        self._belong(device, inode)
        if self.refresh():
            raise OSError(errno, "a map can't be read")
        return True

    cdef int _belong(self, long long device, long long inode) noexcept:
        self.part = mix(<uint64_t>device) ^ <uint64_t>inode
        return 0

    cdef uint64_t check(self, uint64_t value, size_t place) noexcept:
        """Return the check of a number: place 0 is how many bytes are there, 1 and on are the bits."""
        return mix(value ^ mix(self.part + place))

    cdef int refresh(self) noexcept:
        """Read the file again; 0, or -1 and errno. A bit that was set stays set."""
        cdef uint64_t written[2]
        cdef size_t n = self.words * PAIR, i
        cdef uint64_t* found = <uint64_t*>malloc(n)
        cdef ssize_t got
        if found == NULL:
            return -1
        written[0] = 0
        # `written` first: it is written last.
        got = pread(self.fd, written, PAIR, WRITTEN_AT)
        if got != PAIR or written[1] != self.check(written[0], 0):
            written[0] = 0
        if got == PAIR:
            got = pread(self.fd, found, n, HEADER)
        if got < 0:
            free(found)
            return -1
        # One that is just being written may not agree with its check: it is read again, once it is written.
        for i in range(<size_t>got // PAIR):
            if found[2 * i + 1] == self.check(found[2 * i], i + 1):
                self.bits[i] |= found[2 * i]
        free(found)
        if <long long>written[0] > self.written and <long long>written[0] <= self.total:
            self.written = <long long>written[0]
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
        cdef size_t first = <size_t>(block >> 6)
        if block >= last:
            return 0
        while block < last:
            self.bits[block >> 6] |= (<uint64_t>1) << (block & 63)
            block += 1
        if self.fd < 0:
            return 0
        return self._write_words(first, <size_t>((last - 1) >> 6) - first + 1)

    cdef int _write_words(self, size_t first, size_t count) noexcept:
        """Write words of bits, with their checks. 0, or -1 and errno."""
        cdef uint64_t* pairs = <uint64_t*>malloc(count * PAIR)
        cdef ssize_t put
        cdef size_t i
        if pairs == NULL:
            return -1
        for i in range(count):
            pairs[2 * i] = self.bits[first + i]
            pairs[2 * i + 1] = self.check(self.bits[first + i], first + i + 1)
        put = pwrite(self.fd, pairs, count * PAIR, HEADER + first * PAIR)
        free(pairs)
        return 0 if put == <ssize_t>(count * PAIR) else -1

    cdef int note(self, long long written) noexcept:
        """Note that the first `written` bytes are present. 0, or -1 and errno."""
        cdef uint64_t pair[2]
        pair[:] = [<uint64_t>written, self.check(<uint64_t>written, 0)]
        self.written = written
        if self.fd < 0:
            return 0
        return 0 if pwrite(self.fd, pair, PAIR, WRITTEN_AT) == PAIR else -1

    def end(self, long long offset) -> int:
        """Return the end of the present bytes from `offset` on, as far as whole blocks tell."""
        return self.end_of(offset)

    def hole(self, long long offset) -> tuple[int, int]:
        """Return (start, stop) of the first missing range from `offset` on; both `total`: none."""
        cdef long long start = self.end_of(offset)
        return start, self.next_at(start)
