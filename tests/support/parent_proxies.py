"""Proxies for CONNECT that another proxy goes through: a scriptable one, and tinyproxy."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.processes import Daemon, accepts, free_address

TINYPROXY: Final = shutil.which("tinyproxy", path="/usr/sbin:/usr/bin")
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A CONNECT as it came: "host:port", and the fields by their names in lower case."""

    target: str
    fields: Mapping[str, str]


class Parent:
    """Answers every CONNECT with `answer`; a 200 is followed by a tunnel.

    `names` says where names are; those that aren't there are dialled as they are. The answer goes out in
    pieces of `piece` bytes, each in a segment of its own.
    """

    def __init__(
        self,
        names: Mapping[str, tuple[str, int]] | None = None,
        *,
        answer: bytes = ESTABLISHED,
        piece: int = 1 << 16,
    ) -> None:
        self.address = free_address()
        self.asked: list[Asked] = []
        self.answer = answer
        self._names = dict(names or {})
        self._piece = piece
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(self.address, backlog=64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, user: str = "") -> str:
        """Return what HTTPS_PROXY is set to."""
        at = f"{user}@" if user else ""
        return f"http://{at}{self.address[0]}:{self.address[1]}"

    @property
    def targets(self) -> list[str]:
        return [asked.target for asked in self.asked]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                more = client.recv(1)
                if not more:
                    return
                head += more
            first, *lines = head.decode().split("\r\n")[:-2]
            pairs = (line.split(":", 1) for line in lines)
            target = first.split()[1]
            self.asked.append(Asked(target, {name.lower(): value.strip() for name, value in pairs}))
            for start in range(0, len(self.answer), self._piece):
                client.sendall(self.answer[start : start + self._piece])
            if b" 200 " in self.answer[:16]:
                self._relay(client, target)

    def _relay(self, client: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        to = self._names.get(host, (host.strip("[]"), int(port)))
        with socket.create_connection(to, timeout=20) as server:
            server.settimeout(None)
            self._sockets.append(server)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(20)

    def close(self) -> None:
        """Stop listening and end all connections."""
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Tinyproxy:
    """tinyproxy 1.11 with a user and a password, on a free port of a loopback address."""

    def __init__(self, directory: Path, user: str, password: str) -> None:
        assert TINYPROXY is not None
        directory.mkdir(parents=True, exist_ok=True)
        self.address = free_address()
        self._pair = f"{user}:{password}"
        config = directory / "tinyproxy.conf"
        lines = (
            f"Port {self.address[1]}",
            f"Listen {self.address[0]}",
            "Timeout 60",
            "MaxClients 50",
            "LogLevel Connect",
            f"BasicAuth {user} {password}",
        )
        config.write_text("\n".join(lines) + "\n")
        self._daemon = Daemon("tinyproxy", [TINYPROXY, "-d", "-c", config], directory=directory)
        self._daemon.wait_ready(lambda: accepts(self.address))

    def url(self, user: str | None = None) -> str:
        """Return what HTTPS_PROXY is set to; `user`: another "user:password", "" for none."""
        pair = self._pair if user is None else user
        return f"http://{pair}{'@' if pair else ''}{self.address[0]}:{self.address[1]}"

    def log(self) -> str:
        return self._daemon.log_tail(1 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.stop()
