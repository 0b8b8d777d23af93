"""Processes are killed at random moments: a bounded run of `python -m tests.load.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load import chaos

ROUNDS = 12


@pytest.mark.timeout(300)
def test_whoever_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    tally = chaos.run(tmp_path, ROUNDS, seed=6)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.pulled == ROUNDS
    assert set(tally.kills) == set(chaos.VICTIMS)
