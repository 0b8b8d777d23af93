"""An index of a test's own, at a time that the test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.cache.index.index import Index
from tests.support.index_processes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite3"


@pytest.fixture
def index(path: Path, clock: Clock) -> Iterator[Index]:
    index = Index.open(path, clock=clock)
    yield index
    index.close()
