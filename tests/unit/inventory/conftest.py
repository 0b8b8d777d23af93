"""A cache directory with an index, and what reads that as a worker does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.inventory.reading import IndexReader
from tests.support.stocked_cache import Stock


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


@pytest.fixture
def reader(stock: Stock) -> Iterator[IndexReader]:
    reader = IndexReader(stock.root)
    yield reader
    reader.close()
