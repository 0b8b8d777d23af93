"""The BIO between OpenSSL and the socket, over scratch memory, and the watch over TLS records.

A peer's records without data are limited here, while OpenSSL reads: within one call it processes all bytes
that it gets, and answers each requested renegotiation or KeyUpdate. Our own side's records are counted, so
that `records` may go on where OpenSSL has stopped.
"""

from regproxy.dataplane.openssl cimport *
from regproxy.dataplane.posix cimport memcpy

cdef enum:
    APPLICATION_DATA = 23
    RECORD_HEADER = 5
    # Records without data that a peer may send: in a handshake, where a message may come in pieces, and
    # behind it, where a few session tickets and a KeyUpdate now and then are all that is usual. Each costs a
    # key schedule or an answer, and OpenSSL itself sets no limit.
    HANDSHAKE_RECORDS = 256
    CONTROL_RECORDS = 32

cdef const char* FLOOD = b"the peer sends too many TLS records without data"
cdef BIO_METHOD* scratch_method = NULL


cdef int bio_write(BIO* b, const char* p, size_t n, size_t* done) noexcept nogil:
    cdef Wire* wire = <Wire*>BIO_get_data(b)
    # The scratch holds a whole batch with its framing; what does not fit is a bug and ends the connection.
    # Once records are ours to make, one of OpenSSL's would be under a nonce that was used.
    if wire.sealed or wire.dest == NULL or wire.dest_len + n > wire.dest_cap:
        return 0
    if wire.watched:
        follow_records(&wire.written, <const unsigned char*>p, n)
    memcpy(wire.dest + wire.dest_len, p, n)
    wire.dest_len += n
    done[0] = n
    return 1


cdef void follow_records(Framing* at, const unsigned char* p, size_t n) noexcept nogil:
    """Count the records in a stream of them, of which a part may begin and end anywhere in one."""
    cdef size_t k
    while n:
        if at.header_len < RECORD_HEADER:
            at.header[at.header_len] = p[0]
            at.header_len += 1
            k = 1
            if at.header_len == RECORD_HEADER:
                at.rest = (<size_t>at.header[3] << 8) | at.header[4]
                at.begun += 1
                at.odd = at.odd or at.header[0] != APPLICATION_DATA
        else:
            k = min(n, at.rest)
            at.rest -= k
        p += k
        n -= k
        if at.header_len == RECORD_HEADER and at.rest == 0:
            at.header_len = 0


cdef size_t up_to_boundary(Framing* at, size_t n) noexcept nogil:
    """Return how many of n bytes may be read so that no record is begun."""
    if at.header_len == 0:
        return 0
    return min(n, RECORD_HEADER - at.header_len if at.header_len < RECORD_HEADER else at.rest)


cdef int bio_read(BIO* b, char* p, size_t n, size_t* done) noexcept nogil:
    cdef Wire* wire = <Wire*>BIO_get_data(b)
    BIO_clear_retry_flags(b)
    n = min(n, wire.source_len)
    if wire.halts:
        n = up_to_boundary(&wire.taken, n)
    if n == 0:
        BIO_set_retry_read(b)
        return 0
    if wire.tracked:
        follow_records(&wire.taken, <const unsigned char*>wire.source, n)
    memcpy(p, wire.source, n)
    wire.source += n
    wire.source_len -= n
    done[0] = n
    return 1


cdef long bio_ctrl(BIO* b, int cmd, long num, void* ptr) noexcept nogil:
    return 1 if cmd == BIO_CTRL_FLUSH else 0


cdef int make_method() except -1:
    global scratch_method
    scratch_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"regproxy scratch")
    if scratch_method == NULL:
        raise MemoryError
    BIO_meth_set_write_ex(scratch_method, bio_write)
    BIO_meth_set_read_ex(scratch_method, bio_read)
    BIO_meth_set_ctrl(scratch_method, bio_ctrl)
    return 0


make_method()


cdef BIO* scratch_bio(Wire* wire) except NULL:
    cdef BIO* bio = BIO_new(scratch_method)
    if bio == NULL:
        raise MemoryError
    BIO_set_data(bio, wire)
    BIO_set_init(bio, 1)
    return bio


# --- the peer's records ----------------------------------------------------------------------------------

cdef bint count_control(Wire* wire) noexcept nogil:
    """Count a record of the peer's without data; True: these are too many."""
    wire.controls += 1
    return wire.controls > <unsigned int>(CONTROL_RECORDS if wire.established else HANDSHAKE_RECORDS)


cdef void on_record(int sent, int version, int kind, const void* p, size_t n, SSL* ssl,
                    void* arg) noexcept nogil:
    # Each record is told with its header, in TLS 1.3 again with its inner type, and each handshake message.
    cdef Wire* wire
    cdef const unsigned char* head = <const unsigned char*>p
    if n == 0:
        return
    if kind == SSL3_RT_HANDSHAKE and head[0] == SSL3_MT_FINISHED:
        wire = <Wire*>SSL_get_ex_data(ssl, 0)
        # TLS 1.2 makes no such secret: nobody would take the callback away again.
        if wire.on_secret != NULL and SSL_version(ssl) == TLS1_3_VERSION:
            SSL_CTX_set_keylog_callback(SSL_get_SSL_CTX(ssl), wire.on_secret)
    if sent:
        return
    if kind == SSL3_RT_HEADER or kind == SSL3_RT_INNER_CONTENT_TYPE:
        if kind == SSL3_RT_HEADER and head[0] == APPLICATION_DATA:
            return
        wire = <Wire*>SSL_get_ex_data(ssl, 0)
        if kind == SSL3_RT_INNER_CONTENT_TYPE and wire.established:
            wire.opened += 1
            wire.last_kind = head[0]
        if head[0] != APPLICATION_DATA and count_control(wire):
            refuse(ssl, wire, FLOOD)
    elif kind == SSL3_RT_HANDSHAKE and n >= 5 and head[0] == SSL3_MT_KEY_UPDATE:
        wire = <Wire*>SSL_get_ex_data(ssl, 0)
        wire.rekeyed = True
        if wire.no_rekey and head[4] == <unsigned char>SSL_KEY_UPDATE_REQUESTED:
            refuse(ssl, wire, b"the peer asks for a KeyUpdate behind a large body or many answers")


cdef void refuse(SSL* ssl, Wire* wire, const char* reason) noexcept nogil:
    """Stop OpenSSL from reading: within one call of ours it would process all bytes that it gets."""
    if wire.refused == NULL:
        wire.refused = reason
        BIO_set_callback_ex(SSL_get_rbio(ssl), on_bio)


cdef long on_bio(BIO* b, int op, const char* p, size_t n, int argi, long argl, int ret,
                 size_t* done) noexcept nogil:
    return 0 if op == BIO_CB_READ else ret
