"""Scenario S13 on its real servers, in small: an image rolls, held by the cache and not held."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest

from bench.errors import BenchError, Void
from bench.lab import Lab, Sample
from bench.loadgen import Generator, Plan
from bench.mix import scenario
from bench.mix.scenario import Roll, held, measures

SIZE = 3_000_000  # bytes


def test_a_roll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "NODES", 12)
    # The machine may have other things to do; figures are not what is tested.
    monkeypatch.setattr(Generator, "result", partialmethod(Generator.result, even_void=True))
    lab = Lab(tmp_path, peers=[])
    try:
        roll = Roll(lab, 1, SIZE)
        with pytest.raises(BenchError, match="the cache was not warm"), roll.untouched():
            lab.on_subject(roll.plan)
        roll.warm()
        with roll.untouched():
            own, peer = roll.held(lab.on_subject), roll.held(lab.on_peer)
        cold, downloads = roll.cold()
        with pytest.raises(BenchError, match="the cache was not cold"):
            monkeypatch.setattr(lab, "restart", lambda: None)
            monkeypatch.setattr(scenario, "LOG_TIMEOUT", 0)
            roll.cold()
        a_void_roll_is_done_again(roll, lab, own)
    finally:
        lab.close()
    assert own.result.requests == peer.result.requests == cold.result.requests
    assert (held(own), held(peer), downloads) == (1, 0, 1)
    assert 0 < held(cold) < 1
    for sample in (own, peer, cold):
        assert all(value(sample) > 0 for _, _, value in measures())
        assert sample.memory and sample.memory.processes > 1


def a_void_roll_is_done_again(roll: Roll, lab: Lab, sample: Sample) -> None:
    """Twice; what is void then is an error."""
    outcomes: list[Sample | None] = []

    def side(plan: Plan) -> Sample:
        outcome = outcomes.pop(0)
        if outcome is None:
            raise Void("void: it fell behind\n  loadgen --addr")
        return outcome

    outcomes += [None, None, sample]
    assert roll.held(side) is sample
    assert lab.notes[-2:] == ["a roll was done again: void: it fell behind"] * 2
    outcomes += [None] * 3
    with pytest.raises(Void):
        roll.held(side)
