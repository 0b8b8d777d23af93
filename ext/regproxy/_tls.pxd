from libc.stdint cimport uint64_t

from regproxy._seal cimport Seal
from regproxy.openssl cimport SSL, SSL_CTX
from regproxy.status cimport Status


cdef struct Wire:
    # What the BIO of a connection reads from and writes to: scratch memory that is bound for one event only.
    const char* source
    size_t source_len
    char* dest
    size_t dest_len
    size_t dest_cap
    # The name that the ClientHello must ask for, and whether it asked for another
    const char* host
    bint wrong_name
    # The secret of our own side's records (TLS 1.3)
    unsigned char secret[48]
    size_t secret_len


cdef class Context:
    cdef SSL_CTX* ctx
    cdef readonly bint server
    cdef readonly bint verify
    cdef readonly bint ktls


cdef class Conn:
    cdef SSL* ssl
    cdef Context context
    cdef Wire wire
    cdef bytes host
    # The socket's own BIO (kTLS): OpenSSL reads and writes the fd by itself
    cdef readonly bint direct
    # And the kernel encrypts what is written to it
    cdef readonly bint kernel_sends
    cdef int os_error
    cdef readonly bint established
    # Our own record layer for large bodies, and how many records OpenSSL's has made
    cdef Seal seal
    cdef bint unsealable
    cdef uint64_t records

    cdef int _expect_peer(self, bint is_ip) except -1
    cdef Status _outcome(self, int ret) except Status.EXC
    cdef Status handshake(self) except Status.EXC
    cdef Status read(self, char* p, size_t cap, size_t* n) except Status.EXC
    cdef bint drained(self) noexcept
    cdef Status write(self, const char* p, size_t n, size_t* done) except Status.EXC
    cdef int take_over(self) except -1
    cdef Status close_notify(self) except Status.EXC
    cdef str failure(self)
