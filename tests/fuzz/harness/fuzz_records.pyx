"""Records that are sealed here open by OpenSSL: on a connection of its own, and by its ciphers alone."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from regproxy.dataplane.openssl cimport (
    EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_ctrl, EVP_CIPHER_CTX_new,
    EVP_CIPHER_fetch, SSL_CTX_set_ciphersuites,
)
from regproxy.dataplane.records cimport RECORD_EXTRA, RECORD_MAX, make_seal
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.tls cimport Conn
from regproxy.dataplane.tls_contexts cimport Context

from support cimport EXPANDED_MAX, MARGIN, expand, fence, unfence, wrong

import os
import traceback

from regproxy.dataplane.tls_contexts import client_context, server_context

cdef extern from "<openssl/evp.h>" nogil:
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, void* engine,
                           const unsigned char* key, const unsigned char* iv)
    int EVP_DecryptUpdate(EVP_CIPHER_CTX* ctx, unsigned char* out, int* out_len, const unsigned char* data,
                          int n)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX* ctx, unsigned char* out, int* out_len)
    int EVP_CTRL_AEAD_SET_TAG

cdef extern from * nogil:
    """
    #include <openssl/core_names.h>
    #include <openssl/kdf.h>
    #include <openssl/params.h>

    // HKDF-Expand-Label with an empty context, by OpenSSL's own TLS 1.3 key derivation.
    static int derive(const char *digest, const char *label, const unsigned char *secret, size_t secret_len,
                      unsigned char *out, size_t n) {
        static EVP_KDF *kdf;
        int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
        if (!kdf) kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", NULL);
        EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
        OSSL_PARAM params[] = {
            OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
            OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)digest, 0),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, secret_len),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, "tls13 ", 6),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (void *)label, strlen(label)),
            OSSL_PARAM_construct_end(),
        };
        int done = EVP_KDF_derive(ctx, out, n, params);
        EVP_KDF_CTX_free(ctx);
        return done;
    }
    """
    int derive(const char* digest, const char* label, const unsigned char* secret, size_t secret_len,
               unsigned char* out, size_t n)

cdef enum:
    AES_128_GCM_SHA256 = 0x1301
    AES_256_GCM_SHA384 = 0x1302
    TAG = 16
    IV = 12
    # Records of the longest input, and one more
    KINDS = 5
    # Sealing shares the connection's limit; long before it a new one is shaken
    RECORDS_MAX = 100000
    # As many writes as there may be
    WIRE = EXPANDED_MAX + 80 * RECORD_EXTRA

cdef char room[EXPANDED_MAX + MARGIN]
cdef char opened[EXPANDED_MAX + MARGIN]
cdef unsigned char kinds[KINDS]
cdef char wire[WIRE + MARGIN]
cdef list pairs = [None, None]
cdef EVP_CIPHER* aes_128 = EVP_CIPHER_fetch(NULL, b"AES-128-GCM", NULL)
cdef EVP_CIPHER* aes_256 = EVP_CIPHER_fetch(NULL, b"AES-256-GCM", NULL)
cdef EVP_CIPHER_CTX* opener = EVP_CIPHER_CTX_new()


def address_of(str name):
    """Return where a target is, for the driver."""
    return <size_t><void*>seal


cdef int seal(const unsigned char* data, size_t size) noexcept:
    """Bytes: how, then parameters of that."""
    try:
        if size < 16:
            return 0
        if data[0] & 1:
            on_a_connection(data + 1, size - 1)
        else:
            by_ciphers(data + 1, size - 1)
    except BaseException:
        traceback.print_exc()
        wrong(b"an exception")
    return 0


# --- a connection that OpenSSL has shaken ----------------------------------------------------------------

cdef class Pair:
    """Server and client in one memory; the server makes its records itself."""

    cdef Conn server
    cdef Conn client

    def __init__(self, bytes suite):
        pem = open(os.environ["FUZZ_PEM"], "rb").read()
        server = server_context(pem, pem, False, True)
        client = client_context(False)
        SSL_CTX_set_ciphersuites((<Context>client).ctx, suite)
        # As addresses, so that no server name is sent
        self.server = Conn(server, b"127.0.0.1", -1, True)
        self.client = Conn(client, b"127.0.0.1", -1, True)
        flight = b""
        for _ in range(2):
            flight = self.turn(self.server, self.turn(self.client, flight))
        self.server.take_over()
        if not self.client.established or self.server.seal is None:
            wrong(b"no connection whose records are made here")

    cdef bytes turn(self, Conn conn, bytes flight):
        bind(conn, flight, len(flight))
        conn.handshake()
        return wire[:conn.wire.dest_len]


cdef void bind(Conn conn, const char* source, size_t n) noexcept:
    conn.wire.dest, conn.wire.dest_cap, conn.wire.dest_len = wire, WIRE, 0
    conn.wire.source, conn.wire.source_len = source, n


cdef int on_a_connection(const unsigned char* data, size_t size) except -1:
    """Bytes: suite, lengths of writes (two), then the data."""
    cdef size_t n = expand(data + 3, size - 3, room), at = 0, step, k, done = 0
    cdef int which = data[0] & 1
    cdef Pair pair = pairs[which]
    if pair is None or pair.server.records > RECORDS_MAX:
        pair = pairs[which] = Pair(b"TLS_AES_256_GCM_SHA384" if which else b"TLS_AES_128_GCM_SHA256")
    step = <size_t>data[1] * 256 + data[2] + 1
    if n // step > 64:
        step = n // 64
    bind(pair.server, b"", 0)
    while at < n:
        k = min(step, n - at)
        if pair.server.write(room + at, k, &done) != Status.OK or done != k:
            wrong(b"a connection does not write")
        at += k
    bind(pair.client, wire, pair.server.wire.dest_len)
    at = 0
    while at < n:
        if pair.client.read(opened + at, EXPANDED_MAX - at, &k) != Status.OK:
            wrong(b"OpenSSL does not open the records of its connection")
        at += k
    if at != n or memcmp(opened, room, n) != 0 or not pair.client.drained():
        wrong(b"OpenSSL opens other bytes than were sealed")
    return 0


# --- a seal by itself ------------------------------------------------------------------------------------

cdef int by_ciphers(const unsigned char* data, size_t size) except -1:
    """Bytes: suite, content type, record number (8), which bit is damaged (4); secret; data."""
    cdef unsigned int suite = AES_256_GCM_SHA384 if data[0] & 1 else AES_128_GCM_SHA256
    cdef unsigned char kind = data[1]
    cdef uint64_t sequence = 0
    cdef unsigned int damage = 0
    cdef unsigned char secret[48]
    cdef size_t n, k, cap, made = 0, secret_len = 48 if data[0] & 1 else 32
    cdef char* out = wire
    cdef Status status
    memcpy(&sequence, data + 2, 8)
    memcpy(&damage, data + 10, 4)
    data, size = data + 14, size - 14
    memset(secret, 0, 48)
    k = min(size, secret_len)
    memcpy(secret, data, k)
    n = expand(data + k, size - k, room)
    cap = n + (n + RECORD_MAX - 1) // RECORD_MAX * RECORD_EXTRA
    fence(out, cap)
    fence(room, n)
    maker = make_seal(suite, secret, secret_len, sequence)
    if maker.seal(kind, room, n, out, cap - 1 if n else 0, &made) == Status.OK and n:
        wrong(b"records are said to fit where they do not")
    # Not one was used up by that.
    status = maker.seal(kind, room, n, out, cap, &made)
    if status != Status.OK or made != cap:
        wrong(b"records do not fit where they do")
    open_all(suite, secret, secret_len, sequence, kind, out, made, n)
    if made:
        damage = damage % <unsigned int>(made * 8)
        out[damage // 8] ^= <char>(1 << (damage % 8))
        if opens(suite, secret, secret_len, sequence, out, made):
            wrong(b"damaged records open")
    unfence(out, cap)
    unfence(room, n)
    return 0


cdef int open_all(unsigned int suite, unsigned char* secret, size_t secret_len, uint64_t sequence,
                  unsigned char kind, const char* sealed, size_t made, size_t n) except -1:
    """Check that what opens is what was sealed: the bytes, and behind each record's the content type."""
    cdef size_t at = 0, k
    if not opens(suite, secret, secret_len, sequence, sealed, made):
        wrong(b"records do not open")
    while at < n:
        k = min(n - at, <size_t>RECORD_MAX)
        # `opens` leaves each record's content where its ciphertext began.
        if memcmp(opened + at, room + at, k) != 0:
            wrong(b"other bytes than were sealed")
        if kinds[at // RECORD_MAX] != kind:
            wrong(b"another content type than was sealed")
        at += k
    return 0


cdef bint opens(unsigned int suite, unsigned char* secret, size_t secret_len, uint64_t sequence,
                const char* sealed, size_t made) except -1:
    """Open records as RFC 8446 section 5.2 has them, into `opened` and `kinds`; whether all of them do."""
    cdef unsigned char key[32]
    cdef unsigned char iv[IV]
    cdef unsigned char nonce[IV]
    cdef unsigned char plain[RECORD_MAX + 1]
    cdef const char* digest = b"SHA384" if suite == AES_256_GCM_SHA384 else b"SHA256"
    cdef const unsigned char* p = <const unsigned char*>sealed
    cdef size_t at = 0, filled = 0, count = 0, length
    cdef int got = 0, i
    derive(digest, b"key", secret, secret_len, key, 32 if suite == AES_256_GCM_SHA384 else 16)
    derive(digest, b"iv", secret, secret_len, iv, IV)
    EVP_DecryptInit_ex(opener, aes_256 if suite == AES_256_GCM_SHA384 else aes_128, NULL, key, NULL)
    while at < made:
        length = (<size_t>p[at + 3] << 8) + p[at + 4]
        if p[at] != 23 or p[at + 1] != 3 or p[at + 2] != 3:
            return False
        if length < TAG + 1 or length > RECORD_MAX + 1 + TAG or at + 5 + length > made:
            return False
        memcpy(nonce, iv, IV)
        for i in range(8):
            nonce[4 + i] ^= <unsigned char>((sequence >> (56 - 8 * i)) & 0xff)
        sequence += 1
        EVP_DecryptInit_ex(opener, NULL, NULL, NULL, nonce)
        EVP_DecryptUpdate(opener, NULL, &got, p + at, 5)
        EVP_DecryptUpdate(opener, plain, &got, p + at + 5, <int>(length - TAG))
        EVP_CIPHER_CTX_ctrl(opener, EVP_CTRL_AEAD_SET_TAG, TAG, <void*>(p + at + 5 + length - TAG))
        if EVP_DecryptFinal_ex(opener, plain + got, &i) != 1:
            return False
        memcpy(opened + filled, plain, length - TAG - 1)
        kinds[count] = plain[length - TAG - 1]
        filled, count, at = filled + length - TAG - 1, count + 1, at + 5 + length
    return True
