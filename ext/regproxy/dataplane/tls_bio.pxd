from libc.stdint cimport uint64_t

from regproxy.dataplane.openssl cimport BIO, SSL


# Where in a stream of records we are, how many were begun, and whether one was no record of TLS 1.3.
cdef struct Framing:
    unsigned char header[5]
    # 0: between two records
    unsigned int header_len
    # Bytes that this record still has, once its header is whole
    size_t rest
    uint64_t begun
    bint odd


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
    # Chooses the context of the Conn `chooser` by the name that was asked for (NULL: none); NULL: settled
    int (*choose)(SSL* ssl, void* chooser, const char* name, int* alert) noexcept nogil
    void* chooser
    # Why the connection is given up; whoever calls OpenSSL next learns it. No text that could change.
    const char* refused
    bint established
    # The peer's records that brought no data, less what its data has made up for
    unsigned int controls
    size_t credit
    # A KeyUpdate that asks for one of ours can't be answered: OpenSSL does not write this side's records
    bint no_rekey
    # OpenSSL must not write: the record layer of this side is ours
    bint sealed
    # What OpenSSL has written since the handshake, while that is watched
    bint watched
    Framing written
    # What OpenSSL has read, while that is tracked; `halts`: it gets no more than up to the end of a record
    bint tracked
    bint halts
    Framing taken
    # How many records of the peer's OpenSSL has opened since the handshake, the type of what was in the last
    # one, and whether one was a KeyUpdate: the peer's secret is not what it was
    uint64_t opened
    unsigned char last_kind
    bint rekeyed
    # Takes the secret, from when a server's Finished has been sent on, or has come: OpenSSL makes it next.
    # NULL: it is not wanted, or there
    void (*on_secret)(const SSL* ssl, const char* line) noexcept nogil
    # The secret of the server's records (TLS 1.3), as long as they may still become ours to make, or to open
    unsigned char secret[48]
    size_t secret_len


cdef const char* FLOOD
cdef bint count_control(Wire* wire) noexcept nogil
cdef BIO* scratch_bio(Wire* wire) except NULL
cdef void on_record(int sent, int version, int kind, const void* p, size_t n, SSL* ssl,
                    void* arg) noexcept nogil
