"""Programs that check certificates, each by a library of its own, and a server to show them one."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.connect_relay import Relay
from tests.support.processes import free_address
from tests.support.real_clients import client_env

_ANSWER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_PYTHON = """
import socket, ssl, sys
ca, host, address, port = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
with socket.create_connection((address, int(port))) as sock:
    context.wrap_socket(sock, server_hostname=host).close()
"""
_GO = """
package main

import (
    "crypto/tls"
    "crypto/x509"
    "log"
    "os"
)

func main() {
    pem, err := os.ReadFile(os.Args[1])
    if err != nil {
        log.Fatal(err)
    }
    pool := x509.NewCertPool()
    pool.AppendCertsFromPEM(pem)
    config := &tls.Config{RootCAs: pool, ServerName: os.Args[2]}
    conn, err := tls.Dial("tcp", os.Args[3]+":"+os.Args[4], config)
    if err != nil {
        log.Fatal(err)
    }
    conn.Close()
}
"""


class LeafServer:
    """Shows a chain to whoever connects to `address`, and answers 404 to the first request."""

    def __init__(self, directory: Path, chain_pem: bytes, key_pem: bytes, host: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        pem = directory / "server.pem"
        pem.write_bytes(chain_pem + key_pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self.address = free_address(host)
        self._listener = socket.create_server(self.address)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(20)
                with contextlib.suppress(OSError), self._context.wrap_socket(sock, server_side=True) as tls:
                    if tls.recv(4096):
                        tls.sendall(_ANSWER)
                sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._listener.close()


@dataclass(frozen=True)
class Program:
    """A client. `accepts(ca, host, address)`: whether it takes what `host` shows there, trusting `ca` alone.

    `package` is what has it in Debian.
    """

    name: str
    package: str
    accepts: Callable[[Path, str, tuple[str, int]], bool]

    @property
    def missing(self) -> bool:
        return shutil.which(self.name) is None

    def __str__(self) -> str:
        return self.name


def _ends_well(
    command: Sequence[str | Path], refusals: tuple[str, ...], env: dict[str, str] | None = None
) -> bool:
    """Return whether it ends with 0; another end has to be for one of these reasons."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 or any(reason in said for reason in refusals), said
    return done.returncode == 0


def _curl(ca: Path, host: str, address: tuple[str, int]) -> bool:
    url = f"https://{host}:{address[1]}/"
    to = f"{host}:{address[1]}:{address[0]}"
    command: list[str | Path] = [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "--noproxy",
        "*",
        "--cacert",
        ca,
        "--resolve",
        to,
        url,
    ]
    return _ends_well(command, ("SSL certificate problem",), {"PATH": "/usr/bin:/bin"})


def _openssl(ca: Path, host: str, address: tuple[str, int]) -> bool:
    kind = "-verify_hostname" if host[0].isalpha() else "-verify_ip"
    to = f"{address[0]}:{address[1]}"
    trust: list[str | Path] = ["-CAfile", ca, "-no-CApath", "-no-CAstore", "-x509_strict"]
    command: list[str | Path] = [
        "openssl",
        "s_client",
        "-connect",
        to,
        *trust,
        "-verify_return_error",
        kind,
        host,
    ]
    return _ends_well(command, ("verify error",))


def _gnutls(ca: Path, host: str, address: tuple[str, int]) -> bool:
    names = ["--verify-hostname", host, *(["--sni-hostname", host] if host[0].isalpha() else [])]
    command: list[str | Path] = ["gnutls-cli", "--x509cafile", ca, *names, "-p", str(address[1]), address[0]]
    return _ends_well(command, ("certificate is NOT trusted",))


def _python(ca: Path, host: str, address: tuple[str, int]) -> bool:
    command: list[str | Path] = [sys.executable, "-c", _PYTHON, ca, host, address[0], str(address[1])]
    return _ends_well(command, ("CERTIFICATE_VERIFY_FAILED",))


def _skopeo(ca: Path, host: str, address: tuple[str, int]) -> bool:
    """skopeo is in Go. That it finds no image there is what it says once it trusts the server."""
    with tempfile.TemporaryDirectory() as home, Relay({host: address[0]}) as relay:
        env = client_env(Path(home), proxy=relay.url, ca=ca)
        env |= {"NO_PROXY": "", "_CONTAINERS_ROOTLESS_UID": "1000"}
        image = f"docker://{host}:{address[1]}/app:1"
        command: list[str | Path] = ["skopeo", "--insecure-policy", "inspect", "--tls-verify=true", image]
        done = subprocess.run(
            [str(word) for word in command], env=env, capture_output=True, text=True, check=False
        )
    refused = "x509: " in done.stderr
    assert refused or "404" in done.stderr, done.stderr
    return not refused


@functools.cache
def _go_program() -> Path:
    place = tempfile.TemporaryDirectory(prefix="go-client-")
    atexit.register(place.cleanup)
    source, program = Path(place.name) / "main.go", Path(place.name) / "main"
    source.write_text(_GO)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    go = shutil.which("go")
    subprocess.run([str(go), "build", "-o", program, source], env=env, check=True, capture_output=True)
    return program


def _go(ca: Path, host: str, address: tuple[str, int]) -> bool:
    return _ends_well([_go_program(), ca, host, address[0], str(address[1])], ("x509: ",))


PROGRAMS = (
    Program("curl", "curl", _curl),
    Program("openssl", "openssl", _openssl),
    Program("gnutls-cli", "gnutls-bin", _gnutls),
    Program("python3", "python3", _python),
    Program("skopeo", "skopeo", _skopeo),
    Program("go", "golang-go", _go),
)
