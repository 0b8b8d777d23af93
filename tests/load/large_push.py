"""Push a blob of many gigabytes through the proxy: `python -m tests.load.large_push --gigabytes 10`.

The memory of the worker has to stay what it was, and the registry has to get all of it. The registry is a
sink that speaks just enough HTTP: a real one would need the room for what it gets.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.closing import Closing
from tests.support.processes import free_address
from tests.support.proxy import Proxy
from tests.support.trust import Trust

MEGA = 1 << 20
LOOK = 64 * MEGA  # bytes between two looks at the memory
NAME = "sink.test"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nLocation: /v2/a/blobs/uploads/2\r\nContent-Length: 0\r\n\r\n"


class Sink(Closing):
    """A registry that takes one PATCH a connection and drops its body. `got`: bytes of bodies so far."""

    def __init__(self, trust: Trust) -> None:
        self.address, self.got = free_address(), 0
        pair = trust.server(NAME, self.address[0])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.chain, pair.key)
        self._listener = socket.create_server(self.address)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with accepted, self._context.wrap_socket(accepted, server_side=True) as client:
                self._take(client)

    def _take(self, client: ssl.SSLSocket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(MEGA)
        head, _, rest = data.partition(b"\r\n\r\n")
        (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        left, piece = int(length.partition(b":")[2]) - len(rest), bytearray(MEGA)
        self.got += len(rest)
        while left and (more := client.recv_into(piece)):
            left -= more
            self.got += more
        client.sendall(ACCEPTED)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@dataclass
class Findings:
    """What was seen. Bytes; `memory`: of the worker, before and then again and again."""

    status: int = 0
    got: int = 0
    memory: list[int] = field(default_factory=list)

    @property
    def growth(self) -> int:
        return max(self.memory) - self.memory[0]


def run(directory: Path, size: int, *, keep: bool) -> Findings:
    """Push `size` bytes in one PATCH. `keep`: the proxy keeps a copy of them."""
    found = Findings()
    with ExitStack() as stack:
        trust = Trust(directory / "trust")
        sink = stack.enter_context(Sink(trust))
        authority = f"{NAME}:{sink.address[1]}"
        # A debug run would look at itself meanwhile.
        env = {"ALLOW_PUSH": "true", "REGPROXY_CACHE_PUSHES": str(keep).lower(), "REGPROXY_DEBUG": "0"}
        proxy = stack.enter_context(
            Proxy(
                directory / "proxy",
                env,
                registries=(authority,),
                resolve={NAME: sink.address[0]},
                ca=trust.path,
            )
        )
        (worker,) = proxy.workers(1)
        client = stack.enter_context(proxy.client(authority, timeout=120))
        found.memory.append(resident(worker))
        client.send(client.head("PATCH", "/v2/a/blobs/uploads/1", [("Content-Length", str(size))]))
        piece = os.urandom(MEGA)
        for start in range(0, size, MEGA):
            client.stream.send(piece[: size - start])
            if start % LOOK == 0:
                found.memory.append(resident(worker))
        found.status, found.got = client.read_reply("PATCH").status, sink.got
    return found


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")) * 1024


def main() -> int:
    """Push, and say what was seen; 1: it was not taken whole, or the memory grew by more than 16 MiB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--keep", action="store_true", help="with REGPROXY_CACHE_PUSHES")
    options = parser.parse_args()
    size = int(options.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(prefix="large-push-") as directory:
        found = run(Path(directory), size, keep=options.keep)
    print(
        f"status {found.status}, {found.got} of {size} bytes; memory {found.memory[0] / 1e6:.0f} MB at first,"
        f" {max(found.memory) / 1e6:.0f} MB at most"
    )
    return 0 if (found.status, found.got) == (202, size) and found.growth <= 16 * MEGA else 1


if __name__ == "__main__":
    sys.exit(main())
