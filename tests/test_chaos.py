"""Processes are killed at random moments: a bounded run of what `python -m tests.chaos` does for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import chaos

ROUNDS = 30


@pytest.mark.timeout(300)
def test_whoever_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    tally = chaos.run(tmp_path, ROUNDS, seed=20)
    assert tally.wrong == []
    assert tally.pulled == ROUNDS
    assert set(tally.kills) == set(chaos.VICTIMS)
