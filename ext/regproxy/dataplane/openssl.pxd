# The part of OpenSSL 3's C API that the data plane uses.

from libc.stdint cimport uint64_t

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL
    ctypedef struct SSL_CTX
    ctypedef struct SSL_METHOD
    ctypedef struct SSL_SESSION
    ctypedef struct BIO
    ctypedef struct BIO_METHOD
    ctypedef struct X509
    ctypedef struct X509_CRL
    ctypedef struct X509_STORE
    ctypedef struct EVP_PKEY
    ctypedef struct EVP_MD
    ctypedef struct EVP_MD_CTX
    ctypedef struct SSL_CIPHER
    ctypedef struct X509_VERIFY_PARAM

    const SSL_METHOD* TLS_server_method()
    const SSL_METHOD* TLS_client_method()
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method)
    void SSL_CTX_free(SSL_CTX* ctx)
    uint64_t SSL_CTX_set_options(SSL_CTX* ctx, uint64_t options)
    int SSL_CTX_set_min_proto_version(SSL_CTX* ctx, int version)
    long SSL_CTX_set_mode(SSL_CTX* ctx, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX* ctx, long mode)
    int SSL_CTX_set_num_tickets(SSL_CTX* ctx, size_t n)
    int SSL_CTX_set_ciphersuites(SSL_CTX* ctx, const char* s)
    int SSL_CTX_set_cipher_list(SSL_CTX* ctx, const char* s)
    int SSL_CTX_set1_groups_list(SSL_CTX* ctx, char* s)
    void SSL_CTX_set_read_ahead(SSL_CTX* ctx, int yes)
    void SSL_CTX_set_default_read_buffer_len(SSL_CTX* ctx, size_t n)
    int SSL_CTX_use_certificate(SSL_CTX* ctx, X509* x)
    int SSL_CTX_add0_chain_cert(SSL_CTX* ctx, X509* x)
    int SSL_CTX_use_PrivateKey(SSL_CTX* ctx, EVP_PKEY* key)
    int SSL_CTX_check_private_key(const SSL_CTX* ctx)
    int SSL_CTX_set_default_verify_paths(SSL_CTX* ctx)
    int SSL_CTX_load_verify_file(SSL_CTX* ctx, const char* path)
    void SSL_set_verify(SSL* ssl, int mode, void* callback)
    int SSL_set1_verify_cert_store(SSL* ssl, X509_STORE* store)
    X509* SSL_get0_peer_certificate(const SSL* ssl)
    int i2d_X509(const X509* x, unsigned char** out)
    X509_STORE* X509_STORE_new()
    void X509_STORE_free(X509_STORE* store)
    int X509_STORE_add_cert(X509_STORE* store, X509* x)
    int X509_STORE_add_crl(X509_STORE* store, X509_CRL* x)
    int X509_STORE_set_flags(X509_STORE* store, unsigned long flags)
    unsigned long X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL, X509_V_FLAG_EXTENDED_CRL_SUPPORT
    void SSL_CTX_set_verify(SSL_CTX* ctx, int mode, void* callback)
    int SSL_CTX_set_alpn_protos(SSL_CTX* ctx, const unsigned char* protos, unsigned int n)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX* ctx,
        int (*cb)(SSL*, const unsigned char**, unsigned char*, const unsigned char*, unsigned int,
                  void*) noexcept,
        void* arg)
    long SSL_CTX_set_tlsext_servername_callback(SSL_CTX* ctx, int (*cb)(SSL*, int*, void*) noexcept)

    SSL* SSL_new(SSL_CTX* ctx)
    void SSL_free(SSL* ssl)
    void SSL_set_accept_state(SSL* ssl)
    void SSL_set_connect_state(SSL* ssl)
    void SSL_set_bio(SSL* ssl, BIO* rbio, BIO* wbio)
    int SSL_set_fd(SSL* ssl, int fd)
    BIO* SSL_get_rbio(const SSL* ssl)
    BIO* SSL_get_wbio(const SSL* ssl)
    SSL_CTX* SSL_get_SSL_CTX(const SSL* ssl)
    void SSL_CTX_set_keylog_callback(SSL_CTX* ctx, void (*cb)(const SSL*, const char*) noexcept)
    const SSL_CIPHER* SSL_get_current_cipher(const SSL* ssl)
    unsigned short SSL_CIPHER_get_protocol_id(const SSL_CIPHER* c)
    int SSL_version(const SSL* ssl)
    int SSL_get_key_update_type(const SSL* ssl)
    int SSL_key_update(SSL* ssl, int kind)
    void SSL_CTX_set_msg_callback(
        SSL_CTX* ctx,
        void (*cb)(int, int, int, const void*, size_t, SSL*, void*) noexcept)
    SSL_SESSION* SSL_get_session(const SSL* ssl)
    unsigned char SSL_SESSION_get_max_fragment_length(const SSL_SESSION* session)
    int SSL_set_ex_data(SSL* ssl, int idx, void* data)
    void* SSL_get_ex_data(const SSL* ssl, int idx)
    int SSL_do_handshake(SSL* ssl)
    int SSL_read_ex(SSL* ssl, void* buf, size_t n, size_t* done)
    int SSL_write_ex(SSL* ssl, const void* buf, size_t n, size_t* done)
    int SSL_pending(const SSL* ssl)
    int SSL_has_pending(const SSL* ssl)
    int SSL_shutdown(SSL* ssl)
    int SSL_get_error(const SSL* ssl, int ret)
    const char* SSL_get_version(const SSL* ssl)
    SSL_CTX* SSL_set_SSL_CTX(SSL* ssl, SSL_CTX* ctx)
    const char* SSL_get_servername(const SSL* ssl, int type)
    int SSL_set_tlsext_host_name(SSL* ssl, const char* name)
    int SSL_set1_host(SSL* ssl, const char* name)
    void SSL_set_hostflags(SSL* ssl, unsigned int flags)
    X509_VERIFY_PARAM* SSL_get0_param(SSL* ssl)
    long SSL_get_verify_result(const SSL* ssl)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM* param, const char* ip)
    const char* X509_verify_cert_error_string(long n)

    int TLS1_2_VERSION, TLS1_3_VERSION
    int SSL_KEY_UPDATE_NONE, SSL_KEY_UPDATE_REQUESTED, SSL_KEY_UPDATE_NOT_REQUESTED
    int SSL3_MT_KEY_UPDATE, SSL3_MT_NEWSESSION_TICKET, SSL3_MT_FINISHED
    int SSL_AD_USER_CANCELLED, SSL_AD_REASON_OFFSET
    int SSL3_RT_HEADER, SSL3_RT_INNER_CONTENT_TYPE, SSL3_RT_HANDSHAKE
    int TLSEXT_max_fragment_length_DISABLED, TLSEXT_max_fragment_length_UNSPECIFIED
    uint64_t SSL_OP_NO_TICKET, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_ENABLE_KTLS
    uint64_t SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_IGNORE_UNEXPECTED_EOF
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    long SSL_SESS_CACHE_OFF
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL, SSL_ERROR_SSL
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_NOACK, SSL_TLSEXT_ERR_ALERT_FATAL
    int TLSEXT_NAMETYPE_host_name, SSL_AD_UNRECOGNIZED_NAME
    long X509_V_OK
    long X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    long X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
    long X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN

cdef extern from "<openssl/x509v3.h>" nogil:
    unsigned int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS

cdef extern from "<openssl/bio.h>" nogil:
    BIO_METHOD* BIO_meth_new(int type, const char* name)
    int BIO_meth_set_write_ex(BIO_METHOD* m, int (*f)(BIO*, const char*, size_t, size_t*) noexcept)
    int BIO_meth_set_read_ex(BIO_METHOD* m, int (*f)(BIO*, char*, size_t, size_t*) noexcept)
    int BIO_meth_set_ctrl(BIO_METHOD* m, long (*f)(BIO*, int, long, void*) noexcept)
    int BIO_get_new_index()
    BIO* BIO_new(const BIO_METHOD* m)
    BIO* BIO_new_mem_buf(const void* buf, int n)
    int BIO_free(BIO* b)
    int BIO_up_ref(BIO* b)
    void BIO_set_data(BIO* b, void* p)
    void* BIO_get_data(BIO* b)
    void BIO_set_init(BIO* b, int yes)
    void BIO_set_retry_read(BIO* b)
    void BIO_clear_retry_flags(BIO* b)
    int BIO_get_ktls_send(BIO* b)
    void BIO_set_callback_ex(
        BIO* b, long (*cb)(BIO*, int, const char*, size_t, int, long, int, size_t*) noexcept)
    int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH, BIO_CB_READ

cdef extern from "<openssl/pem.h>" nogil:
    X509* PEM_read_bio_X509(BIO* b, X509** x, void* cb, void* arg)
    EVP_PKEY* PEM_read_bio_PrivateKey(BIO* b, EVP_PKEY** key, void* cb, void* arg)
    X509_CRL* PEM_read_bio_X509_CRL(BIO* b, X509_CRL** x, void* cb, void* arg)
    void X509_CRL_free(X509_CRL* x)
    void X509_free(X509* x)
    void EVP_PKEY_free(EVP_PKEY* key)

cdef extern from "<openssl/evp.h>" nogil:
    EVP_MD* EVP_MD_fetch(void* ctx, const char* name, const char* properties)
    void EVP_MD_free(EVP_MD* md)
    EVP_MD_CTX* EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX* ctx)
    int EVP_MD_CTX_copy_ex(EVP_MD_CTX* out, const EVP_MD_CTX* ctx)
    int EVP_DigestInit_ex2(EVP_MD_CTX* ctx, const EVP_MD* md, const void* params)
    int EVP_DigestUpdate(EVP_MD_CTX* ctx, const void* p, size_t n)
    int EVP_DigestFinal_ex(EVP_MD_CTX* ctx, unsigned char* out, unsigned int* n)

    ctypedef struct EVP_CIPHER
    ctypedef struct EVP_CIPHER_CTX
    EVP_CIPHER* EVP_CIPHER_fetch(void* ctx, const char* name, const char* properties)
    EVP_CIPHER_CTX* EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX* ctx)
    int EVP_EncryptInit_ex(EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, void* engine,
                           const unsigned char* key, const unsigned char* iv)
    int EVP_EncryptUpdate(EVP_CIPHER_CTX* ctx, unsigned char* out, int* n, const unsigned char* p, int m)
    int EVP_EncryptFinal_ex(EVP_CIPHER_CTX* ctx, unsigned char* out, int* n)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX* ctx, int cmd, int p1, void* p2)
    int EVP_DecryptInit_ex(EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, void* engine,
                           const unsigned char* key, const unsigned char* iv)
    int EVP_DecryptUpdate(EVP_CIPHER_CTX* ctx, unsigned char* out, int* n, const unsigned char* p, int m)
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX* ctx, unsigned char* out, int* n)
    int EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    const EVP_MD* EVP_sha256()
    const EVP_MD* EVP_sha384()

cdef extern from "<openssl/hmac.h>" nogil:
    unsigned char* HMAC(const EVP_MD* md, const void* key, int key_len, const unsigned char* d, size_t n,
                        unsigned char* out, unsigned int* out_len)

cdef extern from "<openssl/err.h>" nogil:
    unsigned long ERR_get_error()
    unsigned long ERR_peek_error()
    unsigned long ERR_peek_last_error()
    void ERR_clear_error()
    void ERR_raise(int lib, int reason)
    void ERR_error_string_n(unsigned long e, char* buf, size_t n)
    const char* ERR_reason_error_string(unsigned long e)
    int ERR_GET_REASON(unsigned long e)
    int ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING
    int SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_R_ENCRYPTED_LENGTH_TOO_LONG, SSL_R_DATA_LENGTH_TOO_LONG
    int SSL_R_BAD_RECORD_TYPE, SSL_R_UNEXPECTED_RECORD, SSL_R_UNEXPECTED_MESSAGE, SSL_R_INVALID_ALERT
    int SSL_R_LENGTH_TOO_SHORT, SSL_R_BAD_KEY_UPDATE, SSL_R_NOT_ON_RECORD_BOUNDARY
    int SSL_R_EXCESSIVE_MESSAGE_SIZE, SSL_R_WRONG_VERSION_NUMBER

cdef extern from "<openssl/crypto.h>" nogil:
    const char* OpenSSL_version(int t)
    void OPENSSL_cleanse(void* p, size_t n)
    int OPENSSL_VERSION
