from libc.stdint cimport uint64_t

from regproxy.dataplane.openssl cimport SSL_CTX, X509_STORE


cdef class ClientTrust:
    cdef X509_STORE* store
    cdef readonly bint required


cdef class Context:
    cdef SSL_CTX* ctx
    cdef readonly bint server
    cdef readonly bint verify
    cdef readonly bint ktls
    cdef readonly bint seals
    # Whether the records of large bodies from a server are opened by `records`
    cdef readonly bint opens
    # What takes the name of a ClientHello and returns the context for it, or None
    cdef object choose
    # Whose certificates clients may, or must, show; None: they are not asked for any
    cdef public ClientTrust client_trust
    # How many records a connection may send that makes them itself; half of that many, and it should end
    cdef public uint64_t records_max
