"""What content belongs to, in the index."""

from __future__ import annotations

import json
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


def test_what_is_denied_does_not_push_out_what_is_allowed(index: Index) -> None:
    """Whoever may push can name a layer of others in any number of manifests, none of which passes."""
    store = Contents()
    families = Families(index, store)
    image = WHOLE.images[0]
    layer = image.layers[0]
    store.add(image.manifest)
    families.judged(PLACE, image.digest, passes=True)
    for number in range(3 * BELONGS_MAX):
        body = json.dumps({"schemaVersion": 2, "layers": [{"digest": layer, "size": number}]}).encode()
        store.add(body)
        families.judged(PLACE, digest_of(body), passes=False)
        assert image.digest in families.of(PLACE, layer).parents
    assert 1 < len(families.of(PLACE, layer).parents) <= BELONGS_MAX
    # Nor what has been denied to one client, and is allowed to another.
    families.judged(PLACE, image.digest, passes=False)
    for number in range(3 * BELONGS_MAX):
        families.judged(PLACE, image.digest, passes=False)
        body = json.dumps({"schemaVersion": 2, "config": {"digest": layer, "size": number}}).encode()
        store.add(body)
        families.judged(PLACE, digest_of(body), passes=False)
    assert image.digest in families.of(PLACE, layer).parents


def test_what_is_denied_at_first_and_passes_later(index: Index) -> None:
    """Its signature has come, say."""
    store = Contents()
    families = Families(index, store)
    image = WHOLE.images[0]
    store.add(image.manifest)
    families.judged(PLACE, image.digest, passes=False)
    families.judged(PLACE, image.digest, passes=True)
    for number in range(2 * BELONGS_MAX):
        body = json.dumps({"layers": [{"digest": image.layers[0], "size": number}]}).encode()
        store.add(body)
        families.judged(PLACE, digest_of(body), passes=False)
    assert image.digest in families.of(PLACE, image.layers[0]).parents


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
