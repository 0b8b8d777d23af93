"""Origins that go wrong by random scripts: a bounded run of what `python -m tests.scripts` does at length."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import scripts

EXAMPLES = int(os.environ.get("REGPROXY_TEST_SCRIPTS", "30"))


@pytest.mark.timeout(120 + 5 * EXAMPLES)
def test_nothing_wrong_comes_of_it(tmp_path: Path) -> None:
    tally = scripts.run(tmp_path, EXAMPLES, 20)
    assert tally.examples >= EXAMPLES
    assert tally.answers["complete"] > tally.examples
    assert tally.faults.total() > EXAMPLES
    assert tally.kills > 0
