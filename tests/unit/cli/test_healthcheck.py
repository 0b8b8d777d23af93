"""`regproxy healthcheck`, before answers of an admin port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from regproxy.cli import healthcheck
from regproxy.config.sources.assembly import load
from tests.support import ROOT

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nready\n"
ENDS = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 14\r\n\r\nshutting down\n"


class AdminPort:
    """Answers each connection with `answer`."""

    def __init__(self, host: str) -> None:
        self.answer = READY
        self.asked: list[bytes] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock = self._listener.accept()[0]
            with sock:
                if not (head := sock.recv(4096)):
                    return
                self.asked.append(head)
                sock.sendall(self.answer)

    def close(self) -> None:
        with socket.create_connection(self._listener.getsockname()[:2]):
            pass
        self._thread.join()
        self._listener.close()


@pytest.fixture
def port() -> Iterator[AdminPort]:
    with ExitStack() as stack:
        port = AdminPort("127.0.0.1")
        stack.callback(port.close)
        yield port


@pytest.mark.parametrize("written", ["127.0.0.1:{}", "0.0.0.0:{}", ":{}", "[::]:{}", " localhost:{} "])
def test_every_way_to_write_the_address(written: str, port: AdminPort) -> None:
    assert healthcheck.run(None, {"REGPROXY_ADMIN_LISTEN": written.format(port.port)}) == 0
    assert [head.split(b"\r\n")[0] for head in port.asked] == [b"GET /readyz HTTP/1.1"]


def test_ipv6(stack: ExitStack) -> None:
    try:
        port = AdminPort("::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    stack.callback(port.close)
    for written in (f"[::1]:{port.port}", f"[::]:{port.port}", f":{port.port}"):
        assert healthcheck.run(None, {"REGPROXY_ADMIN_LISTEN": written}) == 0


@pytest.mark.parametrize("key", ["admin_listen", "regproxy_admin_listen"])
def test_the_toml_file(key: str, port: AdminPort, tmp_path: Path) -> None:
    file = tmp_path / "regproxy.toml"
    file.write_text(f'{key} = "127.0.0.1:{port.port}"\n')
    assert healthcheck.run(str(file), {}) == 0
    assert healthcheck.run(str(file), {"REGPROXY_ADMIN_LISTEN": "127.0.0.1:1"}) == 1
    assert len(port.asked) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ENDS, "/readyz: HTTP/1.1 503 Service Unavailable shutting down"),
        (b"", "/readyz:"),
        (b"2000 OK\r\n\r\n", "/readyz: 2000 OK"),
    ],
)
def test_not_ready(answer: bytes, says: str, port: AdminPort, capsys: pytest.CaptureFixture[str]) -> None:
    port.answer = answer
    assert healthcheck.run(None, {"REGPROXY_ADMIN_LISTEN": f"127.0.0.1:{port.port}"}) == 1
    assert f"127.0.0.1:{port.port}{says}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [("127.0.0.1:1", "127.0.0.1:1: Connection refused"), ("3129", "REGPROXY_ADMIN_LISTEN='3129': host:port")],
)
def test_nobody_is_there(text: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.run(None, {"REGPROXY_ADMIN_LISTEN": text}) == 1
    assert says in capsys.readouterr().err


def test_its_default_is_the_setting_s() -> None:
    assert healthcheck._admin_address(None, {}) == load({}).admin_listen


@pytest.mark.parametrize("arguments", [(), ("--config", "regproxy.toml")])
def test_the_command(arguments: tuple[str, ...], port: AdminPort, tmp_path: Path) -> None:
    """By both ways in; the short one imports none of what takes long."""
    (tmp_path / "regproxy.toml").write_text("")
    script = "import sys; from regproxy.cli.entry import main\ntry: main()\nfinally: print(*sys.modules)"
    env = {"REGPROXY_ADMIN_LISTEN": f"127.0.0.1:{port.port}", "PATH": os.environ["PATH"]}
    env["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", script, "healthcheck", *arguments]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    slow = {"typer", "rich", "cryptography", "regproxy.config.settings"} & set(done.stdout.split())
    assert bool(slow) == bool(arguments)
