"""TLS 1.3 records (RFC 8446 section 5.2), encrypted from one buffer straight into another.

OpenSSL's record layer copies each byte twice on its way out: into its own buffer, where it is encrypted, and
from there to the BIO. For large bodies that is a tenth of all the work. So once a large body begins, or many
records have been sent, the records of our side are made here, with the connection's own traffic secret and from the record number on that
OpenSSL has reached. From then on OpenSSL must write nothing on that connection: a nonce would be used twice.
`tls.Conn` decides which connections qualify, and when they cease to.
"""

from libc.stdint cimport uint64_t

from regproxy.dataplane.openssl cimport *
from regproxy.dataplane.posix cimport memcpy
from regproxy.dataplane.status cimport Status

cdef enum:
    APPLICATION_DATA = 23
    TAG = 16
    IV = 12
    AES_128_GCM_SHA256 = 0x1301
    AES_256_GCM_SHA384 = 0x1302

cdef EVP_CIPHER* aes_128_gcm = EVP_CIPHER_fetch(NULL, b"AES-128-GCM", NULL)
cdef EVP_CIPHER* aes_256_gcm = EVP_CIPHER_fetch(NULL, b"AES-256-GCM", NULL)


cdef bint can_seal(unsigned int suite) noexcept:
    """Return whether records of this suite can be made here: AES-GCM only."""
    if suite == AES_128_GCM_SHA256:
        return aes_128_gcm != NULL
    return suite == AES_256_GCM_SHA384 and aes_256_gcm != NULL


cdef bint expand_label(const EVP_MD* md, const unsigned char* secret, size_t secret_len, const char* label,
                       size_t label_len, unsigned char* out, size_t n) noexcept:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1), n at most one hash: a single HMAC."""
    cdef unsigned char info[64]
    cdef unsigned char block[64]
    cdef unsigned int got = 0
    cdef size_t at = 0
    cdef bint made
    info[0] = <unsigned char>(n >> 8)
    info[1] = <unsigned char>n
    info[2] = <unsigned char>(6 + label_len)
    memcpy(info + 3, b"tls13 ", 6)
    memcpy(info + 9, label, label_len)
    at = 9 + label_len
    info[at] = 0
    info[at + 1] = 1
    made = HMAC(md, secret, <int>secret_len, info, at + 2, block, &got) != NULL and got >= n
    if made:
        memcpy(out, block, n)
    OPENSSL_cleanse(block, sizeof(block))
    return made


cdef Seal make_seal(unsigned int suite, const unsigned char* secret, size_t n, uint64_t sequence):
    """Return the seal of a traffic secret, from record `sequence` on; None if the suite is not AES-GCM."""
    cdef unsigned char key[32]
    cdef const EVP_MD* md
    cdef EVP_CIPHER* cipher
    cdef size_t key_len
    cdef Seal made
    cdef bint ready
    if n == 0 or not can_seal(suite):
        return None
    if suite == AES_128_GCM_SHA256:
        md, cipher, key_len = EVP_sha256(), aes_128_gcm, 16
    else:
        md, cipher, key_len = EVP_sha384(), aes_256_gcm, 32
    made = Seal.__new__(Seal)
    made.sequence = sequence
    ready = (made.ctx != NULL
             and expand_label(md, secret, n, b"key", 3, key, key_len)
             and expand_label(md, secret, n, b"iv", 2, made.iv, IV)
             and EVP_EncryptInit_ex(made.ctx, cipher, NULL, key, NULL) == 1)
    OPENSSL_cleanse(key, sizeof(key))
    return made if ready else None


cdef class Seal:
    """Makes the TLS 1.3 records of one direction of one connection."""

    def __cinit__(self):
        self.ctx = EVP_CIPHER_CTX_new()

    def __dealloc__(self):
        EVP_CIPHER_CTX_free(self.ctx)
        OPENSSL_cleanse(self.iv, sizeof(self.iv))

    cdef Status seal(self, unsigned char kind, const char* p, size_t n, char* out, size_t cap,
                     size_t* done) except Status.EXC:
        """Write n bytes as records of type `kind` to out; FAILED: they do not fit, or OpenSSL failed."""
        cdef unsigned char nonce[IV]
        cdef unsigned char* record
        cdef const unsigned char* clear = <const unsigned char*>p
        cdef size_t at = 0, k
        cdef int part = 0, i
        done[0] = 0
        if n + ((n + RECORD_MAX - 1) // RECORD_MAX) * RECORD_EXTRA > cap:
            return Status.FAILED
        while at < n:
            k = min(n - at, <size_t>RECORD_MAX)
            record = <unsigned char*>out + done[0]
            record[0] = APPLICATION_DATA
            record[1] = 3
            record[2] = 3
            record[3] = <unsigned char>((k + 1 + TAG) >> 8)
            record[4] = <unsigned char>(k + 1 + TAG)
            memcpy(nonce, self.iv, IV)
            for i in range(8):
                nonce[IV - 1 - i] ^= <unsigned char>(self.sequence >> (8 * i))
            self.sequence += 1
            if (EVP_EncryptInit_ex(self.ctx, NULL, NULL, NULL, nonce) != 1
                    or EVP_EncryptUpdate(self.ctx, NULL, &part, record, 5) != 1
                    or EVP_EncryptUpdate(self.ctx, record + 5, &part, clear + at, <int>k) != 1
                    or EVP_EncryptUpdate(self.ctx, record + 5 + k, &part, &kind, 1) != 1
                    or EVP_EncryptFinal_ex(self.ctx, record + 6 + k, &part) != 1
                    or EVP_CIPHER_CTX_ctrl(self.ctx, EVP_CTRL_AEAD_GET_TAG, TAG,
                                           record + 6 + k) != 1):
                return Status.FAILED
            at += k
            done[0] += k + RECORD_EXTRA
        return Status.OK
