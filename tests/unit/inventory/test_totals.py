"""What each registry and repository takes, by pages; what several have counts for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from regproxy.cache.pins import parse_registry
from regproxy.inventory.reading import index_reader
from regproxy.inventory.totals import Usage, by_registry, repositories, totals
from tests.support.images import make_image
from tests.support.stocked_cache import Stock
from tests.support.stocked_images import everything, put, size_of

ONE, TWO = (make_image(size=size, seed=size) for size in (2_000, 30_000))


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_repositories_and_registries(tmp_path: Path, limit: int) -> None:
    with Stock(tmp_path / "cache") as stock, index_reader(stock.root) as reader:
        put(stock, "nginx:1", ONE)
        put(stock, "nginx:2", TWO)
        put(stock, "reg.test/team/app:1", ONE)
        put(stock, f"reg.test/team/tool@{TWO.digest}", TWO)
        found: list[Usage] = []
        start = None
        while True:
            page = repositories(reader, start=start, limit=limit)
            found += page.items
            start = page.next
            if start is None:
                break
        names = [(each.registry, each.repository, each.tags, each.objects) for each in found]
        one, two = len(everything(ONE)), len(everything(TWO))
        assert names == [
            ("reg.test", "team/app", 1, one),
            ("reg.test", "team/tool", 0, two),
            ("docker.io", "library/nginx", 2, one + two),  # it is registry-1.docker.io in the index
        ]
        both = size_of(ONE) + size_of(TWO)
        assert {each.registry: each.bytes for each in by_registry(found)} == {
            "docker.io": both,
            "reg.test": both,
        }
        whole = totals(reader)
        assert (whole.objects, whole.bytes) == (one + two, both)
        of_one = repositories(reader, place=parse_registry("reg.test"), limit=limit)
        assert {each.registry for each in of_one.items} == {"reg.test"}


def test_an_empty_cache(tmp_path: Path) -> None:
    with Stock(tmp_path / "cache") as stock, index_reader(stock.root) as reader:
        assert repositories(reader).items == []
        assert totals(reader).objects == 0
