"""The records that an origin sends behind its handshake, opened without OpenSSL's record layer (`records`).

`Conn.read` goes over to this in the middle of a large body, where OpenSSL has read up to the end of a record
and that was data. From there on all records of the peer are opened here, whatever is in them (RFC 8446):

    data           is handed out
    closure alert  is the end; "user canceled" says nothing; any other alert is fatal (section 6)
    a ticket       is dropped, as no session is resumed (section 4.6.1)
    KeyUpdate      takes the next keys (section 4.6.3); OpenSSL makes the one that it may ask for in return,
                   since all that we send is OpenSSL's to encrypt

All else is an error, in OpenSSL's words. No alert tells the peer of it: OpenSSL has no call for that.
"""

from regproxy.dataplane.buffer cimport buf_append, buf_free
from regproxy.dataplane.openssl cimport *
from regproxy.dataplane.records cimport ENCRYPTED_MAX, RECORD_HEADER, RECORD_MAX, make_unseal
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.tls_bio cimport FLOOD, Wire, count_control

cdef enum:
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23
    CLOSE_NOTIFY = 0
    # A message's type and its length
    MESSAGE_HEADER = 4
    # What OpenSSL takes of a ticket: all fields at their longest
    TICKET_MAX = 131338


cdef PeerRecords peer_records(SSL* ssl, Wire* wire, unsigned int suite):
    """Return what goes on behind `wire.opened` records of the secret that the wire keeps; None: it can't."""
    cdef PeerRecords made
    cdef Unseal unseal = make_unseal(suite, wire.secret, wire.secret_len, wire.opened)
    if unseal is None:
        return None
    made = PeerRecords.__new__(PeerRecords)
    made.unseal = unseal
    made.ssl = ssl
    made.wire = wire
    return made


cdef class PeerRecords:
    """The records that a peer sends behind its handshake, opened without OpenSSL."""

    def __dealloc__(self):
        buf_free(&self.rest)

    cdef bint drained(self) noexcept:
        """Return whether nothing is left of what was read, so that another read would bring nothing."""
        return self.rest.len == 0 and self.verdict == Status.OK

    cdef Status read(self, char* p, size_t cap, size_t* n) except Status.EXC:
        """Open records as long as one more fits: at most ENCRYPTED_MAX of `cap` may be left free."""
        cdef const unsigned char* record
        cdef size_t size, part
        cdef Status status
        n[0] = 0
        while self.verdict == Status.OK and cap - n[0] >= ENCRYPTED_MAX:
            status = self._next(&record, &size)
            if status == Status.AGAIN:
                break
            if status == Status.OK:
                status = self._open(record, size, <unsigned char*>p + n[0], &part)
                n[0] += part
            # One of a record that has come in pieces.
            buf_free(&self.rest)
            self.verdict = status
        if n[0]:
            return Status.OK
        if self.verdict == Status.OK:
            return Status.AGAIN
        if self.fault:
            ERR_raise(ERR_LIB_SSL, self.fault)
        return self.verdict

    cdef Status _next(self, const unsigned char** record, size_t* size) except Status.EXC:
        """Find the next whole record; AGAIN: there is none, and what there is of it is kept."""
        cdef Wire* wire = self.wire
        cdef const unsigned char* head = <const unsigned char*>wire.source
        cdef bint whole_head = self.rest.len == 0 and wire.source_len >= RECORD_HEADER
        if not whole_head:
            if self._collect(RECORD_HEADER) < RECORD_HEADER:
                return Status.AGAIN
            head = <unsigned char*>self.rest.data + self.rest.start
        size[0] = RECORD_HEADER + ((<size_t>head[3] << 8) | head[4])
        if size[0] > RECORD_HEADER + ENCRYPTED_MAX:
            return self._wrong(SSL_R_ENCRYPTED_LENGTH_TOO_LONG)
        if whole_head and wire.source_len >= size[0]:
            record[0] = head
            wire.source += size[0]
            wire.source_len -= size[0]
            return Status.OK
        if self._collect(size[0]) < size[0]:
            return Status.AGAIN
        record[0] = <unsigned char*>self.rest.data + self.rest.start
        return Status.OK

    cdef size_t _collect(self, size_t upto) except? 0:
        """Move bytes from the wire to `rest`, until it has `upto`; return how many it has."""
        cdef size_t k
        if self.rest.len < upto:
            k = min(upto - self.rest.len, self.wire.source_len)
            buf_append(&self.rest, self.wire.source, k)
            self.wire.source += k
            self.wire.source_len -= k
        return self.rest.len

    cdef Status _open(self, const unsigned char* record, size_t size, unsigned char* out,
                      size_t* done) noexcept:
        """Open one record: `done` bytes of data, or none of anything else."""
        cdef unsigned char kind = 0
        cdef size_t n = 0
        done[0] = 0
        if record[0] != APPLICATION_DATA:
            # One that is not encrypted can be anybody's.
            return self._wrong(SSL_R_BAD_RECORD_TYPE)
        if record[1] != 3 or record[2] != 3:
            return self._wrong(SSL_R_WRONG_VERSION_NUMBER)
        if not self.unseal.open(record, size, out, &n, &kind):
            return self._wrong(SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC)
        if n > RECORD_MAX:
            return self._wrong(SSL_R_DATA_LENGTH_TOO_LONG)
        if kind != HANDSHAKE and self.head_len:
            return self._wrong(SSL_R_UNEXPECTED_RECORD)
        if kind == APPLICATION_DATA and n:
            done[0] = n
            return Status.OK
        if count_control(self.wire):
            self.wire.refused = FLOOD
            return Status.FAILED
        if kind == APPLICATION_DATA:
            return Status.OK
        if kind == ALERT:
            return self._alert(out, n)
        if kind == HANDSHAKE:
            return self._messages(out, n)
        return self._wrong(SSL_R_BAD_RECORD_TYPE)

    cdef Status _alert(self, const unsigned char* p, size_t n) noexcept:
        if n != 2:
            return self._wrong(SSL_R_INVALID_ALERT)
        if p[1] == CLOSE_NOTIFY:
            return Status.END
        if p[1] == SSL_AD_USER_CANCELLED:
            # A closure alert follows.
            return Status.OK
        return self._wrong(SSL_AD_REASON_OFFSET + p[1])

    cdef Status _messages(self, const unsigned char* p, size_t n) noexcept:
        """Take in a record of handshake messages, which may begin and end anywhere in them."""
        cdef size_t k
        cdef Status status
        while n:
            if self.head_len < MESSAGE_HEADER:
                self.head[self.head_len] = p[0]
                self.head_len += 1
                k = 1
                status = self._begin_message() if self.head_len == MESSAGE_HEADER else Status.OK
            else:
                self.asks = p[0]
                k = min(n, self.to_come)
                self.to_come -= k
                status = Status.OK
                if self.to_come == 0:
                    self.head_len = 0
                    if self.head[0] == SSL3_MT_KEY_UPDATE:
                        # What follows is under other keys already.
                        return self._wrong(SSL_R_NOT_ON_RECORD_BOUNDARY) if n > k else self._key_update()
            if status != Status.OK:
                return status
            p += k
            n -= k
        return Status.OK

    cdef Status _begin_message(self) noexcept:
        cdef size_t longest
        self.to_come = (<size_t>self.head[1] << 16) | (<size_t>self.head[2] << 8) | self.head[3]
        if self.head[0] == SSL3_MT_KEY_UPDATE:
            longest = 1
        elif self.head[0] == SSL3_MT_NEWSESSION_TICKET:
            longest = TICKET_MAX
        else:
            return self._wrong(SSL_R_UNEXPECTED_MESSAGE)
        if self.to_come == 0:
            return self._wrong(SSL_R_LENGTH_TOO_SHORT)
        return Status.OK if self.to_come <= longest else self._wrong(SSL_R_EXCESSIVE_MESSAGE_SIZE)

    cdef Status _key_update(self) noexcept:
        if self.asks != <unsigned char>SSL_KEY_UPDATE_NOT_REQUESTED:
            if self.asks != <unsigned char>SSL_KEY_UPDATE_REQUESTED:
                return self._wrong(SSL_R_BAD_KEY_UPDATE)
            ERR_clear_error()
            if (SSL_key_update(self.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1
                    or SSL_do_handshake(self.ssl) != 1):
                return Status.FAILED
        return Status.OK if self.unseal.update() else Status.FAILED

    cdef Status _wrong(self, int reason) noexcept:
        self.fault = reason
        return Status.FAILED
