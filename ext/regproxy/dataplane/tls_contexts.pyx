"""TLS contexts (SSL_CTX) from PEM: of servers and clients, with the callbacks of a server's handshake.

What differs from one connection to the next the callbacks find in its Wire.
"""

from regproxy.dataplane.openssl_errors cimport drain_errors
from regproxy.dataplane.tls_bio cimport Wire, on_record
from regproxy.dataplane.openssl cimport *
from regproxy.dataplane.posix cimport strcasecmp

cdef enum:
    # Half of what AES-GCM's limit allows under one key, to the next power of two (RFC 8446 section 5.5)
    SEALED_RECORDS = 8388608

cdef const char* SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


cdef class ClientTrust:
    """The CAs of clients' certificates, and what they have revoked: see client_trust()."""

    def __dealloc__(self):
        X509_STORE_free(self.store)


def client_trust(bytes pem not None, bint required=False) -> ClientTrust:
    """Return the trust in the CAs of a PEM text; CRLs in it say which certificates are revoked.

    With any CRL, each CA of a client's chain has to have one that is in force. `required`: who shows no
    certificate is refused. ValueError: there is no CA certificate in it.
    """
    cdef ClientTrust trust = ClientTrust.__new__(ClientTrust)
    cdef X509* cert
    cdef X509_CRL* crl
    cdef int count = 0, revoking = 0
    cdef BIO* text = BIO_new_mem_buf(<char*>pem, <int>len(pem))
    trust.required = required
    trust.store = X509_STORE_new()
    while True:
        cert = PEM_read_bio_X509(text, NULL, NULL, NULL)
        if cert == NULL:
            break
        count += X509_STORE_add_cert(trust.store, cert)
        X509_free(cert)
    BIO_free(text)
    text = BIO_new_mem_buf(<char*>pem, <int>len(pem))
    while True:
        crl = PEM_read_bio_X509_CRL(text, NULL, NULL, NULL)
        if crl == NULL:
            break
        revoking += X509_STORE_add_crl(trust.store, crl)
        X509_CRL_free(crl)
    BIO_free(text)
    ERR_clear_error()
    if count == 0:
        raise ValueError("no CA certificate in the PEM text")
    if revoking:
        X509_STORE_set_flags(trust.store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL)
    if pem.count(b"-----BEGIN CERTIFICATE-----") > count or pem.count(b"-----BEGIN X509 CRL-----") > revoking:
        raise ValueError("a certificate or CRL that can't be read")
    return trust


cdef class Context:
    """An SSL_CTX. Build one with `server_context` or `client_context`."""

    def __dealloc__(self):
        SSL_CTX_free(self.ctx)


cdef Context new_context(bint server, bint ktls):
    cdef Context context = Context.__new__(Context)
    context.server = server
    context.records_max = SEALED_RECORDS
    context.ktls = ktls
    context.ctx = SSL_CTX_new(TLS_server_method() if server else TLS_client_method())
    if context.ctx == NULL:
        raise MemoryError(drain_errors())
    SSL_CTX_set_min_proto_version(context.ctx, TLS1_2_VERSION)
    SSL_CTX_set_options(context.ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION)
    if ktls:
        SSL_CTX_set_options(context.ctx, SSL_OP_ENABLE_KTLS)
    # Idle connections give their record buffers back; a partial write only happens on a socket's own BIO.
    SSL_CTX_set_mode(context.ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE
                     | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    SSL_CTX_set_session_cache_mode(context.ctx, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_msg_callback(context.ctx, on_record)
    return context


def takes_groups(str groups not None) -> bool:
    """Return whether OpenSSL has all of these groups for key agreement: names with colons between them."""
    cdef SSL_CTX* ctx = SSL_CTX_new(TLS_server_method())
    cdef bytes names = groups.encode()
    if ctx == NULL:
        raise MemoryError
    try:
        return SSL_CTX_set1_groups_list(ctx, names) == 1
    finally:
        SSL_CTX_free(ctx)
        ERR_clear_error()


# In the order in which a server takes them. The first, which agrees on a key that no quantum computer finds
# out later (draft-ietf-tls-ecdhe-mlkem), is OpenSSL's from 3.5 on; Go's clients send it from 1.24 on.
CLASSIC_GROUPS = "X25519:P-256:P-384"
HYBRID_GROUPS = f"X25519MLKEM768:{CLASSIC_GROUPS}"
GROUPS = HYBRID_GROUPS if takes_groups(HYBRID_GROUPS) else CLASSIC_GROUPS


def server_context(bytes chain_pem not None, bytes key_pem not None, bint ktls=False,
                   bint seals=False, str groups="") -> Context:
    """Return a context that presents `chain_pem`, leaf first. ValueError if OpenSSL refuses chain or key.

    `seals`: records of large bodies and many answers are made by `records`, where the connection allows it.
    `groups`: see takes_groups(); "": GROUPS.
    """
    cdef Context context = new_server_context(ktls, seals, groups)
    load_chain(context.ctx, chain_pem)
    load_key(context.ctx, key_pem)
    return context


def naming_context(choose not None, bint ktls=False, bint seals=False, str groups="") -> Context:
    """A server's context without a certificate: `choose(name)` returns the one for a ClientHello's name.

    "": it names none. None refuses the connection. `ktls`, `seals` and `groups` are to be those of the
    contexts that are chosen. `choose` must not raise.
    """
    cdef Context context = new_server_context(ktls, seals, groups)
    context.choose = choose
    return context


cdef Context new_server_context(bint ktls, bint seals, str groups):
    cdef bytes names = (groups or GROUPS).encode()
    cdef Context context = new_context(True, ktls)
    cdef SSL_CTX* ctx = context.ctx
    # Container clients never resume a session (a new process, or one connection per request): no tickets.
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE)
    SSL_CTX_set_num_tickets(ctx, 0)
    SSL_CTX_set_ciphersuites(ctx, SUITES)
    SSL_CTX_set_cipher_list(ctx, b"ECDHE+AESGCM:ECDHE+CHACHA20")
    if SSL_CTX_set1_groups_list(ctx, names) != 1:
        raise ValueError(f"OpenSSL has not all of the groups {groups}: {drain_errors()}")
    SSL_CTX_set_tlsext_servername_callback(ctx, on_servername)
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL)
    context.seals = seals and not ktls
    if ktls:
        # On a socket's own BIO OpenSSL would answer a bare FIN by a fatal alert, ahead of what we still send.
        # The end of a request shows in its framing, so nothing is lost by taking the FIN for a closure alert.
        SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF)
    return context


cdef int load_chain(SSL_CTX* ctx, bytes chain_pem) except -1:
    cdef BIO* pem = BIO_new_mem_buf(<char*>chain_pem, <int>len(chain_pem))
    cdef X509* cert
    cdef int count = 0
    try:
        while True:
            cert = PEM_read_bio_X509(pem, NULL, NULL, NULL)
            if cert == NULL:
                break
            if count == 0:
                if SSL_CTX_use_certificate(ctx, cert) != 1:
                    X509_free(cert)
                    raise ValueError(f"OpenSSL refuses the certificate: {drain_errors()}")
                X509_free(cert)
            elif SSL_CTX_add0_chain_cert(ctx, cert) != 1:
                X509_free(cert)
                raise ValueError(f"OpenSSL refuses a chain certificate: {drain_errors()}")
            count += 1
    finally:
        BIO_free(pem)
        ERR_clear_error()
    if count == 0:
        raise ValueError("no certificate in the PEM text")
    return 0


cdef int load_key(SSL_CTX* ctx, bytes key_pem) except -1:
    cdef BIO* pem = BIO_new_mem_buf(<char*>key_pem, <int>len(key_pem))
    # Without a passphrase (here an empty one) OpenSSL would ask the terminal for that of an encrypted key.
    cdef EVP_PKEY* key = PEM_read_bio_PrivateKey(pem, NULL, NULL, <void*><char*>b"")
    BIO_free(pem)
    if key == NULL:
        raise ValueError(f"no private key in the PEM text: {drain_errors()}")
    cdef bint taken = SSL_CTX_use_PrivateKey(ctx, key) == 1 and SSL_CTX_check_private_key(ctx) == 1
    EVP_PKEY_free(key)
    if not taken:
        raise ValueError(f"OpenSSL refuses the key: {drain_errors()}")
    return 0


def client_context(bint verify=True, str extra_ca_file=None, bint ktls=False, bytes chain_pem=None,
                   bytes key_pem=None, bint opens=False) -> Context:
    """Return a context that trusts the system's store and `extra_ca_file`, and presents `chain_pem` if asked.

    `opens`: the records of large bodies are opened by `records`, where the connection allows it. ValueError:
    that file can't be read, or OpenSSL refuses certificate or key.
    """
    cdef Context context = new_context(False, ktls)
    context.opens = opens and not ktls
    context.verify = verify
    SSL_CTX_set_verify(context.ctx, SSL_VERIFY_PEER if verify else SSL_VERIFY_NONE, NULL)
    if verify:
        SSL_CTX_set_default_verify_paths(context.ctx)
    if extra_ca_file and SSL_CTX_load_verify_file(context.ctx, extra_ca_file.encode()) != 1:
        raise ValueError(f"{extra_ca_file}: no CA certificates could be read: {drain_errors()}")
    ERR_clear_error()
    SSL_CTX_set_alpn_protos(context.ctx, <const unsigned char*>b"\x08http/1.1", 9)
    # Most origins take the client's order; AES-128 is the cheaper one and no weaker in practice.
    SSL_CTX_set_ciphersuites(context.ctx, SUITES)
    # An origin sends much at once: fewer, larger reads from the BIO.
    SSL_CTX_set_read_ahead(context.ctx, 1)
    SSL_CTX_set_default_read_buffer_len(context.ctx, 65536)
    if chain_pem is not None and key_pem is not None:
        load_chain(context.ctx, chain_pem)
        load_key(context.ctx, key_pem)
    return context


# --- callbacks of the handshake --------------------------------------------------------------------------

cdef int on_servername(SSL* ssl, int* alert, void* arg) noexcept nogil:
    cdef Wire* wire = <Wire*>SSL_get_ex_data(ssl, 0)
    cdef const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    if wire != NULL and wire.choose != NULL:
        return wire.choose(ssl, wire.chooser, name, alert)
    if name == NULL or wire == NULL or wire.host == NULL:
        return SSL_TLSEXT_ERR_NOACK
    if strcasecmp(name, wire.host) != 0:
        wire.wrong_name = True
        alert[0] = SSL_AD_UNRECOGNIZED_NAME
        return SSL_TLSEXT_ERR_ALERT_FATAL
    return SSL_TLSEXT_ERR_OK


cdef int on_alpn(SSL* ssl, const unsigned char** out, unsigned char* out_len, const unsigned char* offered,
                 unsigned int n, void* arg) noexcept nogil:
    # RFC 7301: a list of names, each with its length before it. We speak http/1.1 alone.
    cdef unsigned int i = 0
    while i < n:
        if offered[i] == 8 and i + 9 <= n and strncmp8(offered + i + 1):
            out[0] = offered + i + 1
            out_len[0] = 8
            return SSL_TLSEXT_ERR_OK
        i += 1 + offered[i]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef bint strncmp8(const unsigned char* p) noexcept nogil:
    cdef const char* wanted = b"http/1.1"
    cdef int i
    for i in range(8):
        if p[i] != <unsigned char>wanted[i]:
            return False
    return True
