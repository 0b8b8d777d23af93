"""A CONNECT relay that knows test names: the plainest proxy there is, for pushes and for tests of clients."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tests.support.byte_streams import READ


class Relay:
    """Listens on `address`; `CONNECT name:port` is dialled at `names[name]`, other names get 502.

    `connects` lists the targets asked for, in order.
    """

    def __init__(self, names: Mapping[str, str], *, host: str = "127.0.0.1") -> None:
        self.names = dict(names)
        self.connects: list[str] = []
        self._listener = socket.create_server((host, 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        """The value of HTTPS_PROXY."""
        return f"http://{self.address[0]}:{self.address[1]}"

    def close(self) -> None:
        """Stop listening, cut what is relayed, and join every thread."""
        with self._lock:
            self._closed = True
            for sock in (self._listener, *self._sockets):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join(10)
        self._listener.close()

    def _spawn(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self._keep(client):
                    return
                self._spawn(self._serve, client)

    def _keep(self, sock: socket.socket) -> bool:
        with self._lock:
            if self._closed:
                sock.close()
                return False
            self._sockets.add(sock)
            return True

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            head, _, rest = _head(client).partition(b"\r\n\r\n")
            server = self._dial(head.split(b" ")[1].decode())
            if server is None:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server.sendall(rest)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()
        except (OSError, IndexError):
            pass
        finally:
            for sock in (client, server):
                if sock is not None:
                    with self._lock:
                        self._sockets.discard(sock)
                    sock.close()

    def _dial(self, target: str) -> socket.socket | None:
        self.connects.append(target)
        host, _, port = target.rpartition(":")
        if host not in self.names:
            return None
        server = socket.create_connection((self.names[host], int(port)), timeout=10)
        server.settimeout(None)
        return server if self._keep(server) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(READ)
        if not more:
            raise ConnectionError("no head")
        data += more
    return data


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(READ):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
