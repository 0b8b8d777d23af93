"""A body that comes: cut by its framing (RFC 9112 section 6), and given to a sink."""

cimport cython

from regproxy.dataplane.body cimport Endpoint, Sink
from regproxy.dataplane.http1 cimport CHUNK_END, CHUNK_MALFORMED, decode_chunks
from regproxy.dataplane.status cimport Status


@cython.final
cdef class IncomingBody:
    """One body: framing "length" (of so many bytes), "chunked", or "eof", which is the connection's end."""

    def __cinit__(self, Sink sink not None, str framing, long long length):
        if length < 0:
            raise ValueError(f"a body can't have {length} bytes")
        self.sink = sink
        self.remaining = length
        self.reason = ""
        if framing == "length":
            self.framing = FRAMING_LENGTH
        elif framing == "chunked":
            self.framing = FRAMING_CHUNKED
        else:
            self.framing = FRAMING_EOF

    cdef Status feed(self, Endpoint origin, char* p, size_t n, size_t* used) except Status.EXC:
        """Give what is the body's of n bytes to the sink; `used` is how many that are. May write to p.

        OK: more is to come; END: it is whole; FAILED: given up, `reason` says why, unless the sink has closed
        the origin. `held` says whether the sink takes more.
        """
        cdef Status status = Status.OK
        if self.framing == FRAMING_CHUNKED:
            return self._feed_chunked(origin, p, n, used)
        used[0] = n
        if self.framing == FRAMING_LENGTH:
            used[0] = <size_t>min(self.remaining, <long long>n)
            self.remaining -= used[0]
        if used[0]:
            status = self._give(origin, p, used[0])
        return Status.END if status == Status.OK and self.is_empty() else status

    cdef Status _feed_chunked(self, Endpoint origin, char* p, size_t n, size_t* used) except Status.EXC:
        cdef size_t length
        cdef char* run
        cdef Status status
        used[0] = 0
        while used[0] < n and self.chunks.state < CHUNK_END:
            used[0] += decode_chunks(&self.chunks, p + used[0], n - used[0], &run, &length)
            if length:
                status = self._give(origin, run, length)
                if status != Status.OK:
                    return status
        if self.chunks.state == CHUNK_MALFORMED:
            self.reason = f"malformed chunked body: {self.chunks.error.decode()}"
            return Status.FAILED
        return Status.END if self.chunks.state == CHUNK_END else Status.OK

    cdef Status _give(self, Endpoint origin, const char* p, size_t n) except Status.EXC:
        cdef Status status = self.sink.push(origin, p, n)
        if status == Status.FAILED:
            self.reason = self.sink.reason
            return status
        if status == Status.AGAIN:
            self.held = True
        return Status.OK if origin.fd >= 0 else Status.FAILED

    cdef str missing(self, bint clean):
        """Return what is missing where the connection has ended, "" for nothing. `clean`: in order."""
        if self.framing == FRAMING_EOF:
            # RFC 9112 section 9.8: over TLS only a closure alert makes a close-delimited body complete.
            return "" if clean else "cut: no TLS closure alert at its end"
        if self.framing == FRAMING_LENGTH:
            return f"cut: {self.remaining} bytes are missing"
        return "cut before the last chunk"
