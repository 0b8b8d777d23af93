"""Self-test of our own TLS records against OpenSSL, in memory, before a connection relies on them."""

from regproxy.dataplane.records cimport ENCRYPTED_MAX
from regproxy.dataplane.tls cimport Conn
from regproxy.dataplane.tls_contexts cimport Context
from regproxy.dataplane.tls_contexts import client_context, server_context
from regproxy.dataplane.openssl cimport (
    SSL_CTX_set_ciphersuites, SSL_KEY_UPDATE_NOT_REQUESTED, SSL_do_handshake, SSL_key_update,
)
from regproxy.dataplane.status cimport Status

cdef enum:
    ROOM = 131072


def records_fault(bytes chain_pem not None, bytes key_pem not None) -> str:
    """Return why `records` must not be used with this OpenSSL; "" where each opens what the other has sealed.

    `chain_pem`, `key_pem`: any certificate that OpenSSL takes. A suite that it does not speak is left out.
    """
    server = server_context(chain_pem, key_pem, False, True)
    client = client_context(False)
    opening = client_context(False, None, False, None, None, True)
    tried = 0
    for suite in (b"TLS_AES_128_GCM_SHA256", b"TLS_AES_256_GCM_SHA384"):
        pair = _Pair(server, client, suite)
        if not pair.shake():
            continue
        fault = pair.sealing_fault()
        if not fault:
            pair = _Pair(server, opening, suite)
            fault = pair.opening_fault() if pair.shake() else "a handshake fails when it is done again"
        if fault:
            return f"{suite.decode()}: {fault}"
        tried += 1
    return "" if tried else "no handshake with AES-GCM could be done"


cdef class _Pair:
    cdef Conn server
    cdef Conn client
    cdef bytearray room

    def __init__(self, Context server, Context client, bytes suite):
        SSL_CTX_set_ciphersuites(client.ctx, suite)
        self.room = bytearray(ROOM)
        # As addresses, so that no server name is sent
        self.server = Conn(server, b"127.0.0.1", -1, True)
        self.client = Conn(client, b"127.0.0.1", -1, True)

    cdef bytes _taken(self, Conn conn):
        """Return the bytes that `conn` has written since _bound()."""
        return bytes(self.room[:conn.wire.dest_len])

    cdef int _bound(self, Conn conn, bytes source) except -1:
        conn.wire.dest = <char*>self.room
        conn.wire.dest_cap = ROOM
        conn.wire.dest_len = 0
        conn.wire.source = source
        conn.wire.source_len = len(source)
        return 0

    cdef bytes _turn(self, Conn conn, bytes flight):
        self._bound(conn, flight)
        conn.handshake()
        return self._taken(conn)

    cdef bint shake(self) except -1:
        flight = self._turn(self.server, self._turn(self.client, b""))
        self._turn(self.server, self._turn(self.client, flight))
        return self.client.established and self.server.established

    cdef str sealing_fault(self):
        cdef bytes by_openssl = b"made by OpenSSL", sealed = bytes(range(256)) * 160
        cdef size_t done = 0
        self._bound(self.server, b"")
        self.server.write(by_openssl, len(by_openssl), &done)
        self.server.take_over()
        if self.server.seal is None:
            return "what OpenSSL wrote is not what it was asked for"
        self.server.write(sealed, len(sealed), &done)
        self.server.close_notify()
        wire = self._taken(self.server)
        if self._opened(wire) != by_openssl + sealed:
            return f"OpenSSL does not open our records: {self.client.failure()}"
        return ""

    cdef str opening_fault(self):
        """Ahead of a KeyUpdate and behind it."""
        for part in (b"behind much data", b"under the next keys"):
            for data in (bytes(range(256)) * 256, bytes(range(256)) * 256, part):
                if self._carried(data) != data:
                    return f"we do not open OpenSSL's records: {self.client.failure()}"
            if self.client.peer is None:
                return "what OpenSSL has read are not whole records"
            self._bound(self.server, b"")
            SSL_key_update(self.server.ssl, SSL_KEY_UPDATE_NOT_REQUESTED)
            SSL_do_handshake(self.server.ssl)
            if self._read(self._taken(self.server)) is not None:
                return "a KeyUpdate is data"
        return ""

    cdef bytes _carried(self, bytes data):
        """Return what the client reads of what the server writes."""
        cdef size_t done = 0
        self._bound(self.server, b"")
        self.server.write(data, len(data), &done)
        return self._read(self._taken(self.server))

    cdef bytes _read(self, bytes wire):
        """Return the bytes that the client reads without an end; None for none."""
        cdef char plain[ENCRYPTED_MAX]
        cdef size_t n = 0
        got = []
        self._bound(self.client, wire)
        while self.client.read(plain, ENCRYPTED_MAX, &n) == Status.OK:
            got.append(plain[:n])
        return b"".join(got) or None

    cdef bytes _opened(self, bytes wire):
        """Return the bytes that the client reads up to the closure alert; b"" without one."""
        cdef char plain[ENCRYPTED_MAX]
        cdef size_t n = 0
        cdef Status status
        got = []
        self._bound(self.client, wire)
        while True:
            status = self.client.read(plain, ENCRYPTED_MAX, &n)
            if status != Status.OK:
                return b"".join(got) if status == Status.END else b""
            got.append(plain[:n])
