"""An origin's records, opened here: whatever comes, no byte is handed out that the origin has not sealed."""

from libc.string cimport memcmp, memcpy, memset

from regproxy.dataplane.openssl cimport ERR_clear_error
from regproxy.dataplane.peer_records cimport PeerRecords, peer_records
from regproxy.dataplane.records cimport ENCRYPTED_MAX, Seal, Unseal, make_seal, make_unseal
from regproxy.dataplane.status cimport Status
from regproxy.dataplane.tls cimport Conn
from regproxy.dataplane.tls_bio cimport Wire

from support cimport EXPANDED_MAX, MARGIN, expand, fence, unfence, wrong

import os
import traceback

from regproxy.dataplane.tls_contexts import client_context, server_context

cdef enum:
    AES_128_GCM_SHA256 = 0x1301
    AES_256_GCM_SHA384 = 0x1302
    HANDSHAKE = 22
    DATA = 23
    # One step of an input: what, two bytes for how much
    STEP = 3
    ROOM = 4 * EXPANDED_MAX
    FLIGHT = 16384

cdef char content[EXPANDED_MAX + MARGIN]
cdef char wire_bytes[ROOM + MARGIN]
cdef char sent[ROOM + MARGIN]
cdef char plain[2 * ENCRYPTED_MAX + MARGIN]
cdef char answers[FLIGHT]
cdef Conn client = None


def address_of(str name):
    """Return where a target is, for the driver."""
    return <size_t><void*>read


cdef int read(const unsigned char* data, size_t size) noexcept:
    """Bytes: suite, size of pieces (2), room; then steps of a session."""
    try:
        if size >= 8:
            session(data, size)
        ERR_clear_error()
    except BaseException:
        traceback.print_exc()
        wrong(b"an exception")
    return 0


cdef bytes turn(Conn conn, bytes flight):
    conn.wire.dest, conn.wire.dest_cap, conn.wire.dest_len = answers, FLIGHT, 0
    conn.wire.source, conn.wire.source_len = flight, len(flight)
    conn.handshake()
    return answers[:conn.wire.dest_len]


cdef Conn shaken():
    """A connection that a KeyUpdate can be sent on."""
    pem = open(os.environ["FUZZ_PEM"], "rb").read()
    server = Conn(server_context(pem, pem), b"127.0.0.1", -1, True)
    made = Conn(client_context(False), b"127.0.0.1", -1, True)
    flight = b""
    for _ in range(2):
        flight = turn(server, turn(made, flight))
    if not made.established:
        wrong(b"no handshake")
    return made


cdef struct Made:
    # What is on the wire, and the data in it; `exact`: nothing but data is
    size_t wire
    size_t data
    bint exact


cdef int make(const unsigned char* data, size_t size, unsigned int suite, unsigned char* secret,
              size_t secret_len, Made* made) except -1:
    """Seal what the steps say, as an origin that knows the keys would, and somebody on the way as well."""
    cdef Seal seal = make_seal(suite, secret, secret_len, 0)
    cdef Unseal mirror = make_unseal(suite, secret, secret_len, 0)
    cdef size_t n, k, step, done, begun
    cdef bint honest = True
    made.wire = made.data = 0
    made.exact = True
    while size >= STEP:
        step, n = data[0], (<size_t>data[1] << 8) | data[2]
        data, size = data + STEP, size - STEP
        k = min(n & 0xff, size)
        n = expand(data, k, content)
        data, size = data + k, size - k
        n = min(n, <size_t>16300)
        if made.wire + n + 64 > ROOM:
            break
        begun = made.wire
        if step % 8 == 7:
            memcpy(wire_bytes + made.wire, content, n)
            made.wire += n
            if n:
                made.exact = honest = False
            continue
        if step % 8 < 4:
            seal.seal(DATA, content, n, wire_bytes + made.wire, ROOM - made.wire, &done)
            if honest:
                memcpy(sent + made.data, content, n)
                made.data += n
        else:
            made.exact = False
            seal.seal(HANDSHAKE if step % 8 < 6 else <unsigned char>(step >> 3), content, n,
                      wire_bytes + made.wire, ROOM - made.wire, &done)
            if step % 8 == 5:
                mirror.update()
                seal = make_seal(suite, mirror.secret, secret_len, 0)
            elif step % 8 == 6 and honest:
                k = n
                if step >> 3 == 0:
                    # Zeros are padding, ahead of which the content brings its type.
                    while k and content[k - 1] == 0:
                        k -= 1
                    k = k - 1 if k and content[k - 1] == DATA else 0
                elif step >> 3 != DATA:
                    k = 0
                memcpy(sent + made.data, content, k)
                made.data += k
        made.wire += done
        if done and step & 0x80 and step % 8 < 4:
            # Changed on the way: nothing that follows counts.
            wire_bytes[begun + n % done] ^= <char>(1 << (step >> 4 & 7))
            if honest:
                made.data -= n
            made.exact = honest = False
    return 0


cdef int session(const unsigned char* data, size_t size) except -1:
    global client
    cdef unsigned int suite = AES_256_GCM_SHA384 if data[0] & 1 else AES_128_GCM_SHA256
    cdef size_t pieces = ((<size_t>data[1] << 8) | data[2]) + 1, room = ENCRYPTED_MAX + data[3] * 64
    cdef unsigned char secret[48]
    cdef size_t secret_len = 48 if data[0] & 1 else 32, at = 0, had = 0, n
    cdef Made made
    cdef Wire wire
    cdef PeerRecords peer
    cdef Status status = Status.AGAIN
    if client is None:
        client = shaken()
    memset(secret, data[4], 48)
    make(data + 5, size - 5, suite, secret, secret_len, &made)
    memset(&wire, 0, sizeof(Wire))
    wire.established = True
    memcpy(wire.secret, secret, secret_len)
    wire.secret_len = secret_len
    client.wire.dest, client.wire.dest_cap = answers, FLIGHT
    peer = peer_records(client.ssl, &wire, suite)
    fence(plain, room)
    while status == Status.AGAIN and at < made.wire:
        wire.source = wire_bytes + at
        wire.source_len = min(pieces, made.wire - at)
        at += wire.source_len
        client.wire.dest_len = 0
        while True:
            status = peer.read(plain, room, &n)
            if status != Status.OK:
                break
            if n == 0 or n > room or had + n > made.data or memcmp(plain, sent + had, n) != 0:
                wrong(b"other bytes than the origin has sealed")
            had += n
        if status == Status.AGAIN and wire.source_len:
            wrong(b"bytes are left and no read takes them")
    if status == Status.END and made.exact:
        wrong(b"an end that nobody has said")
    if status == Status.FAILED and made.exact and wire.refused == NULL:
        wrong(b"good records are refused")
    if status == Status.AGAIN and made.exact and (had != made.data or not peer.drained()):
        wrong(b"bytes are missing")
    if status == Status.FAILED and peer.fault == 0 and wire.refused == NULL:
        wrong(b"a failure without a reason")
    unfence(plain, room)
    return 0
