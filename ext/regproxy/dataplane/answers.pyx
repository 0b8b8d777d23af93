"""Answers that are sent again without Python, to requests whose heads are the same byte for byte.

An answer is put here when the same head has been answered from the cache twice within a second, exactly as
it went out but for the request's id. It is good until the second ends that its Date names, or until
anything changes that it may rest on, from the beginning of its look-up on: the index, in this process or
another one (`Board.generation`), or what `revoke()` is called for. So it never outlives the look-up that it
repeats by more than a second, and what is revoked is revoked at once.

Requests to different registries, and of different clients, never meet: each has a Scope of its own.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.math cimport llrint
from libc.string cimport memcpy

from regproxy.dataplane.buffer cimport buf_append, buf_free
from regproxy.dataplane.posix cimport CLOCK_REALTIME, clock_gettime, timespec
from regproxy.dataplane.request_ids cimport ID_COUNTED, ID_FIXED, RequestIds

cdef enum:
    LINES_ENOUGH = 262144
    SECONDS_MAX = 32

# Answers that are kept at a time, and the bytes of their bodies; where there are more all begin anew.
ANSWERS_MAX = 2048
HELD_MAX = 16777216
SCOPES_MAX = 1024  # that are found again by their keys
BODY_MAX = 65536  # bytes; a larger one costs so much to send that Python does not matter


cdef void write_digits(char* out, int n, unsigned long long value) noexcept nogil:
    """Write the last n digits of a number, with leading zeros."""
    while n:
        n -= 1
        out[n] = 48 + <char>(value % 10)
        value //= 10


cdef int write_seconds(char* out, double seconds) noexcept nogil:
    """Write non-negative seconds with three digits behind the point; return the length, below SECONDS_MAX.

    printf() takes a fortieth of the time of a whole answer for it.
    """
    cdef unsigned long long ms = <unsigned long long>llrint(seconds * 1000)
    cdef unsigned long long rest = ms // 10000
    cdef int whole = 1
    while rest:
        whole += 1
        rest //= 10
    write_digits(out, whole, ms // 1000)
    out[whole] = 46
    write_digits(out + whole + 1, 3, ms)
    return whole + 4


cdef bytes _own(bytes text):
    """Return a copy that nobody else has, and which may be written to for that reason."""
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(text), len(text))


cdef class Answer:
    """One answer: see the module. `line` is the access log's: None, or (before the milliseconds of the time,
    before the peer's address, before the duration, the end); one of a single part is written as it is.

    `until`: seconds of CLOCK_MONOTONIC. `second`: of the clock (epoch) when it went out first: it is good for
    that second alone, as its Date and its line name it, and as a clock that is set changes how old a tag's
    copy is; 0: it names none. `saved`: its body counts as saved. `last`: the connection ends with it.
    `image`, `content`: what counts the use that is made of either. `owner` is for the handler.
    `request_id`: that of the request which it went out for first, as it stands in head and line; each
    later one has another in its place. b"": it stands nowhere.
    """

    def __init__(self, bytes head not None, bytes body not None, object owner, Tally tally not None,
                 bint saved, double until, long second, tuple line, bint last=False, Use image=None,
                 Use content=None, bytes request_id not None=b"") -> None:
        self.id_in_head = self.id_in_end = -1
        # The last one: nothing that anybody else may have chosen comes behind it.
        if request_id:
            self.id_in_head = head.rfind(request_id)
        self.head = head if self.id_in_head < 0 else _own(head)
        self.body = body
        self.owner = owner
        self.tally = tally
        self.saved = saved
        self.until = until
        self.second = second
        self.last = last
        self.image = image
        self.content = content
        if line is not None and len(line) == 1:
            self.end = line[0]
        elif line is not None:
            self.before_ms, self.before_peer, self.before_took, self.end = line
        if request_id and self.end is not None:
            self.id_in_end = self.end.rfind(request_id)
            if self.id_in_end >= 0:
                self.end = _own(self.end)

    cdef void name(self, const char* request_id) noexcept:
        """Write another request's id, of the same process, in the place of the last one's."""
        cdef const char* counted = request_id + ID_FIXED
        if self.id_in_head >= 0:
            memcpy(PyBytes_AS_STRING(self.head) + self.id_in_head + ID_FIXED, counted, ID_COUNTED)
        if self.id_in_end >= 0:
            memcpy(PyBytes_AS_STRING(self.end) + self.id_in_end + ID_FIXED, counted, ID_COUNTED)


cdef class Answers:
    """The answers of one worker, and the lines of the access log that they have caused.

    `repeated`: how many were sent again. `on_lines` is called when many lines wait to be taken.
    `idle_timeout`, `head_timeout`: seconds for the next request on the connection, as in Stream.next_head().
    `ids`: of the worker's requests, also of those that are not answered here.
    """

    def __init__(self, Board board not None, double idle_timeout, double head_timeout,
                 RequestIds ids=None) -> None:
        self.ids = RequestIds() if ids is None else ids
        self.board = board
        self.idle_timeout = idle_timeout
        self.head_timeout = head_timeout
        self.open = True
        self.scopes = {}
        self.filled = []

    def __dealloc__(self):
        buf_free(&self.lines)

    def scope(self, object key) -> Scope:
        """Return the answers for one kind of connection: `key` says which registry, and which client."""
        found = self.scopes.get(key)
        if found is None:
            if len(self.scopes) >= SCOPES_MAX:
                # Whoever has one keeps it: two of the same key know the same, each for itself.
                self.scopes.clear()
            found = self.scopes[key] = Scope(self)
        return found

    def begin(self) -> None:
        """Note that a look-up begins: what changes from here on revokes the answer that it ends in."""
        self.begun_generation = self.board.now()
        self.begun_epoch = self.epoch

    def revoke(self) -> None:
        """Let no answer that was put until now be sent again."""
        self.epoch += 1

    def close(self) -> None:
        """Send no answer again, and keep no more: from now on connections end with their answers."""
        self.open = False
        self.revoke()
        self.clear()

    def clear(self) -> None:
        """Forget all answers, with the content that they hold. To be called every few seconds."""
        for scope in self.filled:
            (<Scope>scope).known.clear()
        self.filled.clear()
        self.kept = self.held = 0

    cdef int count(self, Answer answer, Use client, bytes peer, double took) except -1:
        """Count and log an answer that has gone out again just now, `took` seconds after its request.

        `client`: the use of whoever asked, None for nobody's; `peer`: its address.
        """
        cdef long long n = len(answer.body), saved = n if answer.saved else 0
        answer.tally.add(n, took)
        if answer.saved:
            answer.tally.add_saved(n)
        if client is not None:
            client.add(1, n, saved)
        if answer.image is not None:
            answer.image.add(1, n, saved)
        if answer.content is not None:
            answer.content.add(1, n, saved)
        return self._log(answer, peer, len(peer), took)

    cdef int _log(self, Answer answer, const char* peer, size_t n, double took) except -1:
        """Write the access log's line of an answer that has gone out just now."""
        cdef timespec now
        cdef char text[SECONDS_MAX]
        cdef int ms = 999  # of what went out at the end of the second that the line names
        if answer.end is None:
            return 0
        if answer.before_ms is not None:
            clock_gettime(CLOCK_REALTIME, &now)
            if now.tv_sec == answer.second:
                ms = <int>(now.tv_nsec // 1000000)
            buf_append(&self.lines, answer.before_ms, len(answer.before_ms))
            write_digits(text, 3, ms)
            buf_append(&self.lines, text, 3)
            buf_append(&self.lines, answer.before_peer, len(answer.before_peer))
            buf_append(&self.lines, peer, n)
            buf_append(&self.lines, answer.before_took, len(answer.before_took))
            buf_append(&self.lines, text, write_seconds(text, took))
        buf_append(&self.lines, answer.end, len(answer.end))
        if self.lines.len >= LINES_ENOUGH and self.on_lines is not None:
            self.on_lines()
        return 0

    def take_lines(self) -> bytes:
        """Return the access log's lines since the last call."""
        cdef bytes taken
        if self.lines.len == 0:
            return b""
        taken = self.lines.data[self.lines.start:self.lines.start + self.lines.len]
        # The memory stays: as many lines come again.
        self.lines.start = self.lines.len = 0
        return taken


cdef class Scope:
    """The answers for connections to one registry, of one client: `Answers.scope()` makes it."""

    def __init__(self, Answers answers not None) -> None:
        self.answers = answers
        self.known = {}

    def put(self, bytes head not None, Answer answer not None) -> None:
        """Keep an answer to this head, of the look-up that the last begin() was for."""
        cdef Answers answers = self.answers
        if not answers.open or len(answer.body) > BODY_MAX:
            return
        if answers.kept >= ANSWERS_MAX or answers.held + len(answer.body) > HELD_MAX:
            answers.clear()
        answer.generation, answer.epoch = answers.begun_generation, answers.begun_epoch
        if not self.known:
            answers.filled.append(self)
        if head not in self.known:
            answers.kept += 1
        answers.held += len(answer.body)
        self.known[head] = answer

    cdef Answer find(self, bytes head, double now):
        """Return the answer to this head, if it is still good."""
        cdef PyObject* found = PyDict_GetItem(self.known, head)
        cdef timespec clock
        cdef Answer answer
        if found == NULL:
            return None
        answer = <Answer>found
        if answer.second:
            clock_gettime(CLOCK_REALTIME, &clock)
            if clock.tv_sec != answer.second:
                return None
        if answer.epoch != self.answers.epoch or answer.generation != self.answers.board.now():
            return None
        return answer if now < answer.until else None
