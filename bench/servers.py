"""Servers as processes of ours, started, waited for, stopped: origins and regproxy. `peers` has others."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench.cpu import remaining, tree
from bench.errors import BenchError
from bench.loadgen import Route
from bench.material import HOST, MANIFEST_TYPE, REPOSITORY, Identity

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0


PORTS = range(10_000, 32_000)  # below net.ipv4.ip_local_port_range


class Process:
    """A server's root process; its output goes to a file, which is quoted when the start fails."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
        patience: float = START_TIMEOUT,
    ) -> None:
        self.command = list(command)
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=None if environ is None else {**os.environ, **environ},
                )
        except FileNotFoundError:
            message = f"{self.command[0]} is not here: .ci/packages bench installs what is measured"
            raise BenchError(message) from None
        self.pid = self._process.pid
        self._await(ready, log, patience)

    def _await(self, ready: Callable[[], bool], log: Path, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not ready():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.stop()
                why = "did not become ready" if ended is None else f"ended with status {ended}"
                raise BenchError(f"{self.command[0]} {why}:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def reload(self) -> None:
        """Have it read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it, and what it has started and left behind, each by its process id."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; for one whose files nobody wants any more."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process.poll() is not None:
            return
        started = tree(self.pid)
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in remaining(started):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody has, and that no outgoing connection takes: who waits for it might meet itself."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchError("no free port on 127.0.0.1")


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Nginx:
    """Static files over TLS 1.3, and without TLS at `plain_port`, by `workers` processes with access logs.

    `digests`: a file of nginx's `map` lines, of paths and what Docker-Content-Digest says to them, as a
    registry does; see `publish`.
    """

    def __init__(
        self,
        directory: Path,
        root: Path,
        identity: Identity,
        workers: int = 1,
        digests: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._workers = workers
        self._digests = digests
        if digests:
            digests.write_text("")
        self.port, self.plain_port = free_port(), free_port()
        self._identity = identity
        self.access_log = directory / "access.log"
        config = directory / "nginx.conf"
        config.write_text(self._config(directory, root))
        command = ["nginx", "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(config)]
        self.process = Process(command, directory / "output.log", lambda: accepts(self.port))

    def _config(self, directory: Path, root: Path) -> str:
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "\n".join(
            f"  {kind}_temp_path {directory}/temp;"
            for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
        )
        include = (
            f"map_hash_bucket_size 256; map $uri $content_digest {{ include {self._digests}; }}"
            if self._digests
            else ""
        )
        said = "add_header Docker-Content-Digest $content_digest;" if self._digests else ""
        return f"""
daemon off;
{user}
worker_processes {self._workers};
pid {directory}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  log_format bench '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
                   '"$http_referer" "$http_user_agent"';
  access_log {self.access_log} bench;
{temporary}
  {include}
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  ssl_protocols TLSv1.3;
  server {{
    listen 127.0.0.1:{self.port} ssl;
    listen 127.0.0.1:{self.plain_port};
    server_name {HOST};
    ssl_certificate {self._identity.leaf};
    ssl_certificate_key {self._identity.leaf_key};
    root {root};
    location = /v2/ {{ return 200 '{{}}'; }}
    location /v2/{REPOSITORY}/manifests/ {{ default_type {MANIFEST_TYPE}; {said} }}
  }}
}}
"""

    def route(self) -> Route:
        return Route(f"127.0.0.1:{self.port}", f"{HOST}:{self.port}", self._identity.ca)

    def plain_route(self) -> Route:
        return Route(f"127.0.0.1:{self.plain_port}", f"{HOST}:{self.plain_port}", None)

    def publish(self, digests: Mapping[str, str]) -> None:
        """From now on these paths are answered with these digests (`sha256:...`)."""
        assert self._digests is not None
        self._digests.write_text("".join(f'"{path}" "{digest}";\n' for path, digest in digests.items()))
        self.process.reload()
        path, digest = next(iter(digests.items()))
        request = urllib.request.Request(f"http://127.0.0.1:{self.plain_port}{path}", method="HEAD")
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with urllib.request.urlopen(request, timeout=2) as answer:
                if answer.headers.get("Docker-Content-Digest") == digest:
                    return
            time.sleep(0.02)
        raise BenchError(f"nginx does not say the digest of {path}")

    def sent(self, path: str) -> list[int]:
        """Body bytes of every request for `path` so far, as the access log has them."""
        lines = self.access_log.read_text().splitlines()
        found = (line.split('"')[1:3] for line in lines)
        return [int(after.split()[1]) for request, after in found if request.split()[1] == path]


class SlowOrigin:
    """bench.origin as a process: the same files at `rate` bytes/s in all, or for `each` connection."""

    def __init__(
        self,
        directory: Path,
        root: Path,
        identity: Identity,
        rate: int,
        *,
        each: bool = False,
        round_trip: float = 0.0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.rate = free_port(), rate
        self._identity = identity
        links = "each" if each else "shared"
        self._log = directory / f"sent-{rate}-{links}-{round_trip}.log"
        self._log.write_text("")
        files = [str(path) for path in (root, identity.leaf, identity.leaf_key, self._log)]
        pace = [str(rate), links, str(round_trip)]
        command = [sys.executable, "-m", "bench.origin", str(self.port), *pace, *files]
        self.process = Process(command, directory / "output.log", lambda: accepts(self.port))

    def route(self) -> Route:
        return Route(f"127.0.0.1:{self.port}", f"{HOST}:{self.port}", self._identity.ca)

    def sent(self, path: str) -> list[int]:
        """Body bytes of every request for `path` so far."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [int(size) for size, of in lines if of == path]


class Regproxy:
    """The proxy of this repository, `workers` of them, access log into a file, metrics on."""

    name = "regproxy"

    def __init__(
        self, directory: Path, identity: Identity, origin_ports: Sequence[int], workers: int = 1
    ) -> None:
        self.port, self._admin = free_port(), free_port()
        self._directory = directory
        self._cache = directory / "cache"
        directory.mkdir(parents=True, exist_ok=True)
        self._environ = {
            "REGISTRIES": " ".join(f"{HOST}:{port}" for port in origin_ports),
            "ENABLE_MANIFEST_CACHE": "true",
            "REGPROXY_RESOLVE": f"{HOST}=127.0.0.1",
            "REGPROXY_ALLOW_TARGETS": HOST,
            "REGPROXY_CONNECT_PORTS": "*",
            "REGPROXY_UPSTREAM_CA_FILE": str(identity.ca),
            "REGPROXY_LISTEN": f"127.0.0.1:{self.port}",
            "REGPROXY_ADMIN_LISTEN": f"127.0.0.1:{self._admin}",
            "REGPROXY_WORKERS": str(workers),
            "REGPROXY_CACHE_DIR": str(self._cache),
            "REGPROXY_CA_DIR": str(directory / "ca"),
            "REGPROXY_ACCESS_LOG": str(directory / "access.log"),
        }
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        settings = [f"{name}={value}" for name, value in self._environ.items()]
        return [*settings, sys.executable, "-m", "regproxy", "serve"]

    def start(self, settings: Mapping[str, str]) -> None:
        self._cache.mkdir(exist_ok=True)
        (self._directory / "ca").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "regproxy", "serve"]
        environ = {**self._environ, **settings}
        self._process = Process(command, self._directory / "output.log", self._ready, environ)

    def stop(self) -> None:
        if self._process:
            self._process.stop()
            self._process = None

    def empty(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def route(self, origin_port: int) -> Route:
        ca = self._directory / "ca" / "ca.crt"
        return Route(f"127.0.0.1:{self.port}", f"{HOST}:{origin_port}", ca, connect=True)

    def tunnel(self, port: int) -> Route:
        return Route(f"127.0.0.1:{self.port}", f"{HOST}:{port}", None, connect=True)

    def mirror(self) -> Route:
        return Route(f"127.0.0.1:{self.port}", f"127.0.0.1:{self.port}", None)
