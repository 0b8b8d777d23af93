"""A short large push; `python -m tests.load.large_push` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.load import large_push
from tests.load.large_push import MEGA

SIZE = 300 * MEGA


@pytest.mark.parametrize("keep", [False, True], ids=["passed on", "kept"])
def test_the_memory_stays(keep: bool, tmp_path: Path) -> None:
    found = large_push.run(tmp_path, SIZE, keep=keep)
    assert (found.status, found.got) == (202, SIZE)
    assert found.growth < 16 * MEGA
