"""What one machine serves, by the figures of a run: the model of docs/capacity.md.

`python -m bench.capacity figures.json --cores 16 --line 10` shows the tables for a machine of yours. The
formulas are in the page; each function here is one of them. GB is 10^9 bytes, times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console

from bench.errors import BenchError
from bench.pages import NOTHING, markdown
from bench.results import Results

PAYLOAD = 1448 / 1538 * 16384 / 16406  # of a line's bits: Ethernet, IP, TCP with timestamps, TLS 1.3 records
HIT_BYTES = 3_400  # a manifest of 2.7 kB with its head
AES = (1.0, 3.4, 10.4)  # GB/s of one core: an old one, OpenSSL 3.0 with AES-NI, 3.5 with VAES
NODES = 200
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds of each unit of work, as measured; `aes` is what the machine's cipher did meanwhile."""

    gigabyte: float  # cached blob, by TLS
    hit: float  # cached manifest
    connection: float  # CONNECT, handshake, one manifest
    cold_gigabyte: float  # fetched, verified, stored, sent to one client
    idle: float  # bytes of memory for a connection
    aes: float  # GB/s of one core

    @classmethod
    def of(cls, results: Results) -> Self:
        """BenchError if a figure that the model needs was not measured."""
        return cls(
            gigabyte=_median(results, "S1", "s/GB"),
            hit=_median(results, "S2", "us/request") / 1e6,
            connection=_median(results, "S3", "us") / 1e6,
            cold_gigabyte=_median(results, "S4", "s/GB"),
            idle=_median(results, "S9", "kB") * 1e3,
            aes=_speed(results),
        )

    def with_aes(self, speed: float) -> Costs:
        """The same where AES-GCM does `speed` GB/s a core: only that part of a byte's cost changes."""
        change = 1 / speed - 1 / self.aes
        return replace(
            self,
            gigabyte=self.gigabyte + change,
            cold_gigabyte=self.cold_gigabyte
            + 2 * change,  # decrypted from the origin, encrypted to the client
            aes=speed,
        )


def _median(results: Results, scenario: str, unit: str) -> float:
    found = (it for it in results.figures if it.scenario == scenario and it.unit == unit and not it.axis)
    figure = next(found, None)
    if figure is None:
        raise BenchError(f"the model needs {scenario}, which this run has not measured")
    return figure.own.median


def _speed(results: Results) -> float:
    if "aes-128-gcm" not in results.speeds:
        raise BenchError("the model needs the speed of aes-128-gcm, which this run has not measured")
    return results.speeds["aes-128-gcm"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What it is bought by. `efficiency` is what is left of a core where all are busy: an assumption."""

    cores: int
    line: float = 25.0  # Gb/s, each way
    efficiency: float = 0.75
    memory: float = 64.0  # GB
    disk_read: float = 3.0  # GB/s
    disk_write: float = 1.5  # GB/s
    syncs: float = 2_000.0  # fdatasync a second

    @property
    def name(self) -> str:
        return f"{self.cores} cores, {self.line:g} Gb/s"

    @property
    def cpu(self) -> float:
        """CPU seconds in a second."""
        return self.cores * self.efficiency

    @property
    def wire(self) -> float:
        """GB/s of bodies that the line carries each way."""
        return self.line / 8 * PAYLOAD


@dataclass(frozen=True, slots=True)
class Mix:
    """What one node pulls when a deployment rolls; all nodes pull the same."""

    name: str
    gigabytes: float  # compressed layers
    layers: int
    requests: int  # HEAD of tags, indexes, manifests, configs
    connections: int


NEW_VERSION = Mix("a new version of one image: 60 MB in 3 layers, the others held", 0.06, 3, 5, 4)
NEW_NODE = Mix("a new node: 10 images, 1.5 GB in 60 layers", 1.5, 60, 40, 25)
MIXES = (NEW_VERSION, NEW_NODE)
MACHINES = (Machine(8), Machine(32, efficiency=0.65, memory=128, disk_write=2.0))


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate, and what it ends by."""

    rate: float
    by: str


def least(**rates: float) -> Limit:
    """The lowest of several bounds."""
    by, rate = min(rates.items(), key=lambda pair: pair[1])
    return Limit(rate, by.replace("_", " "))


def throughput(costs: Costs, machine: Machine) -> Limit:
    """GB/s of cached blobs out of the page cache."""
    return least(CPU=machine.cpu / costs.gigabyte, line=machine.wire)


def uncached_throughput(costs: Costs, machine: Machine) -> Limit:
    """GB/s of cached blobs that the page cache does not hold."""
    return least(CPU=machine.cpu / costs.gigabyte, line=machine.wire, disk=machine.disk_read)


def hits(costs: Costs, machine: Machine) -> Limit:
    """Cached manifests a second, on connections kept alive."""
    return least(CPU=machine.cpu / costs.hit, line=machine.wire * 1e9 / HIT_BYTES)


def accepts(costs: Costs, machine: Machine) -> Limit:
    """New connections a second, each with one request."""
    return least(CPU=machine.cpu / costs.connection)


def idle(costs: Costs, machine: Machine) -> Limit:
    """Connections kept alive in a quarter of the memory; the rest is the page cache's."""
    return least(memory=machine.memory * 1e9 / 4 / costs.idle)


def cold(costs: Costs, machine: Machine) -> Limit:
    """GB/s that are fetched, verified and stored, where registries and blob sizes allow it."""
    return least(CPU=machine.cpu / costs.cold_gigabyte, line=machine.wire, disk=machine.disk_write)


def stored(costs: Costs, machine: Machine) -> Limit:
    """New blobs a second: each is synchronised once, and 4 kB are the smallest that is worth counting."""
    return least(CPU=machine.cpu / (costs.hit + costs.cold_gigabyte * 4e-6), fdatasync=machine.syncs)


def single(costs: Costs, machine: Machine) -> Limit:
    """GB/s of one connection: one worker serves it."""
    return least(one_core=1 / costs.gigabyte, line=machine.wire)


def node_cpu(costs: Costs, mix: Mix) -> float:
    """CPU seconds of a node's pulls."""
    small = (mix.requests + mix.layers) * costs.hit
    return mix.connections * costs.connection + small + mix.gigabytes * costs.gigabyte


def nodes(costs: Costs, machine: Machine, mix: Mix) -> Limit:
    """Nodes a minute."""
    return least(CPU=60 * machine.cpu / node_cpu(costs, mix), line=60 * machine.wire / mix.gigabytes)


def rollout(costs: Costs, machine: Machine, mix: Mix, count: int, origin: float) -> Limit:
    """Seconds until `count` nodes have everything, nothing being held before; `origin` in Gb/s."""
    times = {
        "the registry's line": mix.gigabytes / (origin / 8 * PAYLOAD),
        "line": count * mix.gigabytes / machine.wire,
        "CPU": (count * node_cpu(costs, mix) + mix.gigabytes * costs.cold_gigabyte) / machine.cpu,
        "disk": mix.gigabytes / machine.disk_write,
    }
    by, longest = max(times.items(), key=lambda pair: pair[1])
    return Limit(longest, by)


# --- tables ----------------------------------------------------------------------------------------------

Formula = Callable[[Costs, Machine], Limit]
ROWS: tuple[tuple[str, Formula], ...] = (
    ("cached blobs, GB/s", throughput),
    ("the same where the disk has to be read, GB/s", uncached_throughput),
    ("one connection, GB/s", single),
    ("cached manifests a second", hits),
    ("new connections a second", accepts),
    ("connections kept alive", idle),
    ("fetched and stored, GB/s", cold),
    ("small blobs stored a second", stored),
)


def machine_table(costs: Costs, machines: Sequence[Machine]) -> str:
    """What each machine serves, and by what it ends."""
    rows = [[name, *(shown(formula(costs, machine)) for machine in machines)] for name, formula in ROWS]
    rows += [
        [f"nodes a minute, {mix.name}", *(shown(nodes(costs, machine, mix)) for machine in machines)]
        for mix in MIXES
    ]
    return markdown(["", *(machine.name for machine in machines)], rows)


def rollout_table(costs: Costs, machines: Sequence[Machine]) -> str:
    """Seconds for NODES nodes with a cache that holds nothing of it, by the registry's rate."""
    rows = [
        [mix.name, f"{origin:g} Gb/s", *(shown(rollout(costs, it, mix, NODES, origin)) for it in machines)]
        for mix in MIXES
        for origin in (0.2, 1.0, 10.0)
    ]
    return markdown([f"{NODES} nodes", "from the registry", *(f"{it.name}, s" for it in machines)], rows)


def aes_table(costs: Costs, machines: Sequence[Machine]) -> str:
    """The same GB by ciphers of other speeds."""
    rows = []
    for speed in sorted({*AES, costs.aes}):
        other = costs.with_aes(speed)
        where = f"{speed:.1f}" + (", as measured" if speed == costs.aes else "")
        rows.append([where, two(other.gigabyte), *(shown(throughput(other, it)) for it in machines)])
    return markdown(["AES-GCM, GB/s a core", "CPU, s/GB", *(f"{it.name}, GB/s" for it in machines)], rows)


def cost_table(costs: Costs) -> str:
    """What the model is fed."""
    rows = [
        ["*b*", "S1", "cached blob", f"{two(costs.gigabyte)} s/GB"],
        ["*h*", "S2", "cached manifest", f"{two(costs.hit * 1e6)} us"],
        ["*c*", "S3", "new connection", f"{two(costs.connection * 1e6)} us"],
        ["*f*", "S4", "cold blob", f"{two(costs.cold_gigabyte)} s/GB"],
        ["*m*", "S9", "memory of an idle connection", f"{two(costs.idle / 1e3)} kB"],
        ["*g*", "", "AES-128-GCM, one core", f"{two(costs.aes)} GB/s"],
    ]
    return markdown(["", "from", "", ""], rows)


def assumption_table(machines: Sequence[Machine]) -> str:
    rows = [
        ["*n* cores, *e* efficiency", *(f"{it.cores}, {it.efficiency:g}" for it in machines)],
        ["*L* line, GB/s of bodies", *(two(it.wire) for it in machines)],
        ["*M* memory, GB", *(f"{it.memory:g}" for it in machines)],
        ["*r* disk read, *w* write, GB/s", *(f"{it.disk_read:g}, {it.disk_write:g}" for it in machines)],
        ["*s* fdatasync a second", *(f"{it.syncs:,.0f}" for it in machines)],
    ]
    return markdown(["assumed", *(it.name for it in machines)], rows)


def shown(limit: Limit) -> str:
    return f"{two(limit.rate)} ({limit.by})"


def two(value: float) -> str:
    """Two digits that count: 0.63, 13, 2,900."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def makers(results: Results) -> dict[str, Callable[[], str]]:
    """What makes each block of docs/capacity.md."""

    def from_costs(table: Callable[[Costs], str]) -> Callable[[], str]:
        def make() -> str:
            try:
                return table(Costs.of(results))
            except BenchError as error:
                return f"{NOTHING.strip()[:-1]}: {error}.\n"

        return make

    return {
        "capacity-costs": from_costs(cost_table),
        "capacity-assumed": lambda: assumption_table(MACHINES),
        "capacity-machines": from_costs(lambda costs: machine_table(costs, MACHINES)),
        "capacity-rollout": from_costs(lambda costs: rollout_table(costs, MACHINES)),
        "capacity-aes": from_costs(lambda costs: aes_table(costs, MACHINES)),
    }


def main(
    raw: Annotated[Path, typer.Argument(help="figures.json of a run")],
    cores: Annotated[int, typer.Option(help="of the machine")] = 8,
    line: Annotated[float, typer.Option(help="Gb/s, each way")] = 25.0,
    efficiency: Annotated[float, typer.Option(help="what is left of a core where all are busy")] = 0.75,
    memory: Annotated[float, typer.Option(help="GB")] = 64.0,
    aes: Annotated[float | None, typer.Option(help="GB/s of AES-128-GCM by one core (openssl speed)")] = None,
) -> None:
    """Show what a machine serves by the figures of a run."""
    try:
        costs = Costs.of(Results.load(raw))
    except BenchError as error:
        console.print(f"FAILED: {error}", markup=False)
        raise typer.Exit(1) from None
    if aes is not None:
        costs = costs.with_aes(aes)
    machines = [Machine(cores, line, efficiency, memory)]
    for table in (cost_table(costs), machine_table(costs, machines), rollout_table(costs, machines)):
        console.print(table, markup=False)


if __name__ == "__main__":
    typer.run(main)
