"""TLS 1.3 records (RFC 8446 section 5.2), encrypted and decrypted from one buffer straight into another.

OpenSSL's record layer copies each byte twice on its way out: into its own buffer, where it is encrypted, and
from there to the BIO. For large bodies that is a tenth of all the work. So once a large body begins, or many
records have been sent, the records of our side are made here, with the connection's own traffic secret and
from the record number on that OpenSSL has reached. From then on OpenSSL must write nothing on that
connection: a nonce would be used twice.
`tls.Conn` decides which connections qualify, and when they cease to.

On its way in a byte is copied twice, too. So the records of an origin's large body are opened here, in the
same way; what is in them besides data is for `peer_records`. Here nothing is at stake but the connection: a
record that is opened with the wrong key or number is refused, as if somebody had changed it.
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


cdef EVP_CIPHER* cipher_of(unsigned int suite) noexcept:
    return aes_128_gcm if suite == AES_128_GCM_SHA256 else aes_256_gcm


cdef const EVP_MD* hash_of(unsigned int suite) noexcept:
    return EVP_sha256() if suite == AES_128_GCM_SHA256 else EVP_sha384()


cdef bint make_keys(unsigned int suite, const unsigned char* secret, size_t n, unsigned char* key,
                    unsigned char* iv) noexcept:
    """Derive a direction's key, up to 32 bytes, and IV (RFC 8446 section 7.3)."""
    cdef size_t key_len = 16 if suite == AES_128_GCM_SHA256 else 32
    return (expand_label(hash_of(suite), secret, n, b"key", 3, key, key_len)
            and expand_label(hash_of(suite), secret, n, b"iv", 2, iv, IV))


cdef inline void make_nonce(const unsigned char* iv, uint64_t sequence, unsigned char* nonce) noexcept:
    """The IV with the record's number in its last 8 bytes (RFC 8446 section 5.3)."""
    cdef int i
    memcpy(nonce, iv, IV)
    for i in range(8):
        nonce[IV - 1 - i] ^= <unsigned char>(sequence >> (8 * i))


cdef Seal make_seal(unsigned int suite, const unsigned char* secret, size_t n, uint64_t sequence):
    """Return the seal of a traffic secret, from record `sequence` on; None if the suite is not AES-GCM."""
    cdef unsigned char key[32]
    cdef Seal made
    cdef bint ready
    if n == 0 or not can_seal(suite):
        return None
    made = Seal.__new__(Seal)
    made.sequence = sequence
    ready = (made.ctx != NULL and make_keys(suite, secret, n, key, made.iv)
             and EVP_EncryptInit_ex(made.ctx, cipher_of(suite), NULL, key, NULL) == 1)
    OPENSSL_cleanse(key, sizeof(key))
    return made if ready else None


cdef Unseal make_unseal(unsigned int suite, const unsigned char* secret, size_t n, uint64_t sequence):
    """Return what opens the records of a traffic secret, from record `sequence` on; None where make_seal()
    does."""
    cdef Unseal made
    if n == 0 or n > SECRET_MAX or not can_seal(suite):
        return None
    made = Unseal.__new__(Unseal)
    made.suite = suite
    memcpy(made.secret, secret, n)
    made.secret_len = n
    if not made._take_keys():
        return None
    made.sequence = sequence
    return made


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
        cdef int part = 0
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
            make_nonce(self.iv, self.sequence, nonce)
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


cdef class Unseal:
    """Opens the TLS 1.3 records of one direction of one connection."""

    def __cinit__(self):
        self.ctx = EVP_CIPHER_CTX_new()

    def __dealloc__(self):
        EVP_CIPHER_CTX_free(self.ctx)
        OPENSSL_cleanse(self.iv, sizeof(self.iv))
        OPENSSL_cleanse(self.secret, sizeof(self.secret))

    cdef bint _take_keys(self) noexcept:
        """Use the keys of `secret` from now on, from record 0 on."""
        cdef unsigned char key[32]
        cdef bint ready
        self.sequence = 0
        ready = (self.ctx != NULL and make_keys(self.suite, self.secret, self.secret_len, key, self.iv)
                 and EVP_DecryptInit_ex(self.ctx, cipher_of(self.suite), NULL, key, NULL) == 1)
        OPENSSL_cleanse(key, sizeof(key))
        return ready

    cdef bint update(self) noexcept:
        """Go on with the next secret, behind a KeyUpdate (RFC 8446 section 7.2)."""
        cdef unsigned char following[SECRET_MAX]
        cdef bint made = expand_label(hash_of(self.suite), self.secret, self.secret_len, b"traffic upd", 11,
                                      following, self.secret_len)
        if made:
            memcpy(self.secret, following, self.secret_len)
        OPENSSL_cleanse(following, sizeof(following))
        return made and self._take_keys()

    cdef bint open(self, const unsigned char* record, size_t n, unsigned char* out, size_t* done,
                   unsigned char* kind) noexcept:
        """Decrypt a whole record, of n bytes with its header, to `out`, which has room for n bytes.

        True: it is authentic, and has `done` bytes of type `kind`, 0 where it has no type. Else `out` is
        worth nothing.
        """
        cdef unsigned char nonce[IV]
        cdef int part = 0
        cdef size_t k
        done[0] = 0
        if n < RECORD_HEADER + TAG or n > RECORD_HEADER + ENCRYPTED_MAX:
            return False
        k = n - RECORD_HEADER - TAG
        make_nonce(self.iv, self.sequence, nonce)
        self.sequence += 1
        if (EVP_DecryptInit_ex(self.ctx, NULL, NULL, NULL, nonce) != 1
                or EVP_DecryptUpdate(self.ctx, NULL, &part, record, RECORD_HEADER) != 1
                or EVP_DecryptUpdate(self.ctx, out, &part, record + RECORD_HEADER, <int>k) != 1
                or EVP_CIPHER_CTX_ctrl(self.ctx, EVP_CTRL_AEAD_SET_TAG, TAG,
                                       <void*>(record + RECORD_HEADER + k)) != 1
                or EVP_DecryptFinal_ex(self.ctx, out + k, &part) != 1):
            return False
        # Behind the content is its type, and behind that as many zeros as the sender likes.
        while k and out[k - 1] == 0:
            k -= 1
        kind[0] = out[k - 1] if k else 0
        done[0] = k - 1 if k else 0
        return True
