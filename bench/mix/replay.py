"""Replay a mix: the plan that the load generator reads, the way to a server, and the outcome as a table."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from rich.table import Table

from bench import loadgen
from bench.errors import BenchError
from bench.loadgen import Plan, Result, Route
from bench.mix.requests import Request

CACHE_HEADER = "X-Docker-Registry-Proxy-Cache-Upstream-Status"
HTTPS = ":443"


def plan_text(requests: Sequence[Request], speed: float = 1.0) -> str:
    """Requests, which are in the order of time, as bench/load/mix.c reads them."""
    items: dict[str, int] = {}
    clients: dict[str, int] = {}
    lines = []
    for request in requests:
        item = _item(request)
        if item not in items:
            items[item] = len(items)
            lines.append(f"I {item}\n")
        client = clients.setdefault(request.client, len(clients))
        drop = -1 if request.drop is None else request.drop
        lines.append(f"R {request.at / speed:.6f} {client} {items[item]} {drop}\n")
    return "".join(lines)


def _item(request: Request) -> str:
    status = request.status or (206 if request.range else 0)
    size = "-" if request.bytes is None else request.bytes
    host = request.host if ":" in request.host else request.host + HTTPS
    words = (request.kind, request.method, status, size, request.digest or "-", host, request.path)
    return " ".join(map(str, (*words, request.range or "-")))


def mirrored(requests: Sequence[Request], mirror: str) -> list[Request]:
    """The same of a mirror, as containerd asks it: the registry in `ns`."""

    def path(request: Request) -> str:
        return f"{request.path}{'&' if '?' in request.path else '?'}ns={quote(request.host, safe='')}"

    return [replace(request, host=mirror, path=path(request), sha256=request.digest) for request in requests]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a mix is replayed: a proxy (by CONNECT), a mirror, or else a server that is each host itself."""

    address: str  # host:port
    ca: Path | None  # None: plain HTTP
    proxy: bool = False
    mirror: bool = False

    def route(self) -> Route:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise BenchError(f"not HOST:PORT: {self.address}")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][4]
        except OSError as error:
            raise BenchError(f"{self.address}: {error}") from None
        ip = str(found[0])
        ip = f"[{ip}]" if ":" in ip else ip
        return Route(f"{ip}:{port}", self.address, self.ca, connect=self.proxy, name="")


def replay(
    requests: Sequence[Request],
    server: Server,
    *,
    speed: float = 1.0,
    verify: bool = False,
    realtime: bool = False,
) -> Result:
    """Ask for all of these; BenchError if any answer is wrong, or if the generator was too slow for it."""
    route = server.route()
    if server.mirror:
        requests = mirrored(requests, server.address)
    with tempfile.NamedTemporaryFile("w", prefix="mix-", suffix=".plan") as file:
        file.write(plan_text(requests, speed))
        file.flush()
        plan = plan_of(Path(file.name), route, verify=verify)
        return loadgen.run(route, replace(plan, realtime=realtime))


def plan_of(file: Path, route: Route, *, verify: bool = False) -> Plan:
    """At a loopback address each client gets one of its own, so that the server can tell them apart."""
    return Plan(file, verify, CACHE_HEADER, sources=route.address.startswith("127."))


def table(result: Result) -> Table:
    """A row for each kind of request."""
    shown = Table(box=None, header_style="bold")
    columns = (
        "kind",
        "requests",
        "dropped",
        "MB",
        "first byte p50, ms",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "cache",
    )
    for name in columns:
        shown.add_column(name, justify="left" if name in ("kind", "cache") else "right")
    for name, kind in sorted(result.kinds.items()):
        times = [f"{kind.latency_us[at] / 1e3:.2f}" for at in ("p50", "p90", "p99", "p999", "max")]
        first = f"{kind.first_byte_us['p50'] / 1e3:.2f}"
        said = " ".join(f"{word or '-'}:{count}" for word, count in kind.cache.items())
        shown.add_row(
            name, str(kind.requests), str(kind.dropped), f"{kind.bytes / 1e6:.1f}", first, *times, said
        )
    return shown


def summary(result: Result) -> str:
    """What the rows do not say: rates, and what the generator itself took."""
    rate, speed = result.requests / result.seconds, result.bytes / result.seconds / 1e6
    lag = result.lag_us
    lines = [
        f"{result.requests} requests in {result.seconds:.2f} s, {rate:.0f}/s, {speed:.0f} MB/s, by"
        f" {result.opened} connections; latencies count from the times in the mix (open loop)",
        f"generator: {result.generator_cpu:.2f} CPU s, busy {result.generator_busy:.0%}; its lag: mean"
        f" {lag['mean'] / 1e3:.2f} ms, p99 {lag['p99'] / 1e3:.2f} ms, max {lag['max'] / 1e3:.2f} ms",
    ]
    if result.bottleneck:
        lines.append(f"MARKED: {result.bottleneck}")
    return "\n".join(lines)
