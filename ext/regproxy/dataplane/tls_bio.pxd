from libc.stdint cimport uint64_t

from regproxy.dataplane.openssl cimport BIO, SSL


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
    # The Conn whose context is chosen by that name, or NULL
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
    # What OpenSSL has written since the handshake, while that is watched: where in a record it is, how many
    # records were begun, and whether one was no record of TLS 1.3
    bint watched
    unsigned char header[5]
    unsigned int header_len
    size_t rest
    uint64_t begun
    bint odd
    # Takes the secret, from when our Finished has been sent on: OpenSSL makes it next. NULL: it is not wanted
    void (*on_secret)(const SSL* ssl, const char* line) noexcept nogil
    # The secret of our own side's records (TLS 1.3), as long as they may still become ours to make
    unsigned char secret[48]
    size_t secret_len


cdef BIO* scratch_bio(Wire* wire) except NULL
cdef void on_record(int sent, int version, int kind, const void* p, size_t n, SSL* ssl,
                    void* arg) noexcept nogil
