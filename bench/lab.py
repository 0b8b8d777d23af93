"""Everything that runs during a benchmark, and what it takes to measure one load on one server."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import loadgen
from bench.cpu import Usage
from bench.errors import BenchError
from bench.footprint import Memory, Watch
from bench.loadgen import Generator, Load, Plan, Result, Route
from bench.material import Item, Material, make_identity
from bench.peers import table
from bench.peers.base import Peer, Site
from bench.servers import Nginx, Regproxy, SlowOrigin

SLOW_RATE = 20_000_000  # bytes/s, S5
MIDDLE_RATE = 150_000_000  # bytes/s, S4: the network is slower than the machine
ROUND_TRIP = 0.03  # s, S11
SETTLE = 0.1  # s; work that a server puts off to after the answer is still counted
BESIDE_DELAY = 0.3  # s; less than LEAD in bench/load/load.h by what it takes to open some connections
LOG_TIMEOUT = 5.0  # s; an origin logs a request a moment after the client has its last byte
STORE_TIMEOUT = 60.0  # s; what a peer may need to have on disk what a client has already

DIRECT = "origin"  # what a download without anything between is called

Origin = Nginx | SlowOrigin


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

    `workers`: processes of the subject and of its peers. `peers`: names of those to compare with; they run
    only while they are needed (`caches`). `notes` says which of them were not measured, and why.
    """

    def __init__(self, work: Path, workers: int = 1, peers: Sequence[str] = table.USUAL) -> None:
        self.chosen, lacking = table.choose(peers)
        self.notes = [f"not measured: {name}: {reason}" for name, reason in lacking.items()]
        self.with_static = table.STATIC in peers
        self.workers = workers
        self._work = work
        self.material = Material(work / "material")
        self.samples: list[Sample] = []
        self._identity = identity = make_identity(work / "identity")
        root = self.material.root
        self._origins: list[Origin] = []
        self._caches: list[Peer] = []  # that run now
        self._peer_commands: dict[str, list[str]] = {}
        for old in ("peer", "origin", "slow", "subject", "caches"):
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
            ports = [origin.port for origin in self._origins[1:]]
            self.subject = Regproxy(work / "subject", identity, ports, workers)
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
        commands = [*started, self.subject.command(), *self._peer_commands.values()]
        return [shlex.join(command) for command in commands]

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
    def untouched(self, item: Item, whose: str = "the") -> Iterator[None]:
        """BenchError if the origin is asked for `item` meanwhile: then it was not the cache that answered."""
        before = self._asked(item)
        yield
        if asked := self._asked(item) - before:
            raise BenchError(
                f"{whose} cache was not warm: the origin was asked {asked} times for {item.path}"
            )

    def _asked(self, item: Item) -> int:
        """How often the origin was asked. It has one process, so whatever came before this has its line."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.origin.plain_port}/v2/", timeout=LOG_TIMEOUT).close()
        return len(self.origin.sent(item.path))

    @contextmanager
    def caches(self, origin: Origin, item: Item, *, together: bool = False) -> Iterator[list[Peer]]:
        """The chosen caching peers in front of `origin`, with empty caches, to be asked for `item`.

        `together`: by several clients at once. There is a note for each that has no use for that.
        """
        try:
            for kind in self.chosen:
                site = Site(self._work / "caches" / f"{kind.name}-{origin.port}", self._identity, origin.port)
                peer = kind(dataclasses.replace(site, workers=self.workers))
                if reason := peer.refuses(item) or (peer.separate if together else ""):
                    asked = f"{item.path} by several clients at once" if together else item.path
                    self.notes.append(f"not measured: {kind.name} asked for {asked}: {reason}")
                    continue
                self._caches.append(peer)
                self._peer_commands[kind.name] = peer.command()
                peer.restart()
            yield list(self._caches)
        finally:
            while self._caches:
                self._caches.pop().stop()
            shutil.rmtree(self._work / "caches", ignore_errors=True)

    def fill(self, peer: Peer, item: Item) -> None:
        """Have `item` in a peer's cache; BenchError if a second request for it reaches the origin."""
        check = Load(item, count=1, verify=True)
        loadgen.run(peer.route(), check)
        self._stored(peer, item)
        with self.untouched(item, f"{peer.name}'s"):
            loadgen.run(peer.route(), check)

    def _stored(self, peer: Peer, item: Item) -> None:
        deadline = time.monotonic() + STORE_TIMEOUT
        while not peer.stored(item):
            if time.monotonic() > deadline:
                raise BenchError(f"{peer.name} has not stored {item.path} after {STORE_TIMEOUT:g} s")
            time.sleep(0.01)

    def on_subject(
        self, load: Load | Plan, origin: Origin | None = None, beside: Load | None = None
    ) -> Sample:
        """`load` on the subject; `beside` is a second one that lasts as long as the first."""
        route = self.through(origin or self.origin)
        return self._measure(self.subject.name, self.subject.pid, route, load, beside)

    def on_cache(self, peer: Peer, load: Load) -> Sample:
        """`load` on a caching peer, until it has stored what it fetches for that."""
        route, item = peer.route(), load.item
        return self._measure(peer.name, peer.pid, route, load, until=lambda: self._stored(peer, item))

    def on_peer(self, load: Load | Plan, beside: Load | None = None) -> Sample:
        return self._measure(table.STATIC, self.peer.process.pid, self.peer.route(), load, beside)

    def on_origin(self, load: Load, origin: Origin) -> Sample:
        """A direct download."""
        return self._measure(DIRECT, origin.process.pid, origin.route(), load)

    def as_mirror(self, load: Load) -> Sample:
        """`load` on the subject without TLS and CONNECT: mirror mode."""
        registry = self.through(self.origin).host.replace(":", "%3A")
        item = dataclasses.replace(load.item, path=f"{load.item.path}?ns={registry}")
        route = self.subject.mirror()
        return self._measure(self.subject.name, self.subject.pid, route, dataclasses.replace(load, item=item))

    def on_plain_peer(self, load: Load) -> Sample:
        """The same file by nginx, without TLS."""
        return self._measure(table.STATIC, self.peer.process.pid, self.peer.plain_route(), load)

    def in_tunnel(self, load: Load) -> Sample:
        """`load` without TLS, through a tunnel of the subject's to the origin."""
        route = self.subject.tunnel(self.origin.plain_port)
        return self._measure(self.subject.name, self.subject.pid, route, load)

    def on_plain_origin(self, load: Load) -> Sample:
        """The same without the tunnel."""
        return self._measure(DIRECT, self.origin.process.pid, self.origin.plain_route(), load)

    def _measure(
        self,
        name: str,
        pid: int,
        route: Route,
        load: Load | Plan,
        beside: Load | None = None,
        until: Callable[[], None] | None = None,
    ) -> Sample:
        pids = [server.process.pid for server in self._origins] + [self.subject.pid]
        pids += [peer.pid for peer in self._caches]
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
        if until:
            until()
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
