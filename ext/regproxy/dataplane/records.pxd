from libc.stdint cimport uint64_t

from regproxy.dataplane.openssl cimport EVP_CIPHER_CTX
from regproxy.dataplane.status cimport Status


cdef enum:
    RECORD_MAX = 16384
    # Header, inner content type, authentication tag
    RECORD_EXTRA = 22
    SECRET_MAX = 48


cdef class Seal:
    """Makes the TLS 1.3 records of one direction of one connection."""
    cdef EVP_CIPHER_CTX* ctx
    cdef unsigned char iv[12]
    cdef uint64_t sequence

    cdef Status seal(self, unsigned char kind, const char* p, size_t n, char* out, size_t cap,
                     size_t* done) except Status.EXC


cdef bint can_seal(unsigned int suite) noexcept
cdef Seal make_seal(unsigned int suite, const unsigned char* secret, size_t n, uint64_t sequence)
