"""Connections that read the index: one for each who reads at the same time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.core.errors import StoreError
from regproxy.inventory.reading import IndexReader
from tests.support.stocked_cache import Stock


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[IndexReader]:
    with Stock(tmp_path / "cache") as stock:
        stock.blob()
        reader = IndexReader(stock.root)
        yield reader
        reader.close()


def test_one_who_reads_long_keeps_nobody(reader: IndexReader) -> None:
    with reader.connection() as long, reader.connection() as short:
        assert long is not short
        assert short.execute("SELECT count(*) FROM objects").fetchone() == (1,)
    with reader.connection() as again:
        assert again in (long, short)


def test_an_error_ends_a_connection(reader: IndexReader) -> None:
    with pytest.raises(StoreError, match="no such table"), reader.connection() as broken:
        broken.execute("SELECT * FROM nonsense")
    with reader.connection() as connection:
        assert connection is not broken
    with pytest.raises(ZeroDivisionError), reader.connection():
        raise ZeroDivisionError
    with reader.connection() as same:
        assert same is connection


def test_the_end(reader: IndexReader) -> None:
    with reader.connection() as lent:
        reader.close()
        assert lent.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError):
        lent.execute("SELECT 1")
