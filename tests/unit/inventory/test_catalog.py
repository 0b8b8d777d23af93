"""What is stored is read once: manifests, configurations, and what only looks like these."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from regproxy.inventory.catalog import catalogue
from regproxy.inventory.images import content
from regproxy.inventory.reading import IndexReader
from tests.support.images import MANIFEST, make_image, make_index
from tests.support.stocked_cache import Stock
from tests.support.stocked_images import bodies, read_all, size_of

ONE = make_image(size=2_000, seed=1)
MULTI = make_index(size=2_000, seed=4)


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


def rows(stock: Stock, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(stock.root / "index.sqlite3")) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("config_first", [True, False])
def test_the_platform_is_that_of_the_configuration(stock: Stock, config_first: bool) -> None:
    order = [ONE.config_digest, ONE.digest] if config_first else [ONE.digest, ONE.config_digest]
    for digest in order:
        stock.blob(body=bodies(ONE)[digest])
        read_all(stock.root, stock.index)
    assert rows(stock, "SELECT digest, media_type, platform FROM manifests") == [
        (ONE.digest, MANIFEST, "linux/amd64")
    ]


@pytest.mark.parametrize("backwards", [True, False])
def test_sizes_whatever_came_first(stock: Stock, backwards: bool) -> None:
    contents = list(bodies(MULTI).values())
    for body in contents[::-1] if backwards else contents:
        stock.blob(body=body)
        read_all(stock.root, stock.index)
    reader = IndexReader(stock.root)
    with reader.connection() as connection:
        found = content(connection, MULTI.digest)
    reader.close()
    assert (found.size, found.held_bytes, found.whole) == (size_of(MULTI), size_of(MULTI), True)
    assert found.platforms == ("linux/amd64", "linux/arm64")


NO_MANIFESTS = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"schemaVersion": 2, "manifests": 3}',
    b'{"schemaVersion": "2"}',
    b'{"os": 3, "architecture": []}',
    b"{" + b"[" * 100_000,
    b'{"a": "\xff"}',
    b"\x1f\x8b{",
]


@pytest.mark.parametrize("body", NO_MANIFESTS, ids=lambda body: repr(body[:20]))
def test_what_is_no_manifest_is_read_once(stock: Stock, body: bytes) -> None:
    stock.blob(body=body)
    assert catalogue(stock.root, stock.index) == 1
    assert catalogue(stock.root, stock.index) == 0
    assert rows(stock, "SELECT * FROM manifests") == []


def test_hostile_sizes_and_types(stock: Stock) -> None:
    layers = [
        {"digest": ONE.layers[0], "size": 1 << 70},
        {"digest": ONE.layers[1], "size": -5, "mediaType": 7},
        {"digest": ONE.config_digest, "size": True},
        {"digest": "sha256:short", "size": 5},
        "no descriptor",
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers}).encode()
    stock.blob(body=body)
    read_all(stock.root, stock.index)
    assert rows(stock, "SELECT sum(size), count(*) FROM links") == [(0, 3)]
    assert rows(stock, "SELECT total FROM manifests") == [(len(body),)]


def test_large_contents_are_not_read_at_all(stock: Stock) -> None:
    stock.blob(body=b"{" + b" " * (4 << 20))
    assert catalogue(stock.root, stock.index) == 0


def test_what_goes_takes_its_entries_along(stock: Stock) -> None:
    for body in bodies(ONE).values():
        stock.blob(body=body)
    read_all(stock.root, stock.index)
    fresh = stock.blob(10)
    stock.index.remove([ONE.digest, fresh])
    for table in ("manifests", "links", "uncatalogued"):
        assert rows(stock, f"SELECT * FROM {table}") == []


def test_a_file_that_is_gone_meanwhile(stock: Stock) -> None:
    digest = stock.blob(body=ONE.manifest)
    stock.path(digest).unlink()
    assert catalogue(stock.root, stock.index) == 1
    assert rows(stock, "SELECT * FROM manifests") == []


def test_last_uses_are_those_of_the_object(stock: Stock) -> None:
    digest = stock.blob(body=ONE.manifest, idle=500.0)
    read_all(stock.root, stock.index)
    stock.index.touch(digest)
    assert stock.index.flush()
    ((used,),) = rows(stock, "SELECT last_used FROM manifests")
    assert used == stock.clock()
