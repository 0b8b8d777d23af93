"""The model of docs/capacity.md, by numbers that can be checked by head."""

from __future__ import annotations

import pytest

from bench import capacity
from bench.capacity import PAYLOAD, Costs, Limit, Machine, Mix
from bench.errors import BenchError
from tests.bench.results import small_run

COSTS = Costs(gigabyte=0.5, hit=1e-5, connection=5e-4, cold_gigabyte=2.5, idle=20_000, aes=4.0)
LINE = 8 / PAYLOAD  # Gb/s that carry 1 GB/s of bodies
MACHINE = Machine(10, 20 * LINE, 0.5, memory=16, disk_read=2, disk_write=1, syncs=1_000)
SLOW_LINE = Machine(10, 4 * LINE, 0.5)
MIX = Mix("a node", 1.0, 10, 40, 100)  # 0.05 s of connections, 0.0005 of small requests, 0.5 of bytes

FORMULAS = [
    (capacity.throughput(COSTS, MACHINE), 10.0, "CPU"),
    (capacity.throughput(COSTS, SLOW_LINE), 4.0, "line"),
    (capacity.uncached_throughput(COSTS, MACHINE), 2.0, "disk"),
    (capacity.single(COSTS, MACHINE), 2.0, "one core"),
    (capacity.hits(COSTS, MACHINE), 500_000, "CPU"),
    (capacity.hits(COSTS, Machine(10, LINE / 10, 0.5)), 1e8 / capacity.HIT_BYTES, "line"),
    (capacity.accepts(COSTS, MACHINE), 10_000, "CPU"),
    (capacity.idle(COSTS, MACHINE), 200_000, "memory"),
    (capacity.cold(COSTS, MACHINE), 1.0, "disk"),
    (capacity.cold(COSTS, Machine(4, 10 * LINE, 0.5)), 0.8, "CPU"),
    (capacity.stored(COSTS, MACHINE), 1_000, "fdatasync"),
    (capacity.nodes(COSTS, MACHINE, MIX), 300 / 0.5505, "CPU"),
    (capacity.nodes(COSTS, SLOW_LINE, MIX), 240, "line"),
    (capacity.rollout(COSTS, MACHINE, MIX, 1, LINE / 10), 10, "the registry's line"),
    (capacity.rollout(COSTS, SLOW_LINE, MIX, 200, LINE), 50, "line"),
    (capacity.rollout(COSTS, MACHINE, MIX, 200, LINE), (200 * 0.5505 + 2.5) / 5, "CPU"),
    (capacity.rollout(COSTS, Machine(10, 10 * LINE, 0.5, disk_write=0.1), MIX, 1, LINE), 10, "disk"),
]


@pytest.mark.parametrize("limit, rate, by", FORMULAS)
def test_formulas(limit: Limit, rate: float, by: str) -> None:
    assert limit.rate == pytest.approx(rate, rel=1e-3)
    assert limit.by == by


@pytest.mark.parametrize("speed, blob, cold", [(4.0, 0.5, 2.5), (1.0, 1.25, 4.0), (10.0, 0.35, 2.2)])
def test_ciphers(speed: float, blob: float, cold: float) -> None:
    other = COSTS.with_aes(speed)
    assert (other.gigabyte, other.cold_gigabyte, other.aes) == pytest.approx((blob, cold, speed))
    assert (other.hit, other.connection, other.idle) == (COSTS.hit, COSTS.connection, COSTS.idle)


def test_costs_are_the_medians_of_a_run() -> None:
    assert Costs.of(small_run()) == Costs(0.54, 12e-6, 500e-6, 2.5, 20_000, 4.0)


@pytest.mark.parametrize("scenario", ["S1", "S2", "S3", "S4", "S9"])
def test_a_figure_that_is_missing(scenario: str) -> None:
    results = small_run()
    results.figures = [figure for figure in results.figures if figure.scenario != scenario]
    with pytest.raises(BenchError, match=f"needs {scenario}"):
        Costs.of(results)
    tables = {name: make() for name, make in capacity.makers(results).items()}
    assert f"needs {scenario}" in tables["capacity-machines"]
    assert "8 cores" in tables["capacity-assumed"]


def test_the_speed_of_the_cipher_is_missing() -> None:
    results = small_run()
    results.speeds = {}
    with pytest.raises(BenchError, match="aes-128-gcm"):
        Costs.of(results)


@pytest.mark.parametrize(
    "value, text",
    [(0.634, "0.63"), (2.94, "2.9"), (12.6, "13"), (9.96, "10"), (123_456, "120,000"), (0, "0")],
)
def test_two_digits(value: float, text: str) -> None:
    assert capacity.two(value) == text
