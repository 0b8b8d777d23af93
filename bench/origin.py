"""An origin behind a slow link: static files over TLS 1.3 at an even pace.

nginx's limit_rate sleeps between writes and does not make up for the time that a write took, so its
pace depends on who else wants the cores. Here every chunk has its time on one schedule.

    python -m bench.origin PORT BYTES_PER_SECOND shared|each ROUND_TRIP ROOT CERTIFICATE KEY LOG

`shared`: all connections have one link; `each` has one of its own. ROUND_TRIP, in seconds, passes before the
TCP handshake, the TLS handshake and each answer are done; windows of TCP that grow slowly are not imitated.
"""

from __future__ import annotations

import mmap
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

from bench.material import MANIFEST_TYPE

CHUNK = 256 * 1024
RECORD = 16 * 1024  # bytes of TLS
CATCH_UP = 0.1  # s; how far a transfer may fall behind its schedule and still make up for it
RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


class Link:
    """One schedule for all that is sent; it starts anew when a transfer finds the link idle for a while."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0
        self._active = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Link:
        with self._lock:
            if self._active == 0:
                self._next = max(self._next, time.monotonic())
            self._active += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1

    def wait(self, size: int) -> None:
        """Return when `size` bytes may go."""
        with self._lock:
            due = max(self._next, time.monotonic() - CATCH_UP)
            self._next = due + size / self._rate
        time.sleep(max(0.0, due - time.monotonic()))


class Origin(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        link: Callable[[], Link],
        round_trip: float,
        root: Path,
        context: ssl.SSLContext,
        log: IO[str],
    ) -> None:
        self.link, self.round_trip, self.root, self.context, self.log = link, round_trip, root, context, log
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Origin
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        # Here and not around the listening socket: a handshake must not hold up the next accept.
        time.sleep(2 * self.server.round_trip)
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self._link = self.server.link()
        super().setup()

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        time.sleep(self.server.round_trip)
        file = self.server.root / self.path.lstrip("/")
        if not file.is_file():
            self.send_response(200 if self.path == "/v2/" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = file.stat().st_size
        start, stop = self._span(size)
        self.send_response(206 if stop - start < size else 200)
        self.send_header(
            "Content-Type", MANIFEST_TYPE if "/manifests/" in self.path else "application/octet-stream"
        )
        self.send_header("Content-Length", str(stop - start))
        if stop - start < size:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if with_body:
            self._send(file, start, stop)

    def _span(self, size: int) -> tuple[int, int]:
        asked = RANGE.match(self.headers.get("Range", ""))
        if not asked:
            return 0, size
        return int(asked[1]), min(int(asked[2] or size) + 1, size)

    def _send(self, file: Path, start: int, stop: int) -> None:
        sent = start
        try:
            with file.open("rb") as source:
                data = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
            with self._link as link:
                while sent < stop:
                    size = min(CHUNK, stop - sent)
                    link.wait(size)
                    end = sent + size
                    while sent < end:  # record by record: it is logged how far one came that is broken off
                        record = data[sent : min(sent + RECORD, end)]
                        self.wfile.write(record)
                        sent += len(record)
        finally:
            self.server.log.write(f"{sent - start} {self.path}\n")

    def log_message(self, format: str, *args: object) -> None:
        pass  # what was sent is in the server's own log


def main() -> None:
    port, rate, links, round_trip, root, certificate, key, log = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    common = Link(float(rate))
    link = {"shared": lambda: common, "each": lambda: Link(float(rate))}[links]
    with (
        Path(log).open("a", buffering=1) as lines,
        Origin(int(port), link, float(round_trip), Path(root), context, lines) as server,
    ):
        server.serve_forever()


if __name__ == "__main__":
    main()
