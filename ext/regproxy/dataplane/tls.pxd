from libc.stdint cimport uint64_t

from regproxy.dataplane.peer_records cimport PeerRecords
from regproxy.dataplane.records cimport Seal
from regproxy.dataplane.tls_bio cimport Wire
from regproxy.dataplane.tls_contexts cimport ClientTrust, Context
from regproxy.dataplane.openssl cimport SSL
from regproxy.dataplane.status cimport Status


cdef class Conn:
    cdef SSL* ssl
    cdef Context context
    cdef Wire wire
    cdef bytes host
    cdef object choose
    cdef ClientTrust client_trust
    # The socket's own BIO (kTLS): OpenSSL reads and writes the fd by itself
    cdef readonly bint direct
    # And the kernel encrypts what is written to it
    cdef readonly bint kernel_sends
    cdef int os_error
    cdef readonly bint established
    # Our own record layer for large bodies, and how many records the connection's data took
    cdef Seal seal
    cdef bint unsealable
    cdef uint64_t records
    # What opens a server's records in place of OpenSSL, and how much data OpenSSL has read before
    cdef PeerRecords peer
    cdef bint unopenable
    cdef uint64_t received

    cdef int ask_client(self) except -1
    cdef int _expect_peer(self, bint is_ip) except -1
    cdef Status _outcome(self, int ret) except Status.EXC
    cdef Status handshake(self) except Status.EXC
    cdef bint _qualifies(self) noexcept
    cdef bint _in_step(self) noexcept
    cdef void _never_seal(self) noexcept
    cdef void _forget_secret(self) noexcept
    cdef bint _may_open(self) noexcept
    cdef bint _open_up(self) except -1
    cdef void _never_open(self) noexcept
    cdef Status read(self, char* p, size_t cap, size_t* n) except Status.EXC
    cdef void _credit(self, size_t n) noexcept
    cdef bint drained(self) noexcept
    cdef Status write(self, const char* p, size_t n, size_t* done) except Status.EXC
    cdef Status _write_sealed(self, const char* p, size_t n, size_t* done) except Status.EXC
    cdef bint spent(self) noexcept
    cdef int take_over(self) except -1
    cdef Status close_notify(self) except Status.EXC
    cdef str failure(self)
