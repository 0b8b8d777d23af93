"""Growth curves: the same work at more connections, on larger blobs, in a larger cache.

Per unit of work each has to stay flat. A curve is some Figures with an axis; the peer is nginx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import growth
from bench.figures import Figure, Side
from bench.lab import Lab, Sample
from bench.loadgen import Load
from bench.memory import idle_connections, slow_readers
from bench.scenarios import Plan, alternate

STREAMED = 2_000_000  # bytes of a blob that each connection fetches
AT_ONCE = 4  # connections for the curve of sizes
MOVED = 1_000_000_000  # bytes for a point of a curve, at least
REQUESTS = 20_000  # for a point, at most

Value = Callable[[Sample], float]


def point(scenario: str, name: str, unit: str, axis: str, at: float, sides: dict[str, list[float]]) -> Figure:
    """One place of a curve; the subject's values come first in `sides`."""
    (_, own), *peers = sides.items()
    others = tuple(Side(peer, tuple(values)) for peer, values in peers)
    return Figure(scenario, name, unit, tuple(own), others, axis=axis, at=at)


# --- connections -----------------------------------------------------------------------------------------


def by_connections(lab: Lab, plan: Plan) -> list[Figure]:
    """G1: CPU of a cached manifest, and of a GB of cached blobs, by the number of connections kept alive."""
    manifest, blob = lab.material.manifest(), lab.material.blob(STREAMED)
    lab.warm(manifest)
    lab.warm(blob)
    figures = []
    for count in plan.curve_connections:
        opening = Load(manifest, connections=count, count=count)
        small = Load(manifest, connections=count, count=count + plan.requests)
        large = Load(blob, connections=count, count=max(count, MOVED // STREAMED))
        with lab.untouched(manifest), lab.untouched(blob):
            times, streams = beside_opening(lab, plan, opening, (small, large))
        name = ("G1", "cached manifest, CPU", "us/request", "connections", count)
        figures.append(point(*name, per_unit(times, plan.requests, 1e6)))
        name = ("G1", f"cached blob of {STREAMED // 1_000_000} MB, CPU", "s/GB", "connections", count)
        figures.append(point(*name, per_unit(streams, large_bytes(large), 1e9)))
    return figures


def large_bytes(load: Load) -> float:
    return float(load.item.size * (load.count or 0))


def beside_opening(
    lab: Lab, plan: Plan, opening: Load, loads: Sequence[Load]
) -> list[dict[str, list[float]]]:
    """CPU seconds of each load and server in each round, less those of opening as many connections.

    `opening` has one small request for each connection: what is left is what is asked on open ones.
    """
    found: list[dict[str, list[float]]] = [{} for _ in loads]
    for number in range(plan.curve_pairs + 1):
        for measure in (lab.on_subject, lab.on_peer):
            base = measure(opening)
            for load, sides in zip(loads, found, strict=True):
                sample = measure(load)
                if number:  # the first round is the warm-up
                    sides.setdefault(sample.server, []).append(sample.cpu - base.cpu)
    return found


def per_unit(sides: dict[str, list[float]], units: float, scale: float) -> dict[str, list[float]]:
    return {name: [value / units * scale for value in values] for name, values in sides.items()}


# --- sizes -----------------------------------------------------------------------------------------------


def by_size(lab: Lab, plan: Plan) -> list[Figure]:
    """G2: CPU of a request, and of a GB, for cached blobs by their size, on 4 connections."""
    figures = []
    for size in plan.curve_sizes:
        blob = lab.material.blob(size)
        load = Load(blob, connections=AT_ONCE, count=min(REQUESTS, max(AT_ONCE, MOVED // size)))
        lab.warm(blob)
        with lab.untouched(blob):
            pairs = alternate(plan.curve_pairs, partial(lab.on_subject, load), partial(lab.on_peer, load))
        named: tuple[tuple[str, Value], ...] = (
            ("us/request", lambda sample: sample.cpu_us_per_request),
            ("s/GB", lambda sample: sample.cpu_per_gb),
        )
        for unit, value in named:
            sides = {side[0].server: [value(sample) for sample in side] for side in zip(*pairs, strict=True)}
            figures.append(point("G2", "cached blob, CPU", unit, "bytes", size, sides))
    return figures


# --- the cache -------------------------------------------------------------------------------------------


def by_cache(lab: Lab, plan: Plan) -> list[Figure]:
    """G3: start, look-up, eviction and reconciliation by the number of blobs; not the lab's servers."""
    place = Path(lab.material.root).parent / "growth"
    return [figure for blobs in plan.curve_blobs for figure in growth.figures(place / str(blobs), blobs)]


CURVES: dict[str, Callable[[Lab, Plan], list[Figure]]] = {
    "S9": idle_connections,
    "S10": slow_readers,
    "G1": by_connections,
    "G2": by_size,
    "G3": by_cache,
}
