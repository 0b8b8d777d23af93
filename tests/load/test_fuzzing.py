"""The data plane under random handlers: a bounded run of `python -m tests.load.fuzzing`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.load import fuzzing

COUNT = int(os.environ.get("REGPROXY_TEST_FUZZING", "200"))


@pytest.mark.timeout(120 + COUNT)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_wrong_comes_of_it(seed: int, tmp_path: Path) -> None:
    world = fuzzing.run(tmp_path, seed, count=COUNT)
    assert world.wrong == []
    # It was not idle.
    assert world.counts["compared"] > 0
    assert world.counts["raised"] > COUNT // 50
    assert world.counts["on_body"] > COUNT // 20
