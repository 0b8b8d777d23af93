"""The scenarios, their targets, and how much of each a mode runs.

A scenario is a function of a Lab and a Plan that returns Figures; SCENARIOS names them all. GB is 10^9
bytes. Every comparison is A B A B (with several peers A B C D A B C D). What a side needs to be warm comes
before that and does not count; cold rolls (S13) have no round of their own for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from bench.figures import Figure, Side, Target
from bench.lab import DIRECT, Lab, Origin, Sample
from bench.loadgen import Load
from bench.material import Item
from bench.mix.scenario import Roll, held, measures
from bench.negotiated import differing
from bench.peers.base import Peer
from bench.peers.table import STATIC

MIB = 1 << 20
BLOB = 32_000_000  # S1, S6 and S8
TUNNELLED = 256 * MIB  # S7, each answer
WAITERS = 8  # S5
STREAMS = 4  # S8
SPLIT, SPLIT_SIZE = 4, 256_000_000  # S11, the streams and bytes that its target is for
PROBE_RATE = 200.0  # requests/s, S8
PROBES = 64  # connections that share it: an answer may take 300 ms before it delays the next request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much a mode runs; counts are for one side of one pair."""

    pairs: int
    blobs: int  # S1, S6
    requests: int  # S2
    connections: int  # S3
    cold: int  # bytes, S4
    middle: int  # bytes, S4 behind 150 MB/s
    slow: int  # bytes, S5
    peers_wait: bool  # S5: the peers are asked, too
    tunnelled: int  # S7, times TUNNELLED
    probe_seconds: float  # S8
    idle: int  # connections, S9
    deaf: int  # connections, S10
    limited: int  # bytes, S11
    streams: tuple[int, ...]  # S11
    rolls: int  # S13, with the image held: a roll is thousands of requests, and no target judges it
    roll_seconds: float  # S13
    roll_image: int  # bytes, S13
    curve_pairs: int  # a curve is read by its shape
    curve_connections: tuple[int, ...]  # G1
    curve_sizes: tuple[int, ...]  # bytes, G2
    curve_blobs: tuple[int, ...]  # G3


PLANS = {
    "short": Plan(
        pairs=5,  # fewer would judge no target
        blobs=12,
        requests=8_000,
        connections=400,
        cold=128 * MIB,
        middle=64 * MIB,
        slow=40_000_000,
        peers_wait=False,
        tunnelled=2,
        probe_seconds=1.2,
        idle=250,
        deaf=100,
        limited=24_000_000,
        streams=(4,),
        rolls=2,
        roll_seconds=5,
        roll_image=4_000_000,
        curve_pairs=2,
        curve_connections=(1, 1_000),
        curve_sizes=(4_000, 1_000_000, 256_000_000),
        curve_blobs=(1_000, 100_000),
    ),
    "full": Plan(
        pairs=7,
        blobs=100,
        requests=100_000,
        connections=3_000,
        cold=1024 * MIB,
        middle=1024 * MIB,
        slow=256_000_000,
        peers_wait=True,
        tunnelled=16,
        probe_seconds=5,
        idle=1_000,
        deaf=500,
        limited=256_000_000,
        streams=(1, 2, 4, 8),
        rolls=7,
        roll_seconds=20,
        roll_image=20_000_000,
        curve_pairs=5,
        curve_connections=(1, 10, 100, 1_000),
        curve_sizes=(4_000, 64_000, 1_000_000, 16_000_000, 256_000_000, 1_000_000_000),
        curve_blobs=(1_000, 100_000, 1_000_000),
    ),
}


def at_most(limit: float) -> Target:
    return Target("value", "<=", limit)


def ratio_at_most(limit: float, peer: str = "") -> Target:
    return Target("ratio", "<=", limit, peer)


def ratio_at_least(limit: float, peer: str = "") -> Target:
    return Target("ratio", ">=", limit, peer)


def in_turn(pairs: int, *sides: Callable[[], Sample]) -> list[tuple[Sample, ...]]:
    """A B A B, the subject first."""
    return [tuple(side() for side in sides) for _ in range(pairs)]


def alternate(pairs: int, *sides: Callable[[], Sample]) -> list[tuple[Sample, ...]]:
    """A B A B, the subject first; what comes first on each side is a warm-up and does not count."""
    return in_turn(pairs + 1, *sides)[1:]


def compared(
    scenario: str,
    name: str,
    unit: str,
    pairs: Sequence[tuple[Sample, ...]],
    value: Callable[[Sample], float],
    *targets: Target,
) -> Figure:
    """A figure of all sides of each round: the subject, then its peers."""
    own, *peers = zip(*pairs, strict=True)
    sides = tuple(Side(side[0].server, tuple(map(value, side))) for side in peers)
    return Figure(scenario, name + differing(pairs), unit, tuple(map(value, own)), sides, targets)


def cached(lab: Lab, plan: Plan, load: Load) -> list[tuple[Sample, ...]]:
    """`load` on the subject with a warm cache, beside nginx with the same file and each peer's warm cache.

    Before that each side is warmed up with a quarter as many requests, which do not count.
    """
    assert load.count is not None
    warm_up = dataclasses.replace(load, count=max(load.connections, load.count // 4))
    lab.warm(load.item)
    sides: list[Callable[[Load], Sample]] = [lab.on_subject]
    if lab.with_static:
        sides.append(lab.on_peer)
    with lab.caches(lab.origin, load.item) as peers:
        for peer in peers:
            lab.fill(peer, load.item)
            sides.append(partial(enough_on, lab, peer))
        with lab.untouched(load.item):
            for side in sides:
                side(warm_up)
            return in_turn(plan.pairs, *(partial(side, load) for side in sides))


def enough_on(lab: Lab, peer: Peer, load: Load) -> Sample:
    return lab.on_cache(peer, peer.enough(load))


def cached_blob(lab: Lab, plan: Plan) -> list[Figure]:
    """S1: a blob of 32 MB from the cache, one connection for each worker."""
    load = Load(lab.material.blob(BLOB), connections=lab.workers, count=plan.blobs * lab.workers)
    pairs = cached(lab, plan, load)
    return [
        compared(
            "S1",
            "cached blob, CPU",
            "s/GB",
            pairs,
            lambda s: s.cpu_per_gb,
            ratio_at_most(0.65, STATIC),
            Target("value", "<=", 0.40, openssl="3.5"),
        ),
        compared(
            "S1",
            "cached blob, throughput",
            "GB/s",
            pairs,
            lambda s: s.gb_per_second,
            ratio_at_least(1.5, STATIC),
        ),
    ]


def cached_manifest(lab: Lab, plan: Plan) -> list[Figure]:
    """S2: a manifest of 2.7 kB from the cache, by digest and by tag, keep-alive on 8 connections."""
    figures = []
    for name, item in (("by digest", lab.material.manifest()), ("by tag", lab.material.tagged())):
        pairs = cached(lab, plan, Load(item, connections=8, count=plan.requests))
        figures += [
            compared(
                "S2",
                f"cached manifest {name}, CPU",
                "us/request",
                pairs,
                lambda s: s.cpu_us_per_request,
                ratio_at_most(0.65, STATIC),
            ),
            compared(
                "S2", f"cached manifest {name}, p99", "ms", pairs, lambda s: s.result.latency_us["p99"] / 1e3
            ),
        ]
    return figures


def new_connection(lab: Lab, plan: Plan) -> list[Figure]:
    """S3: CONNECT, handshake, one manifest, close; all but squid are spared the CONNECT."""
    load = Load(lab.material.manifest(), connections=4, count=plan.connections, fresh=True)
    pairs = cached(lab, plan, load)
    return [
        compared(
            "S3",
            "new connection, CPU",
            "us",
            pairs,
            lambda s: s.cpu_us_per_request,
            ratio_at_most(1.0, STATIC),
        ),
        compared("S3", "new connection, p50", "ms", pairs, lambda s: s.result.latency_us["p50"] / 1e3),
    ]


def cold_fetch(
    lab: Lab, load: Load, origin: Origin, settings: Mapping[str, str] | None = None
) -> tuple[Sample, float]:
    """A load on the subject with an empty cache, and the number of downloads from the origin it took."""
    lab.restart(settings)
    return lab.downloads(origin, load.item, lambda: lab.on_subject(load, origin))


def cold_blob(lab: Lab, plan: Plan) -> list[Figure]:
    """S4: a blob that is not in the cache, one client, from a fast origin and from one behind 150 MB/s.

    Ours beside a download from the origin itself; from the fast one beside the peers' empty caches too.
    """
    item = lab.material.blob(plan.cold)
    with lab.caches(lab.origin, item) as peers:
        fast = cold_rounds(lab, plan, item, lab.origin, peers)
    middle = cold_rounds(lab, plan, lab.material.blob(plan.middle), lab.middle_origin)
    cpu = [(own, *others) for own, _, *others in fast]
    wall = ratio_at_most(1.9, DIRECT)
    return [
        compared("S4", "cold blob, CPU", "s/GB", cpu, lambda s: s.cpu_per_gb, at_most(1.9)),
        compared("S4", "cold blob, wall", "s", fast, lambda s: s.result.seconds, wall),
        compared(
            "S4",
            "cold blob, origin at 150 MB/s, wall",
            "s",
            middle,
            lambda s: s.result.seconds,
            ratio_at_most(1.02, DIRECT),
        ),
    ]


def cold_rounds(
    lab: Lab, plan: Plan, item: Item, origin: Origin, peers: Sequence[Peer] = ()
) -> list[tuple[Sample, ...]]:
    """Through the subject with an empty cache, a download from the origin itself, and through each peer."""
    check = Load(item, count=1, verify=True)
    cold_fetch(lab, check, origin)
    load = Load(item, count=1, trusted=True)  # hashing would be a part of all walls
    for peer in peers:
        cold_peer(lab, peer, check, origin)
    return in_turn(  # the checked fetch was the warm-up, of the origin too
        plan.pairs,
        lambda: cold_fetch(lab, load, origin)[0],
        lambda: lab.on_origin(load, origin),
        *(lambda peer=peer: cold_peer(lab, peer, load, origin)[0] for peer in peers),
    )


def cold_peer(lab: Lab, peer: Peer, load: Load, origin: Origin) -> tuple[Sample, float]:
    """A load on a peer with an empty cache, and the number of downloads from the origin it took."""
    peer.restart()
    return lab.downloads(origin, load.item, lambda: lab.on_cache(peer, load))


def waiters(lab: Lab, plan: Plan) -> list[Figure]:
    """S5: 8 clients ask at once for a blob that is not in the cache; the origin sends 20 MB/s.

    Beside one direct download; in full runs the same 8 at those peers that fetch once for all of them.
    """
    item, origin = lab.material.blob(plan.slow), lab.slow_origin
    load = Load(item, connections=WAITERS, count=WAITERS)
    check = dataclasses.replace(load, verify=True)
    asked: AbstractContextManager[list[Peer]] = nullcontext([])
    if plan.peers_wait:
        asked = lab.caches(origin, item, together=True)
    with asked as peers:
        cold_fetch(lab, check, origin)
        for peer in peers:
            cold_peer(lab, peer, check, origin)
        rounds = [
            (
                cold_fetch(lab, load, origin),
                lab.on_origin(Load(item, count=1), origin),
                [cold_peer(lab, peer, load, origin) for peer in peers],
            )
            for _ in range(plan.pairs)
        ]
    counted = [(own, *others) for own, _, others in rounds]
    samples = [tuple(sample for sample, _ in each) for each in counted]
    wall = [(own, direct, *others) for (own, *others), (_, direct, _) in zip(samples, rounds, strict=True)]
    return [
        downloads(counted),
        compared("S5", "8 waiters, first byte of the last one", "s", samples, last_first_byte, at_most(0.1)),
        compared(
            "S5",
            "8 waiters, last one done",
            "s",
            wall,
            lambda s: s.result.seconds,
            ratio_at_most(1.03, DIRECT),
        ),
    ]


def downloads(rounds: Sequence[tuple[tuple[Sample, float], ...]]) -> Figure:
    """How often the origin sent the item for each side of each round."""
    own, *peers = zip(*rounds, strict=True)
    sides = tuple(Side(side[0][0].server, tuple(times for _, times in side)) for side in peers)
    values = tuple(times for _, times in own)
    return Figure("S5", "8 waiters, downloads from the origin", "", values, sides, (at_most(1.0),))


def last_first_byte(sample: Sample) -> float:
    return max(client.first_byte for client in sample.result.clients)


def limited(lab: Lab, plan: Plan) -> list[Figure]:
    """S11: a cold blob, one client; the origin gives each connection 20 MB/s, here and 30 ms away."""
    return [
        figure
        for origin, where in ((lab.near_origin, ""), (lab.far_origin, " 30 ms away"))
        for figure in by_streams(lab, plan, origin, f"20 MB/s for each connection{where}")
    ]


def by_streams(lab: Lab, plan: Plan, origin: Origin, where: str) -> list[Figure]:
    """By 1, 2, ... streams, beside one direct download in each round; the first round checks the digests."""
    item = lab.material.blob(plan.limited)
    rounds: list[tuple[Sample, list[tuple[Sample, float]]]] = []
    for number in range(plan.pairs + 1):
        load = Load(item, count=1, verify=number == 0)
        own = [
            cold_fetch(lab, load, origin, {"REGPROXY_FILL_STREAMS": str(streams)}) for streams in plan.streams
        ]
        rounds.append((lab.on_origin(load, origin), own))
    figures = []
    for at, streams in enumerate(plan.streams):
        name = f"{where}, {streams} streams"
        split = streams == SPLIT and item.size >= SPLIT_SIZE and origin is lab.near_origin
        target = ratio_at_most(0.29 if split else 1.02, DIRECT)
        pairs = [(own[at][0], direct) for direct, own in rounds[1:]]
        beyond = tuple((own[at][1] - 1) * item.size / 1e6 for _, own in rounds[1:])
        cpu = tuple(mine.cpu_per_gb for mine, _ in pairs)
        figures += [
            compared("S11", f"{name}, wall", "s", pairs, lambda s: s.result.seconds, target),
            Figure("S11", f"{name}, CPU", "s/GB", cpu),
            Figure("S11", f"{name}, sent by the origin beyond its size", "MB", beyond),
        ]
    return figures


def mirrored(lab: Lab, plan: Plan) -> list[Figure]:
    """S6: a blob of 32 MB from the cache in mirror mode, without TLS on either side."""
    blob = lab.material.blob(BLOB)
    lab.warm(blob)
    load = Load(blob, connections=lab.workers, count=plan.blobs * lab.workers)
    with lab.untouched(blob):
        lab.as_mirror(Load(blob, count=2, verify=True))
        pairs = alternate(plan.pairs, lambda: lab.as_mirror(load), lambda: lab.on_plain_peer(load))
    return [
        compared("S6", "mirror, CPU", "s/GB", pairs, lambda s: s.cpu_per_gb, ratio_at_most(1.0)),
        compared("S6", "mirror, throughput", "GB/s", pairs, lambda s: s.gb_per_second),
    ]


def tunnel(lab: Lab, plan: Plan) -> list[Figure]:
    """S7: answers without TLS through a tunnel, beside the same without the tunnel."""
    blob = lab.material.blob(TUNNELLED)
    lab.in_tunnel(Load(blob, count=1, verify=True))
    load = Load(blob, count=plan.tunnelled)
    pairs = alternate(plan.pairs, lambda: lab.in_tunnel(load), lambda: lab.on_plain_origin(load))
    cpu = tuple(mine.cpu_per_gb for mine, _ in pairs)
    return [
        Figure("S7", "tunnel, CPU", "s/GB", cpu, targets=(at_most(0.5),)),
        compared("S7", "tunnel, throughput", "GB/s", pairs, lambda s: s.gb_per_second),
    ]


def beside_streams(lab: Lab, plan: Plan) -> list[Figure]:
    """S8: manifests at a steady rate, latency from the due time, while 4 connections stream blobs."""
    manifest, blob = lab.material.manifest(), lab.material.blob(BLOB)
    lab.warm(manifest)
    lab.warm(blob)
    probe = Load(manifest, connections=PROBES, seconds=plan.probe_seconds, rate=PROBE_RATE, realtime=True)
    streams = Load(blob, connections=STREAMS, seconds=10 * plan.probe_seconds)
    with lab.untouched(manifest), lab.untouched(blob):
        pairs = alternate(
            plan.pairs,
            lambda: lab.on_subject(probe, beside=streams),
            lambda: lab.on_peer(probe, beside=streams),
        )

    def figure(at: str, *targets: Target) -> Figure:
        name = f"manifest beside {STREAMS} streams, {at}"
        return compared("S8", name, "ms", pairs, lambda sample: sample.result.latency_us[at] / 1e3, *targets)

    latencies = [figure("p50"), figure("p99", at_most(2)), figure("max")]
    return [*latencies, compared("S8", "the streams meanwhile", "GB/s", pairs, stream_rate)]


def stream_rate(sample: Sample) -> float:
    streams = sample.beside
    return streams.bytes / streams.seconds / 1e9 if streams else 0.0


def verified_access(lab: Lab, plan: Plan) -> list[Figure]:
    """S12: the requests of S2 where private content is kept from others, beside where it is not."""
    loads = {
        name: Load(item, connections=8, count=plan.requests)
        for name, item in (("by digest", lab.material.manifest()), ("by tag", lab.material.tagged()))
    }

    def side(access: str) -> dict[str, Sample]:
        lab.restart({"REGPROXY_ACCESS": access})
        return {name: measured(load) for name, load in loads.items()}

    def measured(load: Load) -> Sample:
        lab.warm(load.item)
        lab.on_subject(load)
        with lab.untouched(load.item):
            return lab.on_subject(load)

    rounds = [(side("verified"), side("shared")) for _ in range(plan.pairs)]
    return [
        compared(
            "S12",
            f"cached manifest {name}, verified access beside shared, CPU",
            "us/request",
            [(verified[name], shared[name]) for verified, shared in rounds],
            lambda s: s.cpu_us_per_request,
            ratio_at_most(1.05),
        )
        for name in loads
    ]


def rollout(lab: Lab, plan: Plan) -> list[Figure]:
    """S13: a deployment rolls onto 200 nodes (bench/mix/rollout.py), the image being held, and not held."""
    roll = Roll(lab, plan.roll_seconds, plan.roll_image)
    roll.warm()
    with roll.untouched():
        pairs = in_turn(plan.rolls, partial(roll.held, lab.on_subject), partial(roll.held, lab.on_peer))
    cold = [roll.cold() for _ in range(plan.pairs)]
    figures = [compared("S13", f"roll, held, {name}", unit, pairs, value) for name, unit, value in measures()]
    figures.append(Figure("S13", "roll, held, share of hits", "", tuple(held(own) for own, *_ in pairs)))
    for name, unit, value in measures():
        figures.append(Figure("S13", f"roll, cold, {name}", unit, tuple(value(mine) for mine, _ in cold)))
    figures.append(Figure("S13", "roll, cold, share of hits", "", tuple(held(mine) for mine, _ in cold)))
    times = tuple(times for _, times in cold)
    return [
        *figures,
        Figure("S13", "roll, cold, downloads from the origin", "", times, targets=(at_most(1.0),)),
    ]


SCENARIOS: dict[str, Callable[[Lab, Plan], list[Figure]]] = {
    "S1": cached_blob,
    "S2": cached_manifest,
    "S3": new_connection,
    "S4": cold_blob,
    "S5": waiters,
    "S6": mirrored,
    "S7": tunnel,
    "S8": beside_streams,
    "S11": limited,
    "S12": verified_access,
    "S13": rollout,
}
