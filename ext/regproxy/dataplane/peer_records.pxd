from libc.stdint cimport uint64_t

from regproxy.dataplane.buffer cimport Buf
from regproxy.dataplane.openssl cimport SSL
from regproxy.dataplane.records cimport Unseal
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.tls_bio cimport Wire


cdef class PeerRecords:
    """The records that a peer sends behind its handshake, opened without OpenSSL."""
    cdef Unseal unseal
    # The connection's, which has this object
    cdef SSL* ssl
    cdef Wire* wire
    # A record that has not come whole
    cdef Buf rest

    # A handshake message that has not come whole: its header, and what is to come behind that
    cdef unsigned char head[4]
    cdef unsigned int head_len
    cdef size_t to_come
    cdef unsigned char asks

    # What was found behind the last data: END, or FAILED for OpenSSL's reason `fault`; OK: nothing so far
    cdef Status verdict
    cdef int fault

    cdef Status read(self, char* p, size_t cap, size_t* n) except Status.EXC
    cdef bint drained(self) noexcept
    cdef Status _next(self, const unsigned char** record, size_t* size) except Status.EXC
    cdef size_t _collect(self, size_t upto) except? 0
    cdef Status _open(self, const unsigned char* record, size_t size, unsigned char* out,
                      size_t* done) noexcept
    cdef Status _alert(self, const unsigned char* p, size_t n) noexcept
    cdef Status _messages(self, const unsigned char* p, size_t n) noexcept
    cdef Status _begin_message(self) noexcept
    cdef Status _key_update(self) noexcept
    cdef Status _wrong(self, int reason) noexcept


cdef PeerRecords peer_records(SSL* ssl, Wire* wire, unsigned int suite)
