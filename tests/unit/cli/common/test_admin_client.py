"""Asking an admin port: where it is found, and by which token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from regproxy.cache import layout
from regproxy.cli.common.admin_client import AdminClient, NotRunning
from regproxy.config.sources.assembly import load


class AdminPort(HTTPServer):
    """Answers {} to each request, and keeps the tokens."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: AdminPort

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["Authorization"].removeprefix("Bearer "))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[AdminPort]:
    with AdminPort() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def client(root: Path, port: AdminPort, listen: str = "127.0.0.1", *, writes: bool = True) -> AdminClient:
    config = load({"REGPROXY_ADMIN_LISTEN": f"{listen}:{port.server_port}"})
    return AdminClient(config, root, writes=writes)


def write(path: Path, token: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{token}\n")


@pytest.mark.parametrize("listen", ["", "[::]", "0.0.0.0", "localhost"])
def test_one_that_listens_at_every_address(tmp_path: Path, port: AdminPort, listen: str) -> None:
    write(layout.admin_token(tmp_path), "write")
    assert client(tmp_path, port, listen).ask("GET", "status") == {}


def test_which_token(tmp_path: Path, port: AdminPort) -> None:
    write(layout.admin_token(tmp_path), "write")
    write(layout.admin_read_token(tmp_path), "read")
    for writes in (True, False):
        client(tmp_path, port, writes=writes).ask("GET", "status")
    assert port.tokens == ["write", "read"]


def test_no_token(tmp_path: Path, port: AdminPort) -> None:
    for name, writes in (("REGPROXY_ADMIN_TOKEN_FILE", True), ("REGPROXY_ADMIN_READ_TOKEN_FILE", False)):
        with pytest.raises(NotRunning, match=f"No such file.*{name}"):
            client(tmp_path, port, writes=writes).ask("GET", "status")


def test_nobody_answers(tmp_path: Path, port: AdminPort) -> None:
    """The error names the address as it was configured."""
    write(layout.admin_token(tmp_path), "write")
    asking = client(tmp_path, port, "[::]")
    port.server_close()
    with pytest.raises(NotRunning, match=rf"no proxy answers at \[::\]:{port.server_port} "):
        asking.ask("GET", "status")
