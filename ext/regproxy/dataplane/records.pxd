from libc.stdint cimport uint64_t

from regproxy.dataplane.openssl cimport EVP_CIPHER_CTX
from regproxy.dataplane.status cimport Status


cdef enum:
    RECORD_MAX = 16384
    # Header, inner content type, authentication tag
    RECORD_EXTRA = 22
    SECRET_MAX = 48
    # Ahead of what is encrypted: the outer type, a version, the length
    RECORD_HEADER = 5
    # The most that may follow the header (RFC 8446 section 5.2); this much room an opened record needs
    ENCRYPTED_MAX = RECORD_MAX + 256


cdef class Seal:
    """Makes the TLS 1.3 records of one direction of one connection."""
    cdef EVP_CIPHER_CTX* ctx
    cdef unsigned char iv[12]
    cdef uint64_t sequence

    cdef Status seal(self, unsigned char kind, const char* p, size_t n, char* out, size_t cap,
                     size_t* done) except Status.EXC


cdef class Unseal:
    """Opens the TLS 1.3 records of one direction of one connection."""
    cdef EVP_CIPHER_CTX* ctx
    cdef unsigned char iv[12]
    cdef uint64_t sequence
    cdef unsigned int suite
    # The traffic secret, of which the next one is made
    cdef unsigned char secret[48]
    cdef size_t secret_len

    cdef bint open(self, const unsigned char* record, size_t n, unsigned char* out, size_t* done,
                   unsigned char* kind) noexcept
    cdef bint update(self) noexcept
    cdef bint _take_keys(self) noexcept


cdef bint can_seal(unsigned int suite) noexcept
cdef Seal make_seal(unsigned int suite, const unsigned char* secret, size_t n, uint64_t sequence)
cdef Unseal make_unseal(unsigned int suite, const unsigned char* secret, size_t n, uint64_t sequence)
