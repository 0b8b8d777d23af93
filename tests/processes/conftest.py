"""Fixtures that test modules of processes share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.process_tree import Start, starter
from tests.support.shared_proxy import Lane
from tests.support.trust import Trust


@pytest.fixture
def start(lane: Lane, trust: Trust, tmp_path: Path, stack: ExitStack) -> Start:
    """Start a proxy of the test's own: `start(REGPROXY_WORKERS="2")`. It is ended with the test."""
    return starter(lane, trust, tmp_path, stack)
