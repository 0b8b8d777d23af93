"""Origins that go wrong by random scripts: a bounded run of `python -m tests.load.scripts`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.load import scripts

EXAMPLES = int(os.environ.get("REGPROXY_TEST_SCRIPTS", "10"))


@pytest.mark.timeout(120 + 5 * EXAMPLES)
def test_nothing_wrong_comes_of_it(tmp_path: Path) -> None:
    tally = scripts.run(tmp_path, EXAMPLES, 20)
    assert tally.examples >= EXAMPLES
    # Many are cut, and of some examples nothing was to be had: these only say that it was not idle.
    assert tally.answers["complete"] > EXAMPLES // 3
    assert tally.faults.total() > EXAMPLES // 3
    assert tally.kills > 0
