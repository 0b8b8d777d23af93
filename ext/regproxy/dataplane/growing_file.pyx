"""A file that grows as a body arrives, is hashed on the way and read by many at once."""

cimport cython
from libc.stdlib cimport free, malloc

from regproxy.dataplane.block_map cimport BLOCK, Extents
from regproxy.dataplane.body cimport Endpoint, Sink, Source
from regproxy.dataplane.file cimport File
from regproxy.dataplane.memory_window cimport ReaderCursor, open_window
from regproxy.dataplane.openssl cimport *
from regproxy.dataplane.posix cimport *
from regproxy.dataplane.status cimport Status

cdef enum:
    # Bytes held back until the digest has matched: no client can take a wrong body for complete.
    HOLD_BACK = 16384
    NO_LIMIT = 0
    COPY = 1048576
    # Up to this much is hashed within the event loop when its turn has come; more by a thread.
    HASHED_HERE = 524288
    # A reader that holds back the origin, and with it others, must take LEAST bytes in PATIENCE seconds.
    LEAST = 1048576
    PATIENCE = 10
    # Up to this many readers get new bytes from memory; with more, each reads the file in its turn.
    OFFERS = 2

cdef EVP_MD* sha256 = EVP_MD_fetch(NULL, b"SHA2-256", NULL)


@cython.no_gc_clear
cdef class Reader(Source):
    """A reader of [offset, stop) of a file that may grow. stop -1: to its end."""

    def __dealloc__(self):
        # no_gc_clear: the growth is still there.
        if self.place != NULL:
            try:
                self.growth.leave(self.place)
            except Exception:
                # The loop is closed: no reader waits for the origin any more.
                pass

    cdef int advance_by(self, long long n) except -1:
        self.offset += n
        if self.place != NULL:
            self.place.offset = self.offset
            if self.growth.held_back is not None:
                self.growth.moved()
        return 0

    cdef long long limit_to(self, long long visible) noexcept:
        """Return how far this reader may read of the visible bytes."""
        return self.stop if 0 <= self.stop < visible else visible


cdef class GrowingFile(Sink):
    """A part file that grows as the origin's body arrives, hashed on the way, with any number of readers.

    `finish()` lets the readers have the end, `fail(reason)` cuts them. Where another process writes the file,
    `follow()` or `inotify.Watch` says how far it is; `catch_up()` then makes it ours to go on with.

    A disk that takes no more turns it into a relay: what it has stays readable, and what comes is in memory,
    in a MemoryWindow, which holds the origin back to the pace of the slowest reader. `disk_errno` says why,
    and `on_spill()` is called from the loop, if it is set.

    With `scatter()` it is filled in several places at once, by `RangeWriter`s. `written` is how much is there
    from the beginning on; the hash follows in order. `on_wait()` is called from the loop when a reader waits.
    A disk that fails then fails the segment: it is for the caller to `gather()` and go on from `written`.
    """

    def __cinit__(self, File file not None, long long limit=NO_LIMIT):
        self.file = file
        self.limit = limit
        self.total = -1
        self.waiters = []
        self.tending = ()
        self.reason = ""
        self.md = EVP_MD_CTX_new()
        if self.md == NULL or EVP_DigestInit_ex2(self.md, sha256, NULL) != 1:
            raise MemoryError

    def __dealloc__(self):
        EVP_MD_CTX_free(self.md)

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def failed(self) -> bool:
        return self.state == BROKEN

    @property
    def waiting(self) -> int:
        """The number of readers that have sent all present bytes."""
        return len(self.waiters)

    @property
    def whole(self) -> bool:
        """Whether a reader can still begin at 0."""
        return self.window is None or self.window.floor == self.window.disk_end

    @property
    def memory(self) -> File | None:
        """What has the bytes from `disk_end` on, those below `floor` no longer; None: the disk has all."""
        return self.window.file if self.window is not None else None

    @property
    def disk_end(self) -> int:
        return self.window.disk_end if self.window is not None else 0

    @property
    def floor(self) -> int:
        return self.window.floor if self.window is not None else 0

    def expect(self, long long total) -> None:
        """Set the length that the origin declared, in bytes; -1: it did not."""
        if total < -1 or (self.extents is not None and total != self.extents.total):
            raise ValueError(f"{total} bytes are not the length of what is there")
        self.total = total

    def hexdigest(self) -> str:
        """SHA-256 of all that was written so far."""
        cdef unsigned char digest[64]
        cdef unsigned int n = 0
        cdef EVP_MD_CTX* copy
        if self.hashed != self.written:
            raise ValueError(f"{self.hashed} of {self.written} bytes are hashed: catch_up() first")
        copy = EVP_MD_CTX_new()
        try:
            # Of a copy: what is written later is hashed on.
            if copy == NULL or not EVP_MD_CTX_copy_ex(copy, self.md):
                raise MemoryError("no memory for a digest")
            if not EVP_DigestFinal_ex(copy, digest, &n):
                raise MemoryError("no memory for a digest")
        finally:
            EVP_MD_CTX_free(copy)
        return digest[:n].hex()

    def finish(self) -> None:
        self.state = DONE
        self.total = self.written
        self._settle()

    def fail(self, str reason not None) -> None:
        if self.state == GROWING:
            self.state = BROKEN
            self.reason = reason
            self._settle()

    cdef int _settle(self) except -1:
        # The connection may serve another request by now.
        self.held_back = None
        self.on_wait = None
        if self.hurrying is not None:
            # It would keep the file, and what it takes on the disk, until then.
            self.hurrying.cancel()
            self.hurrying = None
        return self.wake_all()

    # --- several places at once --------------------------------------------------------------------------

    def scatter(self, Extents extents not None) -> None:
        """Accept bytes at any offset from now on; `extents` tells which are present."""
        if self.written > extents.total:
            raise ValueError(f"{self.written} bytes are there, of what is to have {extents.total}")
        self.extents = extents
        self.total = extents.total
        self.written = max(self.written, extents.written)

    def gather(self) -> None:
        """Count only the contiguous bytes from the beginning from now on."""
        self.extents = None

    def wanted(self) -> list[int]:
        """Return the offsets at which readers wait, longest first."""
        self.told = False
        self._forget_gone()
        return [(<Reader>source).offset for source, _ in self.waiters]

    cdef int _forget_gone(self) except -1:
        """Drop waiting readers whose client has left."""
        self.waiters = [(source, to) for source, to in self.waiters if (<Endpoint>to).fd >= 0]
        return 0

    def holds(self, long long offset) -> bool:
        """Return whether the byte at `offset` is present."""
        return offset < self.written or (self.extents is not None and self.extents.end_of(offset) > offset)

    # --- what another process has written ----------------------------------------------------------------

    def follow(self, long long size) -> None:
        """Note that the file has `size` bytes now."""
        self.grow_to(size)

    def refresh(self) -> None:
        """Look at the file, or at the map where there is one."""
        self.look()

    cdef int look(self) except -1:
        cdef stat_t now
        if self.extents is not None:
            # A map that can't be read tells nothing new.
            self.extents.refresh()
            if self.state == GROWING:
                self.written = max(self.written, self.extents.written)
                self.wake_all()
        elif fstat(self.file.fd, &now) == 0:
            self.grow_to(now.st_size)
        return 0

    cdef int grow_to(self, long long size) except -1:
        if size > self.written and self.state == GROWING and self.extents is None:
            self.written = size
            self.wake_all()
        return 0

    # --- the hash ----------------------------------------------------------------------------------------

    cdef int _hash_lag(self) except -1:
        """Hash the bytes whose turn has come: a little here, much by a thread."""
        cdef long long lag = self.written - self.hashed
        if lag <= 0 or self.hashing or self.state != GROWING:
            return 0
        if lag <= HASHED_HERE:
            try:
                self.catch_up()
            except OSError:
                # It shows again when all of it has to be hashed.
                pass
            return 0
        self.hashing = True
        self.catching = self.file.loop.run_in_executor(None, self.catch_up)
        self.catching.add_done_callback(self._caught_up)
        return 0

    def _caught_up(self, future):
        self.hashing = False
        self.catching = None
        if not future.cancelled() and future.exception() is None:
            self._hash_lag()

    def catch_up(self) -> None:
        """Hash the file's bytes that are not hashed yet. Blocks, so on a thread. Raises OSError."""
        cdef char* p = <char*>malloc(COPY)
        cdef ssize_t got = 0
        cdef size_t want
        cdef int error = 0
        if p == NULL:
            raise MemoryError
        try:
            while self.hashed < self.written:
                want = COPY
                if self.written - self.hashed < <long long>want:
                    want = <size_t>(self.written - self.hashed)
                with nogil:
                    got = pread(self.file.fd, p, want, self.hashed)
                    if got > 0:
                        EVP_DigestUpdate(self.md, p, got)
                    else:
                        error = errno if got else EIO
                if error:
                    raise OSError(error, strerror(error).decode())
                self.hashed += got
        finally:
            free(p)

    def let_go(self) -> None:
        """Release the connection of a body that has ended: it may serve another request."""
        self.held_back = None

    def pass_over(self, long long n) -> None:
        """Skip the first `n` bytes of the next body: they are present already."""
        if not 0 <= n <= self.written:
            raise ValueError(f"{n} of {self.written} bytes can't be passed over")
        self.surplus = n

    # --- the body ----------------------------------------------------------------------------------------

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef size_t known
        cdef Status status
        if self.surplus > 0:
            known = <size_t>min(self.surplus, <long long>n)
            self.surplus -= known
            p += known
            n -= known
            if n == 0:
                return Status.OK
        if self.limit != NO_LIMIT and self.written + <long long>n > self.limit:
            self.reason = f"the body is larger than {self.limit} bytes"
            self.too_large = True
            return Status.FAILED
        if self.total < 0 or <long long>n <= self.total - self.written:
            return self._extend(origin, p, n)
        # All declared bytes are present now: the digest will tell whether they are right.
        if self.total > self.written:
            status = self._extend(origin, p, <size_t>(self.total - self.written))
            if status == Status.FAILED:
                return status
        self.reason = f"the body is longer than the {self.total} bytes that were declared"
        return Status.FAILED

    cdef Status _extend(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef Status status
        status = self._append(p, n) if self.window is None else self._remember(p, n)
        if status != Status.OK:
            return status
        if self.hashed == self.written and not self.hashing:
            EVP_DigestUpdate(self.md, p, n)
            self.hashed += n
        self.written += n
        if self.hashed < self.written:
            self._hash_lag()
        if len(self.waiters) <= OFFERS:
            self._offer_all(self.written - <long long>n, p, n)
        self.wake_all()
        if self._trim():
            self.held_back = origin
            if not self.impatient:
                self.impatient = True
                self.hurrying = self.file.loop.call_later(PATIENCE, self._hurry, self.window.floor)
            return Status.AGAIN
        return Status.OK

    cdef Status put(self, RangeWriter segment, const char* p, size_t n) except Status.EXC:
        """Take a segment's bytes, except those that are present: these are never written again."""
        cdef long long there
        cdef size_t known
        cdef Status status
        if self.extents is None or self.window is not None:
            segment.reason = "it is not filled in several places any more"
            return Status.FAILED
        if segment.offset < 0 or <long long>n > self.extents.total - segment.offset:
            segment.reason = f"it goes on past the {self.extents.total} bytes that were declared"
            return Status.FAILED
        while n:
            there = max(self.written, self.extents.end_of(segment.offset))
            if there > segment.offset:
                known = <size_t>min(there - segment.offset, <long long>n)
            else:
                known = <size_t>min(self.extents.next_at(segment.offset) - segment.offset, <long long>n)
                status = self._put_run(segment, p, known)
                if status != Status.OK:
                    return status
            segment.offset += known
            p += known
            n -= known
        self._hash_lag()
        self.wake_all()
        return Status.OK

    cdef Status _put_run(self, RangeWriter segment, const char* p, size_t n) except Status.EXC:
        cdef long long start = segment.offset
        cdef bint next_to_hash
        cdef Status status = self._place(start, p, n)
        if status != Status.OK:
            segment.reason = f"the disk fails: {strerror(self.disk_errno).decode()}"
            return status
        next_to_hash = self.hashed == start == self.written and not self.hashing
        if self._advance(segment.start, start, start + <long long>n):
            self.disk_errno = errno
            segment.reason = f"the disk fails: {strerror(self.disk_errno).decode()}"
            return Status.FAILED
        if next_to_hash:
            EVP_DigestUpdate(self.md, p, n)
            self.hashed += n
        if len(self.waiters) <= OFFERS:
            self._offer_all(start, p, n)
        return Status.OK

    cdef int _advance(self, long long first, long long start, long long stop) noexcept:
        """Mark [start, stop) as present, as [first, start) was before. 0, or -1 and errno."""
        cdef long long end, begin = start
        if first > self.written and first % BLOCK:
            # The bytes before it in that block may be missing.
            begin = max(start, (first // BLOCK + 1) * BLOCK)
        if begin < stop and self.extents.mark(begin, stop):
            return -1
        if first <= self.written < stop:
            self.written = stop
        while True:
            end = self.extents.end_of(self.written)
            if end <= self.written:
                break
            self.written = end
        return self.extents.note(self.written) if self.written > self.extents.written else 0

    cdef Status _place(self, long long offset, const char* p, size_t n) except Status.EXC:
        """Write to the file; FAILED: `disk_errno` says why."""
        cdef size_t at = 0
        cdef ssize_t k
        cdef stat_t now
        if fstat(self.file.fd, &now) != 0 or now.st_size < max(self.reach, self.written):
            # Another process has truncated it: zeros would be in place of bytes that have been hashed.
            self.disk_errno = EIO
            return Status.FAILED
        while at < n:
            k = pwrite(self.file.fd, p + at, n - at, offset + <long long>at)
            if k < 0:
                if errno == EINTR:
                    continue
                self.disk_errno = errno
                return Status.FAILED
            at += k
        self.reach = max(self.reach, offset + <long long>n)
        return Status.OK

    cdef Status _append(self, const char* p, size_t n) except Status.EXC:
        if self.largest and self.written + <long long>n > self.largest:
            self.disk_errno = EFBIG
        elif self._place(self.written, p, n) == Status.OK:
            return Status.OK
        # Whole pieces only: the file has the bytes counted in `written`, and maybe more after them.
        return self._remember(p, n) if self._spill() == Status.OK else Status.FAILED

    cdef Status _remember(self, const char* p, size_t n) except Status.EXC:
        if self.places == NULL and self.written - self.window.disk_end > self.window.size:
            self.reason = f"not stored ({strerror(self.disk_errno).decode()}), and nobody reads it any more"
            return Status.FAILED
        if self.window.keep(p, n, self.written):
            self.reason = f"keeping a body in memory failed: {strerror(errno).decode()}"
            return Status.FAILED
        return Status.OK

    def relay(self, int error) -> None:
        """Store no more, for the errno `error`. Raises OSError where memory can't take it either."""
        if self.window is None:
            self.disk_errno = error
            if self._spill() != Status.OK:
                raise OSError(errno, self.reason)

    cdef Status _spill(self) except Status.EXC:
        """Keep bytes in memory from now on."""
        self.window = open_window(self.file, self.written)
        if self.window is None:
            self.reason = f"no memory for a body that the disk does not take: {strerror(errno).decode()}"
            return Status.FAILED
        if self.on_spill is not None:
            self.file.loop.call_soon(self.on_spill)
        return Status.OK

    cdef bint _trim(self) noexcept:
        """Free memory that every reader has had; True where the origin has to wait for one that is behind."""
        return self.window is not None and self.window.trim(self.places, self.written)

    def _hurry(self, long long floor):
        """Give up readers that hold the origin back for others, and hardly move."""
        cdef ReaderCursor* place = self.places
        cdef long long lowest = self.written
        self.impatient = False
        if self.held_back is None or self.state != GROWING:
            return
        if self.window.floor - floor < LEAST and self.waiters:
            while place != NULL:
                if place.offset < self.window.floor + LEAST:
                    place.lost = True
                else:
                    lowest = min(lowest, place.offset)
                place = place.behind
            self.window.give_back(lowest)
            self.moved()
        if self.held_back is not None:
            self.impatient = True
            self.hurrying = self.file.loop.call_later(PATIENCE, self._hurry, self.window.floor)

    # --- readers -----------------------------------------------------------------------------------------

    cdef ReaderCursor* enter(self, long long offset) except NULL:
        cdef ReaderCursor* place = <ReaderCursor*>malloc(sizeof(ReaderCursor))
        if place == NULL:
            raise MemoryError
        place.offset = offset
        place.lost = False
        place.before = NULL
        place.behind = self.places
        if self.places != NULL:
            self.places.before = place
        self.places = place
        return place

    cdef int leave(self, ReaderCursor* place) except -1:
        if place.before != NULL:
            place.before.behind = place.behind
        else:
            self.places = place.behind
        if place.behind != NULL:
            place.behind.before = place.before
        free(place)
        return self.moved()

    cdef int moved(self) except -1:
        """Let the origin send more, after a reader has gone on, or away."""
        cdef Endpoint origin = self.held_back
        if origin is not None and (self.places == NULL or not self._trim()):
            self.held_back = None
            origin.resume()
        return 0

    cdef int _offer_all(self, long long start, const char* p, size_t n) except -1:
        """Give new bytes straight to readers that have caught up; with many, the loop shares better.

        Only what they may see: what is in no whole block yet may be fetched again, and differ then.
        """
        cdef Reader source
        cdef long long limit
        cdef size_t taken
        for source, to in self.waiters:
            limit = min(start + <long long>n, self.visible(source.offset))
            if start <= source.offset < limit:
                if source.limit_to(limit) <= source.offset:
                    continue
                taken = <size_t>(source.limit_to(limit) - source.offset)
                source.advance_by((<Endpoint>to).offer(p + (source.offset - start), taken))
        return 0

    cdef long long _open_end(self) noexcept:
        """Return where readers have to stop before the digest has matched."""
        return (self.total if self.total >= 0 else self.written) - HOLD_BACK

    cdef long long visible(self, long long offset) noexcept:
        """Return up to where a reader at `offset` may read now."""
        cdef long long end = self.written
        if self.state == DONE:
            return end
        if offset >= end and self.extents is not None:
            end = self.extents.end_of(offset)
        return max(0, min(end, self._open_end()))

    cdef int wait(self, Reader source, Endpoint to) except -1:
        self.waiters.append((source, to))
        if self.on_wait is not None and not self.told and not self._tended(source.offset):
            self.told = True
            self.file.loop.call_soon(self._tell_waiting)
        return 0

    cdef bint _tended(self, long long offset) noexcept:
        """Return whether one of the writers brings the block with `offset` next."""
        cdef RangeWriter writer
        cdef long long at = max(offset, self.written)
        for writer in self.tending:
            if writer.start <= at <= writer.offset < writer.stop:
                return True
        return False

    def _tell_waiting(self):
        if self.on_wait is not None:
            self.on_wait()

    cdef int wake_all(self) except -1:
        """Wake the readers that have something to read."""
        cdef Reader source
        cdef Endpoint to
        cdef list waiters = self.waiters
        # wake() only arms the reader, so no waiter is added to the list meanwhile.
        self.waiters = []
        for source, to in waiters:
            if self._waits_on(source):
                if to.fd >= 0:
                    self.waiters.append((source, to))
            else:
                to.wake()
        return 0

    cdef bint _waits_on(self, Reader source) noexcept:
        """Return whether there is surely nothing new for this reader."""
        if self.state != GROWING or self.extents is None or 0 <= source.stop <= source.offset:
            return False
        return self.visible(source.offset) <= source.offset


cdef class RangeWriter(Sink):
    """A body that goes to [start, stop) of a growth that is scattered.

    `body_stop`: where the body itself ends, or should. One that goes on behind `stop` is broken off there,
    and `full` says so: all that was wanted has come. `stop` may be lowered meanwhile, never below `offset`.
    """

    def __cinit__(self, GrowingFile growth not None, long long start, long long stop, long long body_stop):
        if not 0 <= start <= stop <= body_stop:
            raise ValueError(f"a segment can't be from {start} to {stop} of a body that ends at {body_stop}")
        self.growth = growth
        self.start = self.offset = start
        self.stop = stop
        self.body_stop = body_stop
        self.fd = -1
        self.reason = ""

    @property
    def unread(self) -> int:
        """How many bytes of the running body the kernel has for us, with what TLS adds to them."""
        cdef int n = 0
        return n if self.fd >= 0 and ioctl(self.fd, SIOCINQ, &n) == 0 else 0

    cdef Status push(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef size_t known = n
        cdef Status status
        self.fd = origin.fd
        if self.stop - self.offset < <long long>n:
            known = <size_t>max(self.stop - self.offset, 0)
        status = self.growth.put(self, p, known)
        # With more than was announced (chunks that go on behind their range) there is no end to wait for.
        if status == Status.OK and self.offset >= self.stop and (known < n or self.stop < self.body_stop):
            self.full = True
            self.reason = "all that was wanted of it is there"
            return Status.FAILED
        return status
