"""What a growth curve counts: the work on open connections, without what opening them took."""

from __future__ import annotations

import os
from typing import Any, cast

from bench import curves
from bench.figures import Figure, Side
from bench.lab import Lab, Sample
from bench.loadgen import Load, Result
from bench.material import Item
from bench.memory import tree_memory
from bench.scenarios import PLANS

ITEM = Item("/v2/bench/blobs/sha256:0", "0", 1_000_000)
OPENING = Load(ITEM, connections=10, count=10)
LOADS = (Load(ITEM, connections=10, count=110), Load(ITEM, connections=10, count=1_000))
CPU = {
    OPENING.count: 0.005,
    LOADS[0].count: 0.105,
    LOADS[1].count: 0.004,
}  # the last one is noise


class Measured:
    """A lab whose servers take what CPU says, its peer twice as much; in the first round ten times that."""

    def __init__(self) -> None:
        self.asked = 0

    def on_subject(self, load: Load) -> Sample:
        return self._sample("regproxy", load, 1)

    def on_peer(self, load: Load) -> Sample:
        return self._sample("nginx", load, 2)

    def _sample(self, server: str, load: Load, times: int) -> Sample:
        self.asked += 1
        cold = 10 if self.asked <= 6 else 1
        result = cast(Result, None)
        return Sample(server, "", result, CPU[load.count] * times * cold, 0.0)


def test_opening_is_taken_off_and_the_first_round_is_a_warm_up() -> None:
    lab: Any = Measured()
    plan = PLANS["short"]
    small, large = curves.beside_opening(cast(Lab, lab), plan, OPENING, LOADS)
    assert [len(values) for values in small.values()] == [plan.curve_pairs] * 2
    assert {name: round(values[0], 6) for name, values in small.items()} == {"regproxy": 0.1, "nginx": 0.2}
    assert {name: round(values[0], 6) for name, values in large.items()} == {
        "regproxy": -0.001,
        "nginx": -0.002,
    }


def test_a_point_has_the_subject_first_and_the_others_as_peers() -> None:
    sides = curves.per_unit({"regproxy": [0.1, 0.2], "nginx": [0.3, 0.4]}, 100, 1_000)
    point = curves.point("G1", "CPU", "us", "connections", 10, sides)
    nginx = Side("nginx", (0.3 / 100 * 1_000, 0.4 / 100 * 1_000))
    assert point == Figure("G1", "CPU", "us", (1.0, 2.0), (nginx,), (), "connections", 10)


def test_memory_of_a_process_tree() -> None:
    before = tree_memory(os.getpid())
    held = bytearray(os.urandom(1 << 20) * 32)
    assert tree_memory(os.getpid()) - before > 30_000
    assert len(held) == 32 << 20
    assert tree_memory(2**22 + 1) == 0
