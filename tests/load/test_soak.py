"""Mixed load on a cache that is too small: a bounded run of `python -m tests.load.soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load import soak


@pytest.mark.timeout(180)
def test_it_stays_within_its_limits(tmp_path: Path) -> None:
    found = soak.run(tmp_path, 64 * soak.MEGA, 12.0, seed=3)
    assert found.errors == []
    assert found.largest <= found.limit + soak.ABOVE
    assert found.evicted > 0
    assert found.hits > 0
