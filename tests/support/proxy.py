"""The proxy itself, as a process of its own: `python -m regproxy serve` with an environment of its own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import ROOT, sanitized
from tests.support.byte_streams import Plain
from tests.support.client import Client, Reply, open_tunnel
from tests.support.processes import Daemon, free_address, wait_until

SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
STATUS = "X-Docker-Registry-Proxy-Cache-Upstream-Status"
TYPE = "X-Docker-Registry-Proxy-Cache-Type"
READY = re.compile(r"worker \d+ \(pid (\d+)\) is ready")
Labels = frozenset[tuple[str, str]]


class Proxy:
    """A running proxy; `env` is laid over what makes it run below `directory`, on free ports, one worker.

    `resolve` maps names to addresses for it (REGPROXY_RESOLVE), and these names may be loopback addresses
    (REGPROXY_ALLOW_TARGETS). `ca` is the PEM file that it trusts upstream. None as a value takes a variable
    away. `addresses`: where it is told to listen, for clients and for the admin port. `within`: a command
    that runs the command.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str | None] | None = None,
        *,
        registries: tuple[str, ...] = (),
        resolve: Mapping[str, str] | None = None,
        ca: Path | None = None,
        ready: bool = True,
        addresses: tuple[tuple[str, int], tuple[str, int]] | None = None,
        within: Iterable[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cache_dir, self.ca_dir = directory / "cache", directory / "ca"
        if addresses is None:
            addresses = (address := free_address()), free_address(address[0])
        self.address, self.admin_address = addresses
        self._log = directory / "access.log"
        names = dict(resolve or {})
        settings: dict[str, str | None] = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "REGPROXY_LISTEN": f"{self.address[0]}:{self.port}",
            "REGPROXY_ADMIN_LISTEN": f"{self.admin_address[0]}:{self.admin_port}",
            "REGPROXY_CACHE_DIR": str(self.cache_dir),
            "REGPROXY_CA_DIR": str(self.ca_dir),
            "REGPROXY_ACCESS_LOG": str(self._log),
            "REGPROXY_WORKERS": "1",
            "REGPROXY_FIRST_BYTE_TIMEOUT": "0",  # as PROXY_READ_TIMEOUT: silence is to end soon
            "REGPROXY_DEBUG": "1",
            "REGPROXY_RESOLVE": " ".join(f"{name}={address}" for name, address in names.items()),
            "REGPROXY_ALLOW_TARGETS": " ".join(names),
            "REGPROXY_UPSTREAM_CA_FILE": None if ca is None else str(ca),
            "REGISTRIES": " ".join(registries),
            **sanitized.environment(),
            **(env or {}),
        }
        command = [*within, sys.executable, "-m", "regproxy", "serve"]
        environment = {name: value for name, value in settings.items() if value is not None}
        self.daemon = Daemon("regproxy", command, directory=directory, env=environment)
        self._stopped: int | None = None
        if ready:
            try:
                self.daemon.wait_ready(self.ready)
            except BaseException:
                self.daemon.kill_group()
                raise

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def admin_port(self) -> int:
        return self.admin_address[1]

    @property
    def url(self) -> str:
        """The value of HTTPS_PROXY."""
        return f"http://{self.address[0]}:{self.port}"

    @property
    def ca_path(self) -> Path:
        """The CA certificate that clients have to trust."""
        return self.ca_dir / "ca.crt"

    @property
    def ca_pem(self) -> bytes:
        return self.ca_path.read_bytes()

    def ready(self) -> bool:
        """Tell whether GET /readyz says 200."""
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def admin(self, path: str) -> tuple[int, bytes]:
        """GET from the admin port: status and body."""
        url = f"http://{self.admin_address[0]}:{self.admin_port}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def client(self, target: str, **options: Any) -> Client:
        """Return a raw client that is through CONNECT and TLS to "host:port" (`client.open_tunnel`)."""
        return open_tunnel(self.address, target, self.ca_pem, **options)

    def metrics(self) -> dict[str, dict[Labels, float]]:
        """Return all samples: name -> {labels: value}."""
        status, text = self.admin("/metrics")
        assert status == 200, (status, text)
        return parse_metrics(text.decode())

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of that name that have these labels; 0 when there are none."""
        want = set(labels.items())
        return math.fsum(value for have, value in self.metrics().get(name, {}).items() if want <= have)

    def access_log(
        self, count: int = 0, *, check: Callable[[dict[str, Any]], bool] | None = None
    ) -> list[dict[str, Any]]:
        """Return the log's lines (for which `check` holds), parsed; waits until there are `count` of them."""

        def lines() -> tuple[list[dict[str, Any]]] | None:
            text = self._log.read_text() if self._log.exists() else ""
            found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            found = [line for line in found if check is None or check(line)]
            return (found,) if len(found) >= count else None

        return wait_until(lines, f"{count} lines in {self._log}")[0]

    def blobs(self) -> dict[str, int]:
        """Return what is in the store: sizes by digest."""
        place = self.cache_dir / "blobs" / "sha256"
        return {f"sha256:{path.name}": path.stat().st_size for path in place.glob("??/*")}

    def wait_kept(self, *digests: str) -> None:
        """Wait until these are in the store: clients have the last byte a moment before that."""
        wait_until(lambda: self.blobs().keys() >= set(digests), f"{digests} are kept")

    def parts(self) -> list[Path]:
        """Return the files of fills that are under way or were broken off."""
        return sorted((self.cache_dir / "parts").glob("*"))

    def log(self) -> str:
        """Return what the proxy said on stdout and stderr."""
        return self.daemon.log_tail(1 << 20)

    def pids(self) -> list[int]:
        """Return the ids of its processes: the one that was started, and its workers."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # ended meanwhile
                if os.getpgid(int(place.name)) == self.daemon.pid:
                    found.append(int(place.name))
        return sorted(found)

    def workers(self, count: int = 0) -> list[int]:
        """Return the ids of the workers that were once ready and still run; waits until there are `count`.

        They are in the order in which they became ready. The log has to be at level info.
        """

        def running() -> tuple[list[int]] | None:
            ready = [int(pid) for pid in READY.findall(self.log())]
            there = set(self.pids())
            found = [pid for pid in ready if pid in there and title(pid).startswith("worker-")]
            return (found,) if len(found) >= count else None

        return wait_until(running, f"{count} workers are ready\n{self.log()}")[0]

    def owner(self, client: Client) -> int:
        """Return the id of the worker that has this client's connection; waits until one has."""
        plain = client.layers[0]
        assert isinstance(plain, Plain)
        local = plain.sock.getsockname()

        def found() -> int | None:
            inode = _inode(plain.sock.getpeername(), local)
            for pid in self.pids():
                with contextlib.suppress(OSError):  # ended meanwhile
                    for link in Path(f"/proc/{pid}/fd").iterdir():
                        if str(link.readlink()) == f"socket:[{inode}]":
                            return pid
            return None

        return wait_until(found, f"somebody has {local}")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `regproxy WORDS` on this proxy's cache directory."""
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.directory),
            "REGPROXY_CACHE_DIR": str(self.cache_dir),
        }
        command = [sys.executable, "-m", "regproxy", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    def shelf(self) -> list[Path]:
        """Return the files that its processes keep their metrics in."""
        return sorted(Path("/dev/shm").glob(f"regproxy-metrics-{self.daemon.pid}-*/*"))

    def signal(self, number: signal.Signals) -> None:
        self.daemon.send(number)

    def stop(self, *, timeout: float = 20.0) -> int:
        """SIGTERM; the exit code. A process of its group that is left over is an AssertionError."""
        if self._stopped is not None:
            return self._stopped
        self.daemon.send(signal.SIGTERM)
        try:
            self._stopped = self.daemon.wait(timeout)
            assert not self.daemon.group_alive(), f"the proxy left processes behind\n{self.log()}"
        finally:
            self.daemon.kill_group()
        return self._stopped

    def kill(self) -> None:
        """End it at once, workers and all, as a power cut does."""
        self.daemon.kill_group()
        self._stopped = -signal.SIGKILL
        for place in Path("/dev/shm").glob(f"regproxy-metrics-{self.daemon.pid}-*"):
            shutil.rmtree(place)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()  # the test failed already: its own error is the one to show
        elif self._stopped is None:
            assert self.stop() == 0, self.log()


def title(pid: int) -> str:
    """Return what `ps` shows of a process, "" for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _inode(local: tuple[str, int], remote: tuple[str, int]) -> str:
    """Return the inode of an IPv4 socket, as /proc has it; "" if there is none."""
    ends = ((int.from_bytes(socket.inet_aton(host), sys.byteorder), port) for host, port in (local, remote))
    want = [f"{host:08X}:{port:04X}" for host, port in ends]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1:3] == want:
            return words[9]
    return ""


def parse_metrics(text: str) -> dict[str, dict[Labels, float]]:
    """Parse the text format 0.0.4: name -> {labels: value}; any other line is an AssertionError."""
    found: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        labels = frozenset((name, value) for name, value in LABEL.findall(match[2] or ""))
        found.setdefault(match[1], {})[labels] = float(match[3])
    return found


def said(reply: Reply) -> tuple[str | None, str | None]:
    """Return the cache's status and the kind of content, as docker-registry-proxy names them."""
    return reply.get(STATUS), reply.get(TYPE)


def cache_status(reply: Reply) -> str:
    """Return the Cache-Status field (RFC 9211 2): one member, ours."""
    (value,) = reply.all("Cache-Status")
    return value
