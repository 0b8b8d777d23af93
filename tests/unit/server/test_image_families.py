"""What content belongs to, in the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regproxy.cache.index.index import Index
from regproxy.server.image_families import BELONGS_MAX, PENDING_MAX, Families
from tests.support.images import digest_of, make_index

PLACE = ("reg.test", 443, "team/app")
WHOLE = make_index(size=1000)


class Contents:
    """A store of small content."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def add(self, body: bytes) -> None:
        self.held[digest_of(body)] = body

    def lookup(self, digest: str) -> Any:
        body = self.held.get(digest)
        return None if body is None else SimpleNamespace(digest=digest, size=len(body), small=body)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index.open(tmp_path / "index.sqlite3")
    yield index
    index.close()


def test_parents_and_tags(index: Index) -> None:
    store = Contents()
    families = Families(index, store)
    child = WHOLE.images[0]
    store.add(WHOLE.manifest)
    store.add(child.manifest)
    families.served(PLACE, WHOLE.digest, "v1")
    families.judged(PLACE, WHOLE.digest, passes=True)
    families.judged(PLACE, child.digest, passes=True)
    assert families.of(PLACE, WHOLE.digest).tags == ("v1",)
    assert families.of(PLACE, child.digest).parents == (WHOLE.digest,)
    for part in (child.config_digest, *child.layers):
        assert families.of(PLACE, part).parents == (child.digest,)
    assert families.of(("reg.test", 443, "other"), child.digest).parents == ()


def test_what_comes_later(index: Index) -> None:
    """A manifest that was judged by a HEAD, and is stored by another process."""
    store = Contents()
    Families(index, Contents()).judged(PLACE, WHOLE.digest, passes=True)
    families = Families(index, store)
    child = WHOLE.images[0].digest
    assert families.of(PLACE, child).parents == ()
    store.add(WHOLE.manifest)
    assert families.of(PLACE, child).parents == (WHOLE.digest,)


def test_what_is_made_up_leaves_nothing(index: Index) -> None:
    families = Families(index, Contents())
    for number in range(10):
        families.judged(PLACE, f"sha256:{number:064x}", passes=False)
    assert index.tag(*PLACE, "judged:") == ()


def test_limits(index: Index) -> None:
    families = Families(index, Contents())
    for number in range(3 * PENDING_MAX):
        families.judged(PLACE, f"sha256:{number:064x}", passes=True)
    assert len(index.tag(*PLACE, "judged:")) <= PENDING_MAX
    for number in range(3 * BELONGS_MAX):
        families.served(PLACE, WHOLE.digest, f"v{number}")
    tags = families.of(PLACE, WHOLE.digest).tags
    assert len(tags) <= BELONGS_MAX
    assert f"v{3 * BELONGS_MAX - 1}" in tags
