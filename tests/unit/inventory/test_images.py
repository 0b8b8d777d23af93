"""Images are listed by pages, with what they name; a page is found by an index, whatever it is sorted by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest

from regproxy.cache import pins
from regproxy.cache.pins import parse_registry
from regproxy.inventory import images as module
from regproxy.inventory.images import Image, ImageFilter, Order, images
from regproxy.inventory.reading import IndexReader
from tests.support.images import INDEX, MANIFEST, make_image, make_index
from tests.support.stocked_cache import DAY, Stock
from tests.support.stocked_images import bodies, put, size_of, tag_row

ONE, TWO, THREE = (make_image(size=size, seed=size) for size in (1_000, 20_000, 300_000))
MULTI = make_index(size=2_000, seed=4)


def everything(
    reader: IndexReader, wanted: ImageFilter | None = None, order: Order = "name", *, reverse: bool = False
) -> list[Image]:
    """Return all pages of two images together."""
    found, start = [], None
    while True:
        page = images(reader, wanted, order=order, reverse=reverse, start=start, limit=2)
        assert len(page.items) <= 2
        found += page.items
        start = page.next
        if start is None:
            return found


def names(found: list[Image]) -> list[str]:
    return [each.name for each in found]


def test_what_is_told_of_an_image(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test:5000/team/app:1", ONE, idle=60.0)
    (image,) = everything(reader)
    assert image.name == "reg.test:5000/team/app:1"
    assert (image.registry, image.repository, image.tag) == ("reg.test:5000", "team/app", "1")
    assert (image.digest, image.media_type) == (ONE.digest, MANIFEST)
    assert (image.fetched_at, image.current) == (1_000_000.0, True)
    content = image.content
    assert (content.stored, content.whole, content.pinned, content.hits) == (True, True, False, 0)
    assert content.size == content.held_bytes == size_of(ONE)
    assert content.objects == content.held_objects == len(bodies(ONE))
    assert content.platforms == ("linux/amd64",)
    assert content.last_used == pytest.approx(stock.clock() - 60.0)


def test_one_platform_of_an_index(stock: Stock, reader: IndexReader) -> None:
    arm = MULTI.images[1]
    put(stock, "reg.test/app:1", MULTI, only=(MULTI.digest, *bodies(arm)))
    (image,) = everything(reader)
    assert image.media_type == INDEX
    content = image.content
    assert (content.stored, content.whole) == (True, False)
    assert content.platforms == ("linux/arm64",)
    # Of the platform that is not held, it is known how large the manifest is.
    assert content.objects == 1 + len(bodies(arm)) + 1
    assert content.held_bytes == len(MULTI.manifest) + size_of(arm)
    assert content.size == content.held_bytes + len(MULTI.images[0].manifest)
    put(stock, "reg.test/app:1", MULTI)
    (image,) = everything(reader)
    assert image.content.whole
    assert image.content.size == size_of(MULTI)


def test_an_image_that_is_named_and_not_held(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE, without=(ONE.digest,))
    put(stock, "reg.test/app:2", TWO, without=(TWO.layers[0],))
    gone, part = everything(reader)
    assert (gone.content.stored, gone.content.whole, gone.content.size) == (False, False, 0)
    assert (part.content.stored, part.content.whole) == (True, False)
    assert part.content.held_objects == part.content.objects - 1


def test_by_name_size_and_use(stock: Stock, reader: IndexReader) -> None:
    put(stock, "b.test/app:1", ONE, idle=3 * DAY)
    put(stock, "a.test/app:2", TWO, idle=1 * DAY)
    put(stock, "a.test/app:10", THREE, idle=2 * DAY)
    want: dict[Order, list[str]] = {
        "name": ["a.test/app:10", "a.test/app:2", "b.test/app:1"],
        "size": ["a.test/app:10", "a.test/app:2", "b.test/app:1"],
        "used": ["a.test/app:2", "a.test/app:10", "b.test/app:1"],
    }
    for order, expected in want.items():
        assert names(everything(reader, order=order)) == expected
        assert names(everything(reader, order=order, reverse=True)) == expected[::-1]


@pytest.mark.parametrize("order", get_args(Order))
def test_equal_values_are_on_one_page_or_the_other(stock: Stock, reader: IndexReader, order: Order) -> None:
    wanted = sorted(f"reg.test/app:{number}" for number in range(7))
    for name in wanted:
        put(stock, name, ONE)
    assert sorted(names(everything(reader, order=order))) == wanted


def test_variants_of_a_tag_are_one_image(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    row = tag_row(ONE)
    for named in (4, 12):
        other = type(row)(f"{MANIFEST} {named}", ONE.digest, MANIFEST, 1, 2_000_000.0, named)
        stock.index.put_tag("reg.test", 443, "app", "1", other)
    former = type(row)("former x", TWO.digest, MANIFEST, 1, 1.0, 0)
    stock.index.put_tag("reg.test", 443, "app", "1", former)
    assert stock.index.flush()
    found = {image.digest: image for image in everything(reader)}
    assert found.keys() == {ONE.digest, TWO.digest}
    assert found[ONE.digest].fetched_at == 2_000_000.0
    assert (found[ONE.digest].current, found[TWO.digest].current) == (True, False)


FILTERS = [
    (ImageFilter(name="team"), ["docker.io/team/web_1:1"]),
    (ImageFilter(name="docker.io/"), ["docker.io/library/nginx:1", "docker.io/team/web_1:1"]),
    (ImageFilter(name="web_"), ["docker.io/team/web_1:1"]),
    (ImageFilter(name="%"), []),
    (ImageFilter(name="APP:1"), ["reg.test:5000/app:1"]),
    (ImageFilter(place=parse_registry("docker.io")), ["docker.io/library/nginx:1", "docker.io/team/web_1:1"]),
    (ImageFilter(place=parse_registry("reg.test:5000"), repository="app"), ["reg.test:5000/app:1"]),
    (ImageFilter(place=parse_registry("reg.test")), []),
    (ImageFilter(pinned=True), ["docker.io/library/nginx:1"]),
    (ImageFilter(never_hit=True), ["docker.io/library/nginx:1", "docker.io/team/web_1:1"]),
]


@pytest.mark.parametrize("wanted, expected", FILTERS, ids=str)
def test_filters(stock: Stock, reader: IndexReader, wanted: ImageFilter, expected: list[str]) -> None:
    put(stock, "nginx:1", ONE)
    put(stock, "team/web_1:1", TWO)
    put(stock, "reg.test:5000/app:1", THREE)
    pins.pin(stock.root, stock.index, "nginx:1")
    stock.index.hit(THREE.digest)
    assert stock.index.flush()
    orders: tuple[Order, ...] = get_args(Order)
    for order in orders:
        assert sorted(names(everything(reader, wanted, order))) == expected


def test_unused(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:old", ONE, idle=9 * DAY)
    put(stock, "reg.test/app:new", TWO)
    wanted = ImageFilter(unused_since=stock.clock() - DAY)
    assert names(everything(reader, wanted)) == ["reg.test/app:old"]


LARGE = 5 << 20  # bytes; too large to be read as a manifest
INDEX_OF = {"name": "images_by_name", "size": "manifests_by_total", "used": "manifests_by_use"}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexReader]:
    with Stock(tmp_path_factory.mktemp("large") / "cache") as stock:
        many(stock, 100_000)
        reader = IndexReader(stock.root)
        yield reader
        reader.close()


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_of_many_images_is_found_by_an_index(large: IndexReader, order: Order, reverse: bool) -> None:
    """However many there are: nothing is scanned from its beginning, and nothing is sorted as a whole."""
    first = images(large, order=order, reverse=reverse)
    assert len(first.items) == 100 and first.next is not None
    with large.connection() as connection:
        for start in (None, first.next):
            sql, values = module.statement(ImageFilter(), order, reverse, start)
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert INDEX_OF[order] in plan[0], plan
            assert start is None or plan[0].startswith("SEARCH"), plan
            # Within one content's tags alone, whichever words SQLite has for that.
            parts = ("RIGHT PART OF ORDER BY", "LAST 4 TERMS OF ORDER BY")
            assert all(step.startswith("SEARCH") or step.endswith(parts) for step in plan[1:]), plan


def many(stock: Stock, count: int) -> None:
    """Enter many images at once, as another process of this cache would."""
    with IndexReader(stock.root).connection() as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        rows = [
            (f"r{number % 10}.test", 443, f"team{number % 100}/app{number % 1000}", f"v{number}")
            for number in range(count)
        ]
        connection.executemany(
            "INSERT INTO tags VALUES (?, ?, ?, ?, 'any', ?, 'm', 1, 1.0, 0)",
            ((*row, f"sha256:{number:064x}") for number, row in enumerate(rows)),
        )
        connection.executemany(
            "INSERT INTO objects (digest, size, last_used, disk) VALUES (?, ?, ?, 4096)",
            (
                (f"sha256:{number:064x}", LARGE + number % 5000, float(number % 777))
                for number in range(count)
            ),
        )
        connection.execute("INSERT INTO manifests SELECT digest, 'm', size, 1, '', last_used FROM objects")
        connection.execute("COMMIT")
        connection.close()
