"""What is stored is read once: manifests, configurations, and what only looks like these."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from regproxy.cache.index import transactions
from regproxy.inventory.catalog import catalogue
from regproxy.inventory.images import content
from regproxy.inventory.reading import IndexReader
from regproxy.registry import descriptors
from tests.support.images import MANIFEST, digest_of, make_image, make_index
from tests.support.stocked_cache import Stock
from tests.support.stocked_images import bodies, read_all, size_of

ONE = make_image(size=2_000, seed=1)
MULTI = make_index(size=2_000, seed=4)


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


@pytest.mark.parametrize(
    "body",
    [
        rb'{"os": "\ud800", "architecture": "amd64"}',
        json.dumps(
            {"schemaVersion": 2, "manifests": [{"digest": ONE.digest, "platform": {"os": "\ud800"}}]}
        ).encode(),
    ],
    ids=["configuration", "index"],
)
def test_what_is_no_text_is_not_entered(stock: Stock, body: bytes) -> None:
    """The janitor would end over it, and over its successor too."""
    stock.blob(body=body)
    read_all(stock.root, stock.index)
    assert rows(stock, "SELECT platform FROM manifests UNION SELECT platform FROM links") in ([], [("",)])


def invented(children: int, layers: int, size: int) -> list[bytes]:
    """Return an index and its manifests, whose layers are all different, and nowhere."""
    digests = iter(range(children * layers))
    manifests = [
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "layers": [{"digest": f"sha256:{next(digests):064x}", "size": size} for _ in range(layers)],
            }
        ).encode()
        for _ in range(children)
    ]
    entries = [{"digest": digest_of(body), "size": len(body)} for body in manifests]
    return [json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), *manifests]


def test_sums_that_no_integer_holds(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_SIZE_MAX", 1 << 62)
    for body in invented(2, 4, (1 << 61) + 1):
        stock.blob(body=body)
    read_all(stock.root, stock.index)
    assert rows(stock, "SELECT total FROM manifests") == [(1 << 60,)] * 3


def test_what_names_very_much_is_added_up_in_part(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "BELOW_MAX", 10)
    monkeypatch.setattr(transactions, "_ADDED_MAX", 10)
    index, *manifests = invented(3, 6, 100)
    for body in (index, *manifests):
        stock.blob(body=body)
    assert catalogue(stock.root, stock.index) == 4
    assert catalogue(stock.root, stock.index) > 0, "one transaction has taken all of it"
    read_all(stock.root, stock.index)
    of_index = f"SELECT named FROM manifests WHERE digest = '{digest_of(index)}'"
    assert rows(stock, of_index) == [(10,)]
    assert rows(stock, "SELECT count(*) FROM manifests") == [(4,)]


def test_how_many_are_added_up_anew(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "ABOVE_MAX", 2)
    (manifest,) = invented(1, 1, 100)[1:]
    entry = {"digest": digest_of(manifest), "size": 1}
    for number in range(4):
        body = {"schemaVersion": 2, "manifests": [entry], "annotations": {"a": str(number)}}
        stock.blob(body=json.dumps(body).encode())
    read_all(stock.root, stock.index)
    stock.blob(body=manifest)
    read_all(stock.root, stock.index)
    assert rows(stock, "SELECT count(*) FROM manifests WHERE named = 3") == [(1,)]


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
