"""A raw HTTP/1.1 client for tests: the caller decides which bytes leave when, and reads answers strictly."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support.byte_streams import READ, End, Plain, Stream, Tls
from tests.support.trust import trusting

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
HEAD_MAX = 1 << 20


class NotHttp(AssertionError):
    """The peer's bytes break RFC 9112."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `complete` is False when the connection ended within head or body; then `end` says how.

    `end` is also set when the body was delimited by the end of the connection. `status` is 0 without a head.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    complete: bool = True
    end: End | None = None
    interim: tuple[int, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """Return the first field of that name (any case), or None."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Return the values of all fields of that name, in order."""
        return [value for known, value in self.headers if known.lower() == name.lower()]

    @property
    def digest(self) -> str:
        """The digest of the body that arrived."""
        return "sha256:" + hashlib.sha256(self.body).hexdigest()

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection. `layers` are what bytes go through: TCP first, then TLS any number of times."""

    def __init__(self, stream: Stream, *, authority: str = "proxy.test") -> None:
        self.layers: list[Stream] = [stream]
        self.authority = authority
        self.sent: list[str] = []  # methods whose answers are still to come

    @classmethod
    def connect(
        cls,
        address: tuple[str, int],
        *,
        timeout: float = 20.0,
        recv_buffer: int | None = None,
        authority: str = "",
    ) -> Self:
        """Dial, nothing more."""
        plain = Plain.connect(address, timeout=timeout, recv_buffer=recv_buffer)
        return cls(plain, authority=authority or f"{address[0]}:{address[1]}")

    @property
    def own_address(self) -> tuple[str, int]:
        """This end's address and port."""
        plain = self.layers[0]
        assert isinstance(plain, Plain)
        host, port = plain.sock.getsockname()[:2]
        return host, port

    @property
    def stream(self) -> Stream:
        """The innermost layer: what requests are written to."""
        return self.layers[-1]

    @property
    def tls(self) -> ssl.SSLObject:
        """The innermost TLS layer's SSLObject, for certificate, version and ALPN."""
        assert isinstance(self.stream, Tls)
        return self.stream.ssl

    def connect_to(
        self, target: str, *, headers: Iterable[tuple[str, str]] = (), extra: bytes = b""
    ) -> Reply:
        """Send `CONNECT target`, with `extra` in the same packet, and return the answer to it."""
        lines = [
            f"CONNECT {target} HTTP/1.1",
            f"Host: {target}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        self.stream.send(("\r\n".join(lines) + "\r\n\r\n").encode() + extra)
        self.sent.append("CONNECT")
        self.authority = target.removesuffix(":443")
        return self.read_reply()

    def start_tls(
        self,
        server_name: str,
        ca_pem: bytes | None,
        *,
        context: ssl.SSLContext | None = None,
        alpn: Iterable[str] = (),
        session: ssl.SSLSession | None = None,
    ) -> Tls:
        """Add a TLS layer and shake hands. Not trusted: ssl.SSLCertVerificationError."""
        tls = self._tls(server_name, ca_pem, context, alpn, session)
        tls.handshake()
        self.layers.append(tls)
        return tls

    def connect_early(self, target: str, ca_pem: bytes | None, **options: Any) -> Reply:
        """Put CONNECT and ClientHello into one packet, then finish the handshake; the CONNECT's answer."""
        tls = self._tls(
            target.rpartition(":")[0], ca_pem, **{"context": None, "alpn": (), "session": None, **options}
        )
        reply = self.connect_to(target, extra=tls.hello())
        if reply.status == 200:
            tls.handshake()
            self.layers.append(tls)
        return reply

    def send(self, data: bytes, *, piece: int | None = None) -> None:
        """Send raw bytes; with `piece`, that many at a time, each in a packet (and TLS record) of its own.

        Answers to raw requests are read by `read_reply(method)`.
        """
        if piece is None:
            self.stream.send(data)
            return
        for start in range(0, len(data), piece):
            self.stream.send(data[start : start + piece])

    def head(self, method: str, target: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """Return a request head with Host, unless `headers` has one."""
        fields = list(headers)
        if not any(name.lower() == "host" for name, _ in fields):
            fields.insert(0, ("Host", self.authority))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def ask(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        body: bytes | None = None,
        *,
        piece: int | None = None,
    ) -> None:
        """Send a request and do not wait: call it again to pipeline. A body is sent with Content-Length."""
        fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
        self.sent.append(method)
        self.send(self.head(method, target, fields) + (body or b""), piece=piece)

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        body: bytes | None = None,
        *,
        rate: float | None = None,
    ) -> Reply:
        """Send a request and return its answer, read no faster than `rate` bytes a second."""
        self.ask(method, target, headers, body)
        return self.read_reply(rate=rate)

    def get(self, target: str, headers: Iterable[tuple[str, str]] | Mapping[str, str] = ()) -> Reply:
        return self.request("GET", target, headers)

    def read_reply(self, method: str | None = None, *, rate: float | None = None) -> Reply:
        """Read the answer to the oldest request that has none; interim answers are passed over and noted."""
        method = method or self.sent.pop(0)
        interim: list[int] = []
        while True:
            reply = self.read_head()
            if not reply.complete or reply.status >= 200 or reply.status == 101:
                break
            interim.append(reply.status)
        body, complete, trailers = b"", reply.complete, ()
        if complete:
            body, complete, trailers = self._read_body(method, reply, rate)
        end = self.stream.end
        return Reply(reply.status, reply.reason, reply.headers, body, complete, end, tuple(interim), trailers)

    def read_head(self) -> Reply:
        """Read one head, interim or final, and nothing behind it."""
        data = self._read_until(b"\r\n\r\n")
        if data is None:
            return Reply(0, complete=False, end=self.stream.end)
        lines = data.split(b"\r\n")[:-2]
        match = STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise NotHttp(f"status line {lines[0][:200]!r}")
        return Reply(int(match[2]), match[3].decode("latin-1"), _fields(lines[1:]))

    def read(self, size: int) -> bytes:
        """Read exactly `size` raw bytes; fewer only when the stream ends (see `stream.end`)."""
        return self._read_exactly(size, None)

    def read_end(self) -> tuple[bytes, End]:
        """Read until the peer ends, and return what came before, and how it ended."""
        data = b"".join(iter(lambda: self.stream.recv(), b""))
        assert self.stream.end is not None
        return data, self.stream.end

    def fin(self) -> None:
        """Send a bare TCP FIN, without any close_notify; reading goes on."""
        self.layers[0].fin()

    def half_close(self) -> None:
        """End our side cleanly in the innermost layer alone: close_notify, or FIN where there is no TLS."""
        if isinstance(self.stream, Tls):
            self.stream.close_notify()
        else:
            self.stream.fin()

    def reset(self) -> None:
        """Leave with a TCP RST."""
        self.layers[0].reset()

    def close(self) -> None:
        """Leave as most clients do: close_notify and FIN where still possible."""
        try:
            self.stream.finish()
        except OSError:
            pass
        finally:
            self.layers[0].close()

    def _tls(
        self,
        server_name: str,
        ca_pem: bytes | None,
        context: ssl.SSLContext | None,
        alpn: Iterable[str],
        session: ssl.SSLSession | None,
    ) -> Tls:
        if context is None:
            context = trusting(ca_pem)
        if alpn := list(alpn):
            context.set_alpn_protocols(alpn)
        return Tls(self.stream, context, server_name=server_name, session=session)

    def _read_body(self, method: str, reply: Reply, rate: float | None) -> tuple[bytes, bool, Any]:
        """RFC 9112 6.3: return the body, whether all of it came, and the trailers."""
        lengths, codings = reply.all("content-length"), reply.all("transfer-encoding")
        if codings and lengths:
            raise NotHttp("both Transfer-Encoding and Content-Length")
        bodiless = method == "HEAD" or reply.status in (204, 304)
        if (reply.status == 204 or (method == "CONNECT" and reply.status == 200)) and (codings or lengths):
            raise NotHttp(f"a framed body with {reply.status} to {method}")
        if bodiless or (method == "CONNECT" and reply.status == 200):
            return b"", True, ()
        if codings:
            if codings != ["chunked"]:
                raise NotHttp(f"Transfer-Encoding {codings}")
            return self._read_chunks()
        if lengths:
            if len(lengths) > 1 or not re.fullmatch(r"[0-9]+", lengths[0]):
                raise NotHttp(f"Content-Length {lengths}")
            body = self._read_exactly(int(lengths[0]), rate)
            return body, len(body) == int(lengths[0]), ()
        body, end = self.read_end()
        # Within TLS only a close_notify tells an end from a cut (RFC 9112 9.8).
        clean = End.CLOSE_NOTIFY if isinstance(self.stream, Tls) else End.FIN
        return body, end is clean, ()

    def _read_chunks(self) -> tuple[bytes, bool, Any]:
        body: list[bytes] = []
        while True:
            line = self._read_until(b"\r\n")
            if line is None:
                return b"".join(body), False, ()
            match = re.fullmatch(rb"([0-9a-fA-F]{1,16})(?:[ \t]*;[^\r\n]*)?\r\n", line)
            if match is None:
                raise NotHttp(f"chunk size line {line[:200]!r}")
            size = int(match[1], 16)
            if size == 0:
                return self._read_trailers(b"".join(body))
            data = self._read_exactly(size + 2, None)
            body.append(data[:size])
            if len(data) < size + 2:
                return b"".join(body), False, ()
            if data[size:] != b"\r\n":
                raise NotHttp(f"chunk ends in {data[size:]!r}")

    def _read_trailers(self, body: bytes) -> tuple[bytes, bool, Any]:
        lines: list[bytes] = []
        while (line := self._read_until(b"\r\n")) != b"\r\n":
            if line is None:
                return body, False, ()
            lines.append(line[:-2])
        return body, True, _fields(lines)

    def _read_until(self, mark: bytes) -> bytes | None:
        """Read up to and including `mark`; None when the stream ended before it."""
        data = b""
        while (found := data.find(mark)) < 0:
            if len(data) > HEAD_MAX:
                raise NotHttp("a head without an end")
            more = self.stream.recv()
            if not more:
                return None
            data += more
        stop = found + len(mark)
        self.stream.unread(data[stop:])
        return data[:stop]

    def _read_exactly(self, size: int, rate: float | None) -> bytes:
        parts: list[bytes] = []
        got, started = 0, time.monotonic()
        limit = READ if rate is None else max(1, min(READ, int(rate / 20)))
        while got < size:
            data = self.stream.recv(min(limit, size - got))
            if not data:
                break
            parts.append(data)
            got += len(data)
            if rate is not None and (ahead := got / rate - (time.monotonic() - started)) > 0:
                time.sleep(ahead)
        return b"".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_tunnel(
    proxy: tuple[str, int], target: str, ca_pem: bytes | None, *, early: bool = False, **options: Any
) -> Client:
    """CONNECT to `target` ("host:port") through `proxy` and shake hands; AssertionError without a 200.

    `early` puts CONNECT and ClientHello into one packet. `options`: timeout, recv_buffer, context, alpn,
    session.
    """
    dial = {name: options.pop(name) for name in ("timeout", "recv_buffer") if name in options}
    client = Client.connect(proxy, **dial)
    try:
        reply = client.connect_early(target, ca_pem, **options) if early else client.connect_to(target)
        assert reply.status == 200, reply
        if not early:
            client.start_tls(target.rpartition(":")[0], ca_pem, **options)
    except BaseException:
        client.close()
        raise
    return client


def _fields(lines: Iterable[bytes]) -> tuple[tuple[str, str], ...]:
    fields = []
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise NotHttp(f"field line {line[:200]!r}")
        fields.append((match[1].decode("latin-1"), match[2].decode("latin-1")))
    return tuple(fields)
