from libc.stdint cimport uint32_t, uint64_t

from regproxy.dataplane.answers cimport Answer, Scope
from regproxy.dataplane.body cimport Endpoint, Sink, Source
from regproxy.dataplane.buffer cimport Buf
from regproxy.dataplane.incoming_body cimport IncomingBody
from regproxy.dataplane.outgoing cimport Outgoing
from regproxy.dataplane.read_states cimport ReadState
from regproxy.dataplane.tls cimport Conn
from regproxy.dataplane.posix cimport sockaddr_storage
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.tally cimport Use


cdef class Stream(Endpoint):
    # The object whose on_ methods are called
    cdef public object handler
    cdef readonly Conn tls
    cdef sockaddr_storage peer_address
    # One of a pair within this process: the other end's close() ends both directions at once
    cdef bint paired

    # Answers that can be sent again to the heads of this connection, None: the handler gets all heads
    cdef public Scope scope
    # Counts the answers that are sent again here, None: nobody does
    cdef public Use client
    # The peer's address, once it was needed
    cdef bytes peer_text

    # READ_PREFACE: called with the stream once it is known who connects, or with what was wrong
    cdef object on_welcome
    cdef object on_refused

    # Incoming flow
    cdef ReadState state
    cdef Buf inb
    cdef size_t scanned
    cdef size_t head_limit
    cdef bint front
    cdef bint handshaking
    cdef bint processing
    cdef bint backlog
    cdef bint rdhup
    cdef bint hup
    cdef bint head_begun
    cdef bint fed
    cdef bint eof_in
    cdef bint eof_clean
    # What `receive` asked for
    cdef IncomingBody body
    cdef readonly long long plain_received

    # Outgoing flow, and what is to be done once all of it is out
    cdef Outgoing out
    cdef bint tell_sent
    cdef bint linger
    cdef bint shut_later
    cdef bint write_shut
    # Who is resumed then: its sink relays to this stream
    cdef Endpoint feeder

    # Time, in milliseconds of the reactor's clock
    cdef uint64_t in_deadline
    cdef long in_timeout
    cdef long head_timeout

    cdef bint in_event

    cdef Status write(self, Endpoint feeder, const char* p, size_t n) except Status.EXC
    cdef Status write_chunk(self, Endpoint feeder, const char* p, size_t n) except Status.EXC

    cdef bint can_drain(self)
    cdef bint send_from(self, Endpoint feeder, Source source) except -1

    cdef int _arm(self) except -1
    cdef int _close(self, bint linger) except -1
    cdef int _readable(self) except -1
    cdef int _decrypt(self, const char* p, size_t n) except -1
    cdef int _shake(self) except -1
    cdef bint _not_tls(self, unsigned char first) except -1
    cdef int _shut(self) except -1
    cdef int _read_direct(self) except -1
    cdef int _draw(self) except -1
    cdef int expect_preface(self, object on_welcome, object on_refused, long timeout) except -1
    cdef int _read_preface(self) except -1
    cdef int _refuse_preface(self, str reason) except -1
    cdef int _take(self, const char* p, size_t n) except -1
    cdef int _process(self) except -1
    cdef bint _cut_head(self) except -1
    cdef int _hand_over(self, bytes head) except -1
    cdef int _next_head(self, double idle_timeout, double head_timeout) except -1
    cdef bint _send(self, bytes head, bytes body, Source source, bint chunked, bint last) except -1
    cdef int _answer_again(self, Answer answer, double began) except -1
    cdef int _drain_body(self) except -1
    cdef int _feed_body(self, const char* p, size_t n) except -1
    cdef int _body_over(self, bint complete, str reason) except -1
    cdef int _on_eof(self, bint clean) except -1
    cdef int _leave(self) except -1
    cdef int _writable(self) except -1
    cdef int _pump(self) except -1
    cdef int _drained(self) except -1
    cdef bint _settled(self) except -1
    cdef int _broken(self, str reason) except -1
    cdef int _destroy(self) except -1
