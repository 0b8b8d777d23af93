"""The load generator as a function: builds bench/loadgen.c at first use and runs it."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.material import HOST, Item

BENCH = Path(__file__).parent
BINARY = BENCH.parent / "build" / "bench" / "loadgen"

# The order in which Go offers them where AES is in hardware; the clients of registries are written in Go.
CIPHERSUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

# One Accept line per type, as containers/image sends them.
HEADERS = (
    "User-Agent: containers/5.23.1 (github.com/containers/image)",
    "Accept: application/vnd.oci.image.manifest.v1+json",
    "Accept: application/vnd.docker.distribution.manifest.v2+json",
    "Accept: application/vnd.docker.distribution.manifest.v1+prettyjws",
    "Accept: application/vnd.docker.distribution.manifest.v1+json",
    "Accept: application/vnd.docker.distribution.manifest.list.v2+json",
    "Accept: application/vnd.oci.image.index.v1+json",
    "Docker-Distribution-Api-Version: registry/2.0",
    "Accept-Encoding: gzip",
)


@dataclass(frozen=True, slots=True)
class Route:
    """How the generator reaches a server: TCP address, CONNECT target if it is a proxy, trust."""

    address: str  # IP:port
    host: str  # host:port of the Host field
    ca: Path | None  # None: plain HTTP
    connect: bool = False

    def options(self) -> list[str]:
        options = ["--addr", self.address, "--host", self.host]
        if self.connect:
            options += ["--proxy", self.host]
        if self.ca:
            options += ["--ca", str(self.ca), "--sni", HOST, "--ciphersuites", CIPHERSUITES]
        return options


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for: `count` requests in all, or new ones for `seconds`."""

    item: Item
    connections: int = 1
    count: int | None = None
    seconds: float | None = None
    fresh: bool = False  # a connection for every request
    rate: float | None = None  # requests/s in all; latency is then counted from the due time
    verify: bool = False  # sha256 of every body
    realtime: bool = False

    def options(self) -> list[str]:
        options = ["--path", self.item.path, "--bytes", str(self.item.size)]
        options += ["--connections", str(self.connections)]
        options += ["--count", str(self.count)] if self.count is not None else []
        options += ["--seconds", str(self.seconds)] if self.seconds is not None else []
        options += ["--rate", str(self.rate)] if self.rate is not None else []
        options += ["--sha256", self.item.sha256] if self.verify else []
        options += ["--fresh", "--header", "Connection: close"] if self.fresh else []
        options += ["--realtime"] if self.realtime else []
        for header in HEADERS:
            options += ["--header", header]
        return options


@dataclass(frozen=True, slots=True)
class Client:
    """Seconds from the start of the run; the first answer of each connection."""

    handshake: float
    first_byte: float
    last_byte: float


@dataclass(frozen=True, slots=True)
class Result:
    """What the generator saw; an error never gets here."""

    requests: int
    bytes: int  # of bodies
    seconds: float
    opened: int  # connections
    tls: str  # version and suite, "" without TLS
    generator_cpu: float  # s
    realtime: bool  # asked for and granted
    latency_us: dict[str, float]  # min p50 p90 p99 p999 max
    clients: tuple[Client, ...]


class Generator:
    """A load generator at work; `result` waits for it."""

    def __init__(self, route: Route, load: Load) -> None:
        self.command = [str(build()), *route.options(), *load.options()]
        self._process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> Result:
        """The result so far: no new requests, those on their way are waited for."""
        if self._process.poll() is not None:
            raise BenchError(f"ended before it was told to: {shlex.join(self.command)}")
        self._process.terminate()
        return self.result()

    def result(self) -> Result:
        """Raises BenchError if any answer was not what it had to be."""
        out, err = self._process.communicate()
        if self._process.returncode:
            reason = json.loads(out)["error"] if out else err.strip()
            raise BenchError(f"{reason}\n  {shlex.join(self.command)}")
        seen = json.loads(out)
        clients = tuple(Client(**client) for client in seen.pop("clients"))
        for name in ("errors", "error", "sha256"):
            del seen[name]
        return Result(**seen, clients=clients)


def run(route: Route, load: Load) -> Result:
    return Generator(route, load).result()


def build() -> Path:
    """The path of the binary, newer than its source; BenchError with the compiler's words otherwise."""
    source = BENCH / "loadgen.c"
    if not BINARY.exists() or BINARY.stat().st_mtime < source.stat().st_mtime:
        made = subprocess.run(["make", "-C", str(BENCH), "loadgen"], capture_output=True, text=True)
        if made.returncode:
            raise BenchError(made.stderr)
    return BINARY
