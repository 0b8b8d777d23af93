"""A byte stream with every end of it visible: TCP, and TLS over any such stream (so also TLS inside TLS).

`ssl.SSLSocket` hides what tests of a proxy are about: whether an end came with a close_notify, where one TCP
segment stops and the next begins, and what came right behind a message. Here TLS runs over memory BIOs.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from enum import StrEnum
from typing import Protocol

READ = 65536


class End(StrEnum):
    """How a peer ended its side."""

    CLOSE_NOTIFY = "close_notify"
    FIN = "fin"
    RST = "rst"


class Stream(Protocol):
    """What `Plain` and `Tls` have in common."""

    end: End | None

    def send(self, data: bytes) -> None: ...
    def recv(self, limit: int = READ) -> bytes: ...
    def unread(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def fin(self) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...


class Plain:
    """A TCP socket. `recv` gives b"" at the end and `end` says which; a timeout raises TimeoutError."""

    def __init__(self, sock: socket.socket, timeout: float | None = 20.0) -> None:
        sock.settimeout(timeout)
        if sock.family != socket.AF_UNIX:  # a socketpair has no Nagle
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.end: End | None = None
        self._unread = b""

    @classmethod
    def connect(
        cls, address: tuple[str, int], *, timeout: float = 20.0, recv_buffer: int | None = None
    ) -> Plain:
        """Dial. `recv_buffer` (bytes) bounds what the kernel takes in for a reader that is slow."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if recv_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, recv_buffer)
            sock.settimeout(timeout)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return cls(sock, timeout)

    def send(self, data: bytes) -> None:
        """Send all of it; a peer that is gone raises ConnectionError."""
        self.sock.sendall(data)

    def recv(self, limit: int = READ) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:limit], self._unread[limit:]
            return data
        if self.end is not None:
            return b""
        try:
            data = self.sock.recv(limit)
        except ConnectionResetError:
            self.end = End.RST
            return b""
        if not data:
            self.end = End.FIN
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back: the next `recv` gives them first."""
        self._unread = data + self._unread

    def finish(self) -> None:
        """End our side in the way that this layer calls clean."""
        self.fin()

    def fin(self) -> None:
        """End our side with a bare FIN; reading goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End both sides with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()


class Tls:
    """TLS over a stream. `end` tells close_notify from a bare FIN and from an RST of the layer below."""

    def __init__(
        self,
        lower: Stream,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        server_side: bool = False,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.lower = lower
        self.end: End | None = None
        self._unread = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_name,
            session=session,
        )

    def hello(self) -> bytes:
        """Return the client's first flight without sending it: to put it into a packet of one's choice."""
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        raise AssertionError("a handshake can't be done before its first flight was sent")

    def handshake(self) -> None:
        """Shake hands; a peer that leaves meanwhile raises ConnectionError, an alert ssl.SSLError."""
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionError(f"the peer left in the handshake: {self.lower.end}") from None
            except ssl.SSLError:
                self._flush(quiet=True)  # the alert that says why
                raise
            else:
                self._flush()
                return

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), READ):
            self.ssl.write(view[start : start + READ])
            self._flush()

    def recv(self, limit: int = READ) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:limit], self._unread[limit:]
            return data
        while self.end is None:
            try:
                data = self.ssl.read(limit)
            except ssl.SSLWantReadError:
                self._flush(quiet=True)
                if not self._fill():
                    self.end = self.lower.end
            except ssl.SSLZeroReturnError:
                self.end = End.CLOSE_NOTIFY
            else:
                if data:
                    return data
                self.end = End.CLOSE_NOTIFY  # SSLObject says b"" where SSLSocket raises
        return b""

    def unread(self, data: bytes) -> None:
        self._unread = data + self._unread

    def finish(self) -> None:
        """Send a close_notify, then a FIN below it; does not wait for the peer's."""
        self.close_notify()
        self.lower.finish()

    def close_notify(self) -> None:
        """Send a close_notify and nothing else: the half close of TLS 1.3 (RFC 8446 6.1)."""
        with contextlib.suppress(ssl.SSLError):  # the peer's own close_notify is not here yet
            self.ssl.unwrap()
        self._flush(quiet=True)

    def fin(self) -> None:
        """End the TCP side without a close_notify: a truncation."""
        self.lower.fin()

    def reset(self) -> None:
        self.lower.reset()

    def close(self) -> None:
        self.lower.close()

    def fileno(self) -> int:
        return self.lower.fileno()

    def _fill(self) -> bool:
        data = self.lower.recv()
        self._incoming.write(data)
        return bool(data)

    def _flush(self, *, quiet: bool = False) -> None:
        data = self._outgoing.read()
        if not data:
            return
        try:
            self.lower.send(data)
        except OSError:
            if not quiet:
                raise
