"""The map of a part: as plain arrays have it, and never more than was written, whatever its file is."""

from libc.string cimport memset

from regproxy.dataplane.block_map cimport BLOCK, Extents
from regproxy.dataplane.posix cimport MFD_CLOEXEC, memfd_create, pread, pwrite

from support cimport wrong

import traceback

cdef extern from "<unistd.h>" nogil:
    int dup(int fd)
    int ftruncate(int fd, long n)

cdef enum:
    BLOCKS_MAX = 140
    DEVICE = 7
    INODE = 8
    HEADER = 48
    # How many bytes of the file are damaged at most
    DAMAGES = 4

# What was marked, and how much was noted: all that any map may ever say.
cdef struct Model:
    long long total
    long long blocks
    long long written
    unsigned char marked[BLOCKS_MAX]

cdef int file = memfd_create(b"map", MFD_CLOEXEC)


def address_of(str name):
    """Return where a target is, for the driver."""
    return <size_t><void*>marks


cdef int marks(const unsigned char* data, size_t size) noexcept:
    """Bytes: length (4), then operations of four: what, where (2), how much."""
    cdef Model model
    cdef Extents extents
    cdef unsigned int length
    try:
        if size < 8:
            return 0
        memset(&model, 0, sizeof(model))
        length = data[0] | (data[1] << 8) | (data[2] << 16) | (<unsigned int>(data[3] & 1) << 24)
        model.total = length % (BLOCKS_MAX * BLOCK) + 1
        model.blocks = (model.total - 1) // BLOCK + 1
        ftruncate(file, 0)
        extents = Extents(model.total, dup(file))
        extents.start(DEVICE, INODE, 0)
        operate(extents, &model, data + 4, (size - 4) // 4)
    except BaseException:
        traceback.print_exc()
        wrong(b"an exception")
    return 0


cdef int operate(Extents extents, Model* model, const unsigned char* data, size_t count) except -1:
    cdef size_t i
    cdef long long place
    cdef Extents follower = Extents(model.total, dup(file))
    if not follower.load(DEVICE, INODE):
        wrong(b"a map is not known as the part's")
    for i in range(min(count, <size_t>32)):
        place = data[4 * i + 1] | (data[4 * i + 2] << 8)
        if data[4 * i] < 100:
            mark(extents, model, place, data[4 * i + 3])
        elif data[4 * i] < 140:
            note(extents, model, place * 1009 + data[4 * i + 3])
        elif data[4 * i] < 180:
            follower.refresh()
            compare(follower, model, b"another process sees another map")
        else:
            # Damage is the last: from then on there is less.
            damage(data + 4 * i, count - i, model)
            break
    compare(extents, model, b"a map is another one than was marked")
    return 0


cdef int mark(Extents extents, Model* model, long long place, long long count) except -1:
    cdef long long start = place % model.blocks * BLOCK
    cdef long long stop = min(start + count * (BLOCK // 4), model.total)
    cdef long long block = start // BLOCK
    if extents.mark(start, stop) != 0:
        wrong(b"a map is not written")
    while block < model.blocks and ((block + 1) * BLOCK <= stop or stop == model.total):
        model.marked[block] = 1
        block += 1
    return 0


cdef int note(Extents extents, Model* model, long long written) except -1:
    written = written % (model.total + 1)
    if written > model.written:
        model.written = written
        if extents.note(written) != 0:
            wrong(b"a map is not written")
    return 0


cdef long long end_of(Model* model, long long offset) noexcept:
    cdef long long block = offset // BLOCK
    while offset < model.total and model.marked[block]:
        block += 1
        offset = min(block * BLOCK, model.total)
    return offset


cdef int compare(Extents extents, Model* model, const char* what) except -1:
    """Both have the same blocks: asked for where something begins or ends, at words' borders, and within."""
    cdef long long block = model.blocks - 1, offset, end = model.total, after = model.total
    # Of this block on: `end`, where the bytes that are there end; `after`, where the next ones begin
    while block >= 0:
        offset = block * BLOCK
        if model.marked[block]:
            after = offset
        else:
            end = offset
        if block == 0 or model.marked[block] != model.marked[block - 1] or (block & 63) < 2:
            if extents.end_of(offset) != end or extents.next_at(offset) != after:
                wrong(what)
            offset = min(offset + 17, model.total - 1)
            if model.marked[block]:
                if extents.end_of(offset) != end or extents.next_at(offset) != offset:
                    wrong(what)
        block -= 1
    if extents.end_of(model.total) != model.total or extents.next_at(model.total) != model.total:
        wrong(what)
    if extents.written != model.written and extents.written != end_of(model, model.written):
        wrong(what)
    return 0


cdef int damage(const unsigned char* data, size_t count, Model* model) except -1:
    """Change bytes of the file, cut it or make it longer: no more is read than was written."""
    cdef size_t i
    cdef long size = HEADER + 16 * ((model.blocks + 63) // 64), place
    cdef unsigned char byte
    cdef long long block, least
    for i in range(min(count, <size_t>DAMAGES)):
        place = (data[4 * i + 1] | (data[4 * i + 2] << 8)) % size
        pread(file, &byte, 1, place)
        byte ^= data[4 * i + 3]
        pwrite(file, &byte, 1, place)
    if data[0] >= 230:
        ftruncate(file, (data[1] | (data[2] << 8)) % (2 * size))
    cdef Extents found = Extents(model.total, dup(file))
    if not found.load(DEVICE, INODE):
        return 0
    for block in range(model.blocks):
        if found.has(block) and not model.marked[block]:
            wrong(b"a damaged map has a block that was not written")
    least = max(model.written, end_of(model, model.written))
    if found.written > least:
        wrong(b"a damaged map has more from the beginning on than was written")
    return 0
