"""Scenario S13 on its real servers, in small: an image rolls, held by the cache and not held."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.lab import Lab
from bench.loadgen import Generator
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
            own, peer = lab.on_subject(roll.plan), lab.on_peer(roll.plan)
        cold, downloads = roll.cold()
        with pytest.raises(BenchError, match="the cache was not cold"):
            monkeypatch.setattr(lab, "restart", lambda: None)
            monkeypatch.setattr(scenario, "LOG_TIMEOUT", 0)
            roll.cold()
    finally:
        lab.close()
    assert own.result.requests == peer.result.requests == cold.result.requests
    assert (held(own), held(peer), downloads) == (1, 0, 1)
    assert 0 < held(cold) < 1
    for sample in (own, peer, cold):
        assert all(value(sample) > 0 for _, _, value in measures())
        assert sample.memory and sample.memory.processes > 1
