"""Everything that runs during a benchmark, and what it takes to measure one load on one server."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from bench import loadgen
from bench.cpu import Usage
from bench.errors import BenchError
from bench.footprint import Memory, Watch
from bench.loadgen import Generator, Load, Plan, Result, Route
from bench.material import Item, Material, make_identity
from bench.servers import Nginx, Regproxy, SlowOrigin, Squid, Subject

SLOW_RATE = 20_000_000  # bytes/s, S5
MIDDLE_RATE = 150_000_000  # bytes/s, S4: the network is slower than the machine
ROUND_TRIP = 0.03  # s, S11
SETTLE = 0.1  # s; work that a server puts off to after the answer is still counted
BESIDE_DELAY = 0.3  # s; less than LEAD in bench/load/load.h by what it takes to open some connections
LOG_TIMEOUT = 5.0  # s; an origin logs a request a moment after the client has its last byte

Origin = Nginx | SlowOrigin


class SubjectName(StrEnum):
    """The proxies that can be measured."""

    REGPROXY = "regproxy"
    SQUID = "squid"


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one server: what the generator saw and what it cost the server."""

    server: str
    command: str
    result: Result
    cpu: float  # s, user + system, all processes of the server
    foreign: float  # cores that went to anything but the benchmark, on average
    beside: Result | None = None  # of the load that ran beside this one
    memory: Memory | None = None  # of all processes of the server, when it was over

    @property
    def cpu_per_gb(self) -> float:
        return self.cpu / self.result.bytes * 1e9

    @property
    def cpu_us_per_request(self) -> float:
        return self.cpu / self.result.requests * 1e6

    @property
    def gb_per_second(self) -> float:
        return self.result.bytes / self.result.seconds / 1e9


class Lab:
    """The servers of a benchmark: `peer` (nginx, static), `origin` and slower ones, and the `subject`.

    `workers`: processes of the subject and of its peer.
    """

    def __init__(self, work: Path, subject: SubjectName, workers: int = 1) -> None:
        self.workers = workers
        self.material = Material(work / "material")
        self.samples: list[Sample] = []
        identity = make_identity(work / "identity")
        root = self.material.root
        self._origins: list[Origin] = []
        for old in ("peer", "origin", "slow", "subject"):
            shutil.rmtree(work / old, ignore_errors=True)
        try:
            self.peer = Nginx(work / "peer", root, identity, workers)
            self._origins.append(self.peer)
            self.origin = Nginx(work / "origin", root, identity, digests=work / "digests.map")
            self._origins.append(self.origin)
            self.middle_origin = SlowOrigin(work / "slow", root, identity, MIDDLE_RATE)
            self._origins.append(self.middle_origin)
            self.slow_origin = SlowOrigin(work / "slow", root, identity, SLOW_RATE)
            self._origins.append(self.slow_origin)
            self.near_origin = SlowOrigin(work / "slow", root, identity, SLOW_RATE, each=True)
            self._origins.append(self.near_origin)
            self.far_origin = SlowOrigin(
                work / "slow", root, identity, SLOW_RATE, each=True, round_trip=ROUND_TRIP
            )
            self._origins.append(self.far_origin)
            self.subject: Subject
            if subject is SubjectName.REGPROXY:
                ports = [origin.port for origin in self._origins[1:]]
                self.subject = Regproxy(work / "subject", identity, ports, workers)
            else:
                self.subject = Squid(work / "subject", identity)
            self.restart()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if hasattr(self, "subject"):
            self.subject.stop()
            self.subject.empty()
        for server in self._origins:
            server.process.stop()

    def commands(self) -> list[str]:
        """How the servers were started, for the report."""
        started = [server.process.command for server in self._origins]
        return [shlex.join(command) for command in [*started, self.subject.command()]]

    def restart(self, settings: Mapping[str, str] | None = None) -> None:
        """Start the subject anew with an empty cache, and let it do everything once on a small blob."""
        self.subject.stop()
        self.subject.empty()
        self.subject.start(settings or {})
        small = self.material.blob(64 * 1024)
        for origin in self._origins[1:]:  # not the peer
            loadgen.run(self.through(origin), Load(small, count=2, verify=True))

    def through(self, origin: Origin) -> Route:
        """The way through the subject to `origin`."""
        return self.subject.route(origin.port)

    def warm(self, item: Item) -> None:
        """Have `item` in the subject's cache; its bytes and the peer's are checked by digest on the way."""
        check = Load(item, count=2, verify=True)
        loadgen.run(self.through(self.origin), check)
        loadgen.run(self.peer.route(), check)
        with self.untouched(item):
            loadgen.run(self.through(self.origin), check)

    @contextmanager
    def untouched(self, item: Item) -> Iterator[None]:
        """BenchError if the origin is asked for `item` meanwhile: then it was not the cache that answered."""
        before = len(self.origin.sent(item.path))
        yield
        asked = len(self.origin.sent(item.path)) - before
        if asked:
            raise BenchError(f"the cache was not warm: the origin was asked {asked} times for {item.path}")

    def on_subject(
        self, load: Load | Plan, origin: Origin | None = None, beside: Load | None = None
    ) -> Sample:
        """`load` on the subject; `beside` is a second one that lasts as long as the first."""
        route = self.through(origin or self.origin)
        return self._measure(self.subject.name, self.subject.pid, route, load, beside)

    def on_peer(self, load: Load | Plan, beside: Load | None = None) -> Sample:
        return self._measure("nginx", self.peer.process.pid, self.peer.route(), load, beside)

    def on_origin(self, load: Load, origin: Origin) -> Sample:
        """A direct download."""
        return self._measure("origin", origin.process.pid, origin.route(), load)

    def as_mirror(self, load: Load) -> Sample:
        """`load` on the subject without TLS and CONNECT: mirror mode."""
        registry = self.through(self.origin).host.replace(":", "%3A")
        item = replace(load.item, path=f"{load.item.path}?ns={registry}")
        route = self.subject.mirror()
        return self._measure(self.subject.name, self.subject.pid, route, replace(load, item=item))

    def on_plain_peer(self, load: Load) -> Sample:
        """The same file by nginx, without TLS."""
        return self._measure("nginx", self.peer.process.pid, self.peer.plain_route(), load)

    def in_tunnel(self, load: Load) -> Sample:
        """`load` without TLS, through a tunnel of the subject's to the origin."""
        route = self.subject.tunnel(self.origin.plain_port)
        return self._measure(self.subject.name, self.subject.pid, route, load)

    def on_plain_origin(self, load: Load) -> Sample:
        """The same without the tunnel."""
        return self._measure("origin", self.origin.process.pid, self.origin.plain_route(), load)

    def _measure(
        self, name: str, pid: int, route: Route, load: Load | Plan, beside: Load | None = None
    ) -> Sample:
        pids = [server.process.pid for server in self._origins] + [self.subject.pid]
        others = [other for other in pids if other != pid]
        watch = Watch(pid)
        before = Usage.now(pid, others)
        generator = Generator(route, load)
        background = self._beside(route, beside) if beside else None
        try:
            result = generator.result()
        finally:
            streams = background.finish() if background else None
        time.sleep(SETTLE)
        after = Usage.now(pid, others)
        generators = result.generator_cpu + (streams.generator_cpu if streams else 0)
        known = after.known - before.known + generators
        foreign = max(0.0, after.busy - before.busy - known) / (after.at - before.at)
        command = shlex.join(generator.command)
        cpu = after.server - before.server
        self.samples.append(Sample(name, command, result, cpu, foreign, streams, watch.memory()))
        return self.samples[-1]

    def _beside(self, route: Route, load: Load) -> Generator:
        """A load that begins when a paced one has its connections and has not begun to ask."""
        time.sleep(BESIDE_DELAY)
        return Generator(route, load)

    def downloads(self, origin: Origin, item: Item, fetch: Callable[[], Sample]) -> tuple[Sample, float]:
        """The sample of a cold `fetch`, and how often the origin sent the item meanwhile, by bytes."""
        before = len(origin.sent(item.path))
        sample = fetch()
        deadline = time.monotonic() + LOG_TIMEOUT
        while (sent := sum(origin.sent(item.path)[before:])) < item.size and time.monotonic() < deadline:
            time.sleep(0.02)
        times = sent / item.size
        if times < 1:
            raise BenchError(f"the cache was not cold: the origin sent {times:.2f} of {item.path}")
        return sample, times
