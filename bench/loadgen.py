"""The load generator as a function: builds bench/load at first use and runs it."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Void
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
    name: str = HOST  # in the handshake; "": that of each host

    def options(self) -> list[str]:
        options = ["--addr", self.address, "--host", self.host]
        options += ["--connect"] if self.connect else []
        if self.ca:
            options += ["--ca", str(self.ca), "--ciphersuites", CIPHERSUITES]
            options += ["--sni", self.name] if self.name else []
        return options


@dataclass(frozen=True, slots=True)
class Part:
    """A range of an item: its first byte, its length, the sha256 of its bytes in hex."""

    first: int
    size: int
    sha256: str

    def options(self) -> list[str]:
        asked = f"bytes={self.first}-{self.first + self.size - 1}"
        return ["--range", asked, "--bytes", str(self.size), "--sha256", self.sha256]

    @classmethod
    def all_of(cls, data: bytes, size: int) -> tuple[Part, ...]:
        """The ranges of `size` bytes that an item's bytes have, the last one maybe shorter."""
        cuts = {first: data[first : first + size] for first in range(0, len(data), size)}
        return tuple(cls(first, len(cut), hashlib.sha256(cut).hexdigest()) for first, cut in cuts.items())


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for: `count` requests in all, or new ones for `seconds`.

    Without `rate` the loop is closed: a connection asks again when it has its answer, and a server that
    pauses is asked less. With it the loop is open: each request has its time, from which latency counts.
    """

    item: Item
    connections: int = 1
    count: int | None = None
    seconds: float | None = None
    fresh: bool = False  # a connection for every request
    rate: float | None = None  # requests/s in all
    verify: bool = False  # sha256 of every body, not just of the first one
    trusted: bool = False  # of none: where hashing would be a part of what is measured
    realtime: bool = False
    parts: tuple[Part, ...] = ()  # ask for these, in turn, instead of the whole

    def options(self) -> list[str]:
        options = []
        for part in self.parts:
            options += ["--path", self.item.path, *part.options()]
        if not self.parts:
            options += [
                "--path",
                self.item.path,
                "--bytes",
                str(self.item.size),
                "--sha256",
                self.item.sha256,
            ]
        options += ["--check", "all" if self.verify else "none" if self.trusted else "first"]
        options += ["--connections", str(self.connections)]
        options += ["--count", str(self.count)] if self.count is not None else []
        options += ["--seconds", str(self.seconds)] if self.seconds is not None else []
        options += ["--rate", str(self.rate)] if self.rate is not None else []
        options += ["--fresh", "--header", "Connection: close"] if self.fresh else []
        options += ["--realtime"] if self.realtime else []
        return options + header_options()


@dataclass(frozen=True, slots=True)
class Plan:
    """A mix as the generator reads it (bench/mix/replay.py): what many clients ask for, each at its time."""

    file: Path
    verify: bool = False  # sha256 of every body that has one, not just of the first of each item
    cache_header: str = ""  # the field whose values are counted
    sources: bool = False  # each client from a loopback address of its own
    realtime: bool = False

    def options(self) -> list[str]:
        options = ["--mix", str(self.file), "--check", "all" if self.verify else "first"]
        options += ["--cache-header", self.cache_header] if self.cache_header else []
        options += ["--sources"] if self.sources else []
        options += ["--realtime"] if self.realtime else []
        return options + header_options()


def header_options() -> list[str]:
    return [option for header in HEADERS for option in ("--header", header)]


@dataclass(frozen=True, slots=True)
class Client:
    """Seconds from the start of the run; the first answer of each connection."""

    handshake: float
    first_byte: float
    last_byte: float


@dataclass(frozen=True, slots=True)
class Kind:
    """The answers of one kind. Latencies and first bytes count from when the request was due."""

    requests: int
    bytes: int  # of bodies, those that were dropped included
    dropped: int  # left on purpose; they have no latency
    latency_us: dict[str, float]  # as Result's
    first_byte_us: dict[str, float]
    cache: dict[str, int]  # how often the cache said what


@dataclass(frozen=True, slots=True)
class Result:
    """What the generator saw; an error never gets here, nor a run that was void.

    Percentiles are at most 0.1 % above the exact ones. `bottleneck` says why the generator was the limit:
    rates are then lower bounds, and latencies upper ones. In an open loop that voids the run, but for a lag
    that is merely notable beside the latencies.
    """

    loop: str  # open or closed
    requests: int
    bytes: int  # of bodies
    seconds: float
    opened: int  # connections
    retried: int  # requests that crossed the server's close of an idle connection
    tls: str  # version, suite and group of the key agreement, "" without TLS
    generator_cpu: float  # s
    generator_waited: float  # s, ready to run and without a core
    generator_busy: float  # share of the time, of both
    lag_us: dict[str, float]  # mean p99 max; how late the generator itself was
    bottleneck: str
    realtime: bool  # asked for and granted
    latency_us: dict[str, float]  # min p50 p90 p99 p999 max
    kinds: dict[str, Kind]
    clients: tuple[Client, ...]

    @classmethod
    def of(cls, seen: dict[str, Any]) -> Result:
        kinds = {name: Kind(**kind) for name, kind in seen.pop("kinds").items()}
        clients = tuple(Client(**client) for client in seen.pop("clients"))
        for name in ("errors", "error", "sha256", "void"):
            del seen[name]
        return cls(**seen, kinds=kinds, clients=clients)


class Generator:
    """A load generator at work; `result` waits for it."""

    def __init__(self, route: Route, load: Load | Plan) -> None:
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

    def result(self, *, even_void: bool = False) -> Result:
        """Raises BenchError if any answer was not what it had to be, Void if the run is void."""
        out, err = self._process.communicate()
        seen = json.loads(out) if out else {}
        if self._process.returncode:
            reason = seen["error"] if seen else err.strip()
            raise BenchError(f"{reason}\n  {shlex.join(self.command)}")
        if seen["void"] and not even_void:
            raise Void(f"void: {seen['bottleneck']}\n  {shlex.join(self.command)}")
        return Result.of(seen)


def run(route: Route, load: Load | Plan) -> Result:
    return Generator(route, load).result()


def build() -> Path:
    """The path of the binary, newer than its sources; BenchError with the compiler's words otherwise."""
    newest = max(path.stat().st_mtime for path in (BENCH / "load").glob("*.[ch]"))
    if not BINARY.exists() or BINARY.stat().st_mtime < newest:
        made = subprocess.run(["make", "-C", str(BENCH), "loadgen"], capture_output=True, text=True)
        if made.returncode:
            raise BenchError(made.stderr)
    return BINARY
