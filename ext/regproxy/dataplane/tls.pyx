"""TLS connections by OpenSSL's C API, over a memory BIO of our own.

The BIO reads from and writes to scratch memory, so that many records are made first and sent with one system
call. Where the kernel does TLS (kTLS), the socket's own BIO is used instead, and once the handshake is over
outgoing bytes are written to the socket like plaintext, files by sendfile. Not by SSL_write: over kTLS it
remembers the address of the caller's bytes instead of the bytes, and a retry sends what is there by then
(https://github.com/openssl/openssl/issues/21202).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memset, strncmp, strrchr

from regproxy.dataplane.peer_records cimport peer_records
from regproxy.dataplane.records cimport RECORD_MAX, SECRET_MAX, can_seal, make_seal
from regproxy.dataplane.openssl_errors cimport drain_errors, forget_errors
from regproxy.dataplane.tls_bio cimport Wire, scratch_bio
from regproxy.dataplane.tls_contexts cimport Context
from regproxy.dataplane.openssl cimport *
from regproxy.dataplane.posix cimport errno, strerror
from regproxy.dataplane.status cimport Status

cdef enum:
    # RFC 8446 sections 5.1 and 6
    ALERT = 21
    APPLICATION_DATA = 23
    WARNING = 1
    CLOSE_NOTIFY = 0
    # Data that makes up for one record without data
    CONTROL_CREDIT = 1048576
    # Records after which a connection is worth a seal of its own, small as its answers may be: each record
    # saves a tenth of what making the seal costs
    SEAL_AFTER = 16
    # A server that has sent so much data sends large bodies: deriving the keys pays
    LARGE = 131072

# A part of the reason why a handshake has failed: no CA that is trusted has signed the server's certificate.
UNKNOWN_CA = "no known CA has signed it"

cdef long long live_connections = 0


def live() -> int:
    """Return how many SSL objects exist: zero when every connection has gone."""
    return live_connections


def openssl_version() -> str:
    return OpenSSL_version(OPENSSL_VERSION).decode()


# --- callbacks of the handshake --------------------------------------------------------------------------

cdef int choose_context(SSL* ssl, void* chooser, const char* name, int* alert) noexcept with gil:
    # Of the first context only what the handshake has settled by now stays.
    cdef Conn conn = <Conn>chooser
    cdef Context chosen = conn.choose(name.decode("ascii", "replace") if name != NULL else "")
    if chosen is None or SSL_set_SSL_CTX(ssl, chosen.ctx) == NULL:
        conn.wire.refused = b"the ClientHello names no host that is intercepted"
        alert[0] = SSL_AD_UNRECOGNIZED_NAME
        return SSL_TLSEXT_ERR_ALERT_FATAL
    conn.context = chosen
    try:
        conn.ask_client()  # the new context has brought its own, empty store
    except MemoryError:
        return SSL_TLSEXT_ERR_ALERT_FATAL
    return SSL_TLSEXT_ERR_OK


cdef void on_secret(const SSL* ssl, const char* line) noexcept nogil:
    # "SERVER_TRAFFIC_SECRET_0 <client random> <secret>", in hexadecimal; it never leaves this memory. OpenSSL
    # prints each byte of five such lines by printf(), so it is asked for them only when this one comes next.
    cdef Wire* wire = <Wire*>SSL_get_ex_data(ssl, 0)
    cdef const char* p
    cdef size_t i = 0
    if wire == NULL or strncmp(line, b"SERVER_TRAFFIC_SECRET_0 ", 24) != 0:
        return
    p = strrchr(line, 32) + 1
    while p[0] and p[1] and i < SECRET_MAX:
        wire.secret[i] = <unsigned char>((nibble(p[0]) << 4) | nibble(p[1]))
        i += 1
        p += 2
    wire.secret_len = i
    wire.on_secret = NULL
    SSL_CTX_set_keylog_callback(SSL_get_SSL_CTX(ssl), NULL)


cdef inline int nibble(char c) noexcept nogil:
    return c - 48 if c <= 57 else (c | 32) - 87


cdef bint names_no_known_ca(long verdict) noexcept nogil:
    """Tell whether a certificate is refused for want of a trusted CA: it may be good otherwise."""
    return (verdict == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
            or verdict == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
            or verdict == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
            or verdict == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
            or verdict == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN)


# --- connections -----------------------------------------------------------------------------------------

cdef class Conn:
    """One SSL object. The owner binds `wire` to scratch memory before a call and takes what was produced.

    With an `fd` and a context for kTLS the socket itself is read and written.
    """

    def __cinit__(self, Context context not None, bytes host not None, int fd=-1, bint is_ip=False):
        global live_connections
        cdef BIO* bio
        self.context = context
        self.host = host
        memset(&self.wire, 0, sizeof(Wire))
        self.ssl = SSL_new(context.ctx)
        if self.ssl == NULL:
            raise MemoryError(drain_errors())
        live_connections += 1
        self.direct = context.ktls and fd >= 0
        if self.direct:
            SSL_set_fd(self.ssl, fd)
        else:
            bio = scratch_bio(&self.wire)
            SSL_set_bio(self.ssl, bio, bio)
        SSL_set_ex_data(self.ssl, 0, &self.wire)
        self.unsealable = not context.seals or self.direct
        self.unopenable = not context.opens or self.direct
        self.wire.tracked = not self.unopenable
        if not (self.unsealable and self.unopenable):
            self.wire.on_secret = on_secret
        if context.server:
            if context.choose is not None:
                self.choose = context.choose
                self.wire.choose = choose_context
                self.wire.chooser = <void*>self
            elif not is_ip:
                self.wire.host = <const char*>self.host
            self.client_trust = context.client_trust
            self.ask_client()
            SSL_set_accept_state(self.ssl)
        else:
            self._expect_peer(is_ip)
            SSL_set_connect_state(self.ssl)

    def __dealloc__(self):
        global live_connections
        if self.ssl != NULL:
            SSL_free(self.ssl)
            self.ssl = NULL
            live_connections -= 1
        OPENSSL_cleanse(self.wire.secret, sizeof(self.wire.secret))

    cdef int ask_client(self) except -1:
        """Ask for the client's certificate, where the first context has it so."""
        cdef int mode = SSL_VERIFY_PEER
        if self.client_trust is None:
            return 0
        if self.client_trust.required:
            mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_set_verify(self.ssl, mode, NULL)
        if SSL_set1_verify_cert_store(self.ssl, self.client_trust.store) != 1:
            raise MemoryError(drain_errors())
        return 0

    cdef int _expect_peer(self, bint is_ip) except -1:
        # RFC 6066: no SNI for IP literals; RFC 6125: the name or address that we meant to reach.
        if is_ip:
            if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(self.ssl), <const char*>self.host) != 1:
                raise ValueError(f"{self.host!r} can't be checked as an address")
            return 0
        SSL_set_hostflags(self.ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
        if (SSL_set_tlsext_host_name(self.ssl, <const char*>self.host) != 1
                or SSL_set1_host(self.ssl, <const char*>self.host) != 1):
            raise ValueError(f"{self.host!r} can't be checked as a name")
        return 0

    @property
    def client_certificate(self) -> bytes:
        """What a client has shown, verified by the context's client_trust, as DER; b"" for nothing."""
        cdef unsigned char* out = NULL
        cdef X509* cert
        cdef int n
        if self.client_trust is None or not self.established or SSL_get_verify_result(self.ssl) != X509_V_OK:
            return b""
        cert = SSL_get0_peer_certificate(self.ssl)
        n = i2d_X509(cert, NULL) if cert != NULL else 0
        if n <= 0:
            return b""
        der = PyBytes_FromStringAndSize(NULL, n)
        out = <unsigned char*>PyBytes_AS_STRING(der)
        i2d_X509(cert, &out)
        return der

    @property
    def sealed(self) -> bool:
        """Whether the records of our side are made by _write_sealed."""
        return self.seal is not None

    @property
    def opened(self) -> bool:
        """Whether the server's records are opened by `peer_records`."""
        return self.peer is not None

    @property
    def keeps_secret(self) -> bool:
        """Whether the secret of the server's records is still kept, for what is not decided yet."""
        return self.wire.secret_len > 0

    @property
    def server_name(self) -> str:
        """The host that the ClientHello has named (RFC 6066 3), "" for none."""
        cdef const char* name = SSL_get_servername(self.ssl, TLSEXT_NAMETYPE_host_name)
        return name.decode("ascii", "replace") if name != NULL else ""

    @property
    def version(self) -> str:
        return SSL_get_version(self.ssl).decode()

    cdef Status _outcome(self, int ret) except Status.EXC:
        cdef int code = SSL_get_error(self.ssl, ret)
        if self.wire.refused != NULL:
            return Status.FAILED
        if code == SSL_ERROR_WANT_READ or code == SSL_ERROR_WANT_WRITE:
            return Status.AGAIN
        if code == SSL_ERROR_ZERO_RETURN:
            return Status.END
        self.os_error = errno if code == SSL_ERROR_SYSCALL else 0
        return Status.FAILED

    cdef Status handshake(self) except Status.EXC:
        cdef int ret
        cdef Status status
        forget_errors()
        ret = SSL_do_handshake(self.ssl)
        if ret != 1:
            status = self._outcome(ret)
            if status != Status.AGAIN:
                if self.wire.on_secret != NULL:
                    # Where a Finished was wrong nothing followed that takes it away again.
                    SSL_CTX_set_keylog_callback(SSL_get_SSL_CTX(self.ssl), NULL)
                self._never_seal()
                self._never_open()
            return status
        self.established = self.wire.established = True
        self.wire.controls = 0
        # Not so where the kernel lacks the cipher.
        self.kernel_sends = self.direct and BIO_get_ktls_send(SSL_get_wbio(self.ssl)) != 0
        self.wire.no_rekey = self.kernel_sends
        self.wire.watched = self._qualifies()
        if not self.wire.watched:
            self.unsealable = True
        if not self._may_open():
            self.unopenable = True
            self.wire.tracked = False
        if self.unsealable and self.unopenable:
            self._forget_secret()
        return Status.OK

    cdef bint _qualifies(self) noexcept:
        """Whether the records of our side may become ours to make: TLS 1.3, AES-GCM, records of full size."""
        cdef int limit
        if self.unsealable or SSL_version(self.ssl) != TLS1_3_VERSION:
            return False
        limit = SSL_SESSION_get_max_fragment_length(SSL_get_session(self.ssl))
        if limit != TLSEXT_max_fragment_length_DISABLED and limit != TLSEXT_max_fragment_length_UNSPECIFIED:
            return False
        return can_seal(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(self.ssl)))

    cdef bint _in_step(self) noexcept:
        """Whether all that OpenSSL has written since the handshake is the records that we asked it to make.

        Anything else that it wrote, such as the answer to a KeyUpdate, took a record number or changed keys.
        """
        return (self.wire.watched and self.wire.written.header_len == 0 and not self.wire.written.odd
                and self.wire.written.begun == self.records
                and SSL_get_key_update_type(self.ssl) == SSL_KEY_UPDATE_NONE)

    cdef void _never_seal(self) noexcept:
        """Leave this side's records to OpenSSL for good, and forget their secret."""
        self.unsealable = True
        self.wire.watched = False
        self._forget_secret()

    cdef void _forget_secret(self) noexcept:
        self.wire.secret_len = 0
        OPENSSL_cleanse(self.wire.secret, sizeof(self.wire.secret))

    cdef bint _may_open(self) noexcept:
        """Whether the server's records may become ours to open: TLS 1.3, AES-GCM."""
        return (not self.unopenable and SSL_version(self.ssl) == TLS1_3_VERSION
                and can_seal(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(self.ssl))))

    cdef bint _open_up(self) except -1:
        """Open the server's records from now on, where OpenSSL has read up to the end of one.

        False: not now; OpenSSL reads on. The last record has to have been data: a message in several
        records would be with OpenSSL in part.
        """
        if not self.wire.halts or self.wire.taken.header_len:
            return False
        if (self.wire.last_kind == APPLICATION_DATA and not self.wire.rekeyed
                and not SSL_has_pending(self.ssl)):
            self.peer = peer_records(self.ssl, &self.wire,
                                     SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(self.ssl)))
        self._never_open()
        return True

    cdef void _never_open(self) noexcept:
        """Leave the decision on the server's records as it is, and forget their secret."""
        if not self.unopenable:
            self.unopenable = True
            self.wire.tracked = self.wire.halts = False
            self._forget_secret()

    cdef Status read(self, char* p, size_t cap, size_t* n) except Status.EXC:
        """Decrypt up to `cap` bytes, which is ENCRYPTED_MAX or more; AGAIN: there is nothing yet."""
        cdef int ret
        cdef Status status
        if self.peer is not None:
            status = self.peer.read(p, cap, n)
            if self.wire.controls and n[0]:
                self._credit(n[0])
            return status
        forget_errors()
        ret = SSL_read_ex(self.ssl, p, cap, n)
        if self.wire.watched and not self._in_step():
            self._never_seal()
        if ret == 1 and self.wire.refused == NULL:
            if self.wire.controls:
                self._credit(n[0])
            if not self.unopenable:
                self.received += n[0]
                self.wire.halts = self.received >= LARGE
            return Status.OK
        n[0] = 0
        status = self._outcome(ret)
        if status == Status.AGAIN and self._open_up():
            # Behind the end of a record: it was we who halted OpenSSL.
            return self.read(p, cap, n)
        return status

    cdef void _credit(self, size_t n) noexcept:
        """Credit n bytes of data against records without data: an occasional KeyUpdate is normal."""
        self.wire.credit += n
        if self.wire.credit >= CONTROL_CREDIT:
            self.wire.credit = 0
            self.wire.controls -= 1

    cdef bint drained(self) noexcept:
        """Return whether all fed bytes are used, so that another read would bring nothing."""
        if self.wire.source_len or (self.peer is not None and not self.peer.drained()):
            return False
        return SSL_has_pending(self.ssl) == 0

    cdef Status write(self, const char* p, size_t n, size_t* done) except Status.EXC:
        """Encrypt up to n bytes; over a scratch BIO all of them."""
        cdef size_t part
        cdef int ret
        done[0] = 0
        if self.wire.watched and self.records >= SEAL_AFTER:
            self.take_over()
        if self.seal is not None:
            return self._write_sealed(p, n, done)
        forget_errors()
        while done[0] < n:
            ret = SSL_write_ex(self.ssl, p + done[0], n - done[0], &part)
            if ret != 1:
                return self._outcome(ret)
            # With SSL_MODE_ENABLE_PARTIAL_WRITE each call makes exactly one record.
            self.records += 1
            done[0] += part
        if self.wire.watched and not self._in_step():
            self._never_seal()
        return Status.OK

    cdef Status _write_sealed(self, const char* p, size_t n, size_t* done) except Status.EXC:
        cdef size_t part
        cdef Status status
        if self.seal.sequence + n // RECORD_MAX + 1 >= self.context.records_max:
            self.wire.refused = b"the limit of TLS records for one key is reached"
            return Status.FAILED
        status = self.seal.seal(APPLICATION_DATA, p, n, self.wire.dest + self.wire.dest_len,
                                self.wire.dest_cap - self.wire.dest_len, &part)
        self.wire.dest_len += part
        self.records = self.seal.sequence
        done[0] = n
        return status

    cdef bint spent(self) noexcept:
        """Whether so many records were sent under one key that the connection should end after an answer."""
        return self.records >= self.context.records_max // 2

    cdef int take_over(self) except -1:
        """Make our own records from now on, where that is possible; see _write_sealed."""
        if self.seal is not None or self.unsealable:
            return 0
        if self._in_step():
            self.seal = make_seal(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(self.ssl)),
                                  self.wire.secret, self.wire.secret_len, self.records)
        self.wire.sealed = self.wire.no_rekey = self.seal is not None
        self._never_seal()
        return 0

    cdef Status close_notify(self) except Status.EXC:
        """Send the closure alert; AGAIN: the socket does not take it now."""
        cdef Status status = Status.OK
        cdef int ret
        cdef size_t part
        cdef char alert[2]
        if self.seal is not None:
            alert[0] = WARNING
            alert[1] = CLOSE_NOTIFY
            self.seal.seal(ALERT, alert, 2, self.wire.dest + self.wire.dest_len,
                           self.wire.dest_cap - self.wire.dest_len, &part)
            self.wire.dest_len += part
        elif self.established:
            forget_errors()
            ret = SSL_shutdown(self.ssl)
            if ret < 0:
                status = self._outcome(ret)
            ERR_clear_error()
        return status

    cdef str failure(self):
        """Return why the last call failed, in words; empty OpenSSL's error queue."""
        cdef long verdict = SSL_get_verify_result(self.ssl)
        cdef str reason = drain_errors()
        if self.wire.refused != NULL:
            return self.wire.refused.decode()
        if self.wire.wrong_name:
            asked = SSL_get_servername(self.ssl, TLSEXT_NAMETYPE_host_name)
            named = asked.decode("ascii", "replace") if asked != NULL else "?"
            return f"the ClientHello asks for {named!r} but the CONNECT named {self.host.decode()!r}"
        if self.context.verify and verdict != X509_V_OK:
            text = X509_verify_cert_error_string(verdict).decode()
            if names_no_known_ca(verdict):
                text = f"{UNKNOWN_CA}, {text}"
            return f"certificate verify failed: {text} (expected host {self.host.decode()})"
        if self.client_trust is not None and verdict != X509_V_OK:
            text = X509_verify_cert_error_string(verdict).decode()
            return f"the client's certificate is refused: {text}"
        if not reason and self.os_error:
            reason = strerror(self.os_error).decode()
        return reason or "TLS failed"
