"""Real Chromium without a window, and a way into the admin port for it."""

from __future__ import annotations

import http.client
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--enable-logging=stderr"),
)


class TokenGate:
    """A server on this machine that passes GETs on to an admin port, with a token. `asked`: their paths.

    `refused`: a path that is answered with 503.
    """

    def __init__(self, admin: tuple[str, int], token: str, refused: str = "") -> None:
        self.asked: list[str] = []
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gate.asked.append(self.path)
                if self.path == refused:
                    self.send_error(503)
                    return
                connection = http.client.HTTPConnection(*admin, timeout=60)
                try:
                    connection.request("GET", self.path, headers={"Authorization": f"Bearer {token}"})
                    answer = connection.getresponse()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("transfer-encoding", "connection"):
                            self.send_header(name, value)
                    self.end_headers()
                    while piece := answer.read1(65_536):
                        self.wfile.write(piece)
                except OSError:
                    self.close_connection = True  # the browser, or the proxy, has ended
                finally:
                    connection.close()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def shown_after(url: str, profile: Path, seconds: int) -> str:
    """Return a page's document after so many seconds of its own clock, which goes faster."""
    arguments = [
        *("chromium", *ARGUMENTS, f"--user-data-dir={profile}", f"--virtual-time-budget={seconds * 1000}"),
        *("--dump-dom", url),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=True)
    return done.stdout


def screenshot(url: str, to: Path, size: tuple[int, int], *, dark: bool = False) -> str:
    """Write a picture of a page, `size` (width, height) in pixels; return what Chromium has said."""
    data = to.with_suffix(".profile")
    arguments = [
        *("chromium", *ARGUMENTS, f"--user-data-dir={data}", f"--window-size={size[0]},{size[1]}"),
        *(f"--screenshot={to}", f"--blink-settings=preferredColorScheme={0 if dark else 1}", url),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=True)
    return done.stderr
