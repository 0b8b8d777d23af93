"""Contents are listed by digest, size and use; of one it is told what it belongs to."""

from __future__ import annotations

from typing import get_args

import pytest

from regproxy.cache import pins
from regproxy.inventory import blobs as module
from regproxy.inventory.blobs import BlobFilter, Order, blob, blobs
from regproxy.inventory.reading import IndexReader
from tests.support.images import MANIFEST, make_image, make_index
from tests.support.stocked_cache import DAY, Stock
from tests.support.stocked_images import everything, put

ONE = make_image(size=2_000, seed=1)
MULTI = make_index(size=2_000, seed=4)


def listed(
    reader: IndexReader, wanted: BlobFilter | None = None, order: Order = "digest", *, reverse: bool = False
) -> list[str]:
    found, start = [], None
    while True:
        page = blobs(reader, wanted, order=order, reverse=reverse, start=start, limit=2)
        found += [each.digest for each in page.items]
        start = page.next
        if start is None:
            return found


def test_orders(stock: Stock, reader: IndexReader) -> None:
    small = stock.blob(10, idle=DAY)
    large = stock.blob(10_000, idle=3 * DAY)
    middle = stock.blob(100, idle=2 * DAY)
    want: dict[Order, list[str]] = {
        "digest": sorted([small, large, middle]),
        "size": [large, middle, small],
        "used": [small, middle, large],
    }
    for order, expected in want.items():
        assert listed(reader, order=order) == expected
        assert listed(reader, order=order, reverse=True) == expected[::-1]


def test_filters(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    old = stock.blob(50_000, idle=9 * DAY)
    pins.pin(stock.root, stock.index, old)
    stock.index.hit(old)
    assert stock.index.flush()
    assert listed(reader, BlobFilter(pinned=True)) == [old]
    assert listed(reader, BlobFilter(at_least=50_000)) == [old]
    assert listed(reader, BlobFilter(manifests=True)) == [ONE.digest]
    assert listed(reader, BlobFilter(never_hit=True)) == sorted(everything(ONE))
    assert listed(reader, BlobFilter(unused_since=stock.clock() - DAY)) == []  # used by the hit
    put(stock, "reg.test/app:2", make_image(seed=9), idle=2 * DAY)
    unused = BlobFilter(unused_since=stock.clock() - DAY)
    assert set(listed(reader, unused)) == everything(make_image(seed=9))


def test_what_a_layer_belongs_to(stock: Stock, reader: IndexReader) -> None:
    arm = MULTI.images[1]
    put(stock, "reg.test/app:1", MULTI)
    put(stock, "nginx:1", arm)
    pins.pin(stock.root, stock.index, "nginx:1")
    found = blob(reader, arm.layers[0])
    assert found is not None
    assert set(found.images) == {"reg.test/app:1", "docker.io/library/nginx:1"}
    assert found.manifests == (arm.digest,)
    assert set(found.places) == {"reg.test/app", "docker.io/library/nginx"}
    assert found.pins == ("docker.io/library/nginx:1",)
    assert (found.blob.media_type, found.blob.pinned) == ("", True)
    manifest = blob(reader, arm.digest)
    assert manifest is not None and manifest.blob.media_type == MANIFEST
    assert manifest.manifests == (MULTI.digest,)


def test_what_is_not_there(stock: Stock, reader: IndexReader) -> None:
    assert blob(reader, ONE.digest) is None
    assert listed(reader) == []


@pytest.mark.parametrize("order", get_args(Order))
def test_a_page_is_found_by_an_index(stock: Stock, reader: IndexReader, order: Order) -> None:
    stock.blob()
    start: list[str | int | float | None] = ["sha256:"] if order == "digest" else [1, "sha256:"]
    sql, values = module.statement(BlobFilter(), order, False, start)
    with reader.connection() as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert plan[0].startswith("SEARCH objects USING")
    assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN")], plan
