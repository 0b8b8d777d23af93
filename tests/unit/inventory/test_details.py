"""One image: the tree of what it names, its tag's history, what is held of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from regproxy.cache import pins
from regproxy.cache.index.index import TagRow
from regproxy.cache.pins import PinError
from regproxy.inventory.details import NODES_MAX, Node, NotHeld, details
from regproxy.inventory.reading import IndexReader
from tests.support.images import INDEX, MANIFEST, digest_of, make_index
from tests.support.stocked_cache import Stock
from tests.support.stocked_images import bodies, everything, put, read_all

MULTI = make_index(size=2_000, seed=4)
AMD, ARM = MULTI.images


def flat(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from flat(child)


def test_the_tree_of_an_index(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", MULTI, only=(MULTI.digest, *bodies(ARM)))
    pins.pin(stock.root, stock.index, "reg.test/app:1")
    found = details(reader, "reg.test/app:1")
    assert (found.name, found.digest, found.cut) == ("reg.test/app:1", MULTI.digest, False)
    assert found.use is not None and found.use.pins == ("reg.test/app:1",)
    root = found.tree
    assert (root.media_type, root.held) == (INDEX, True)
    amd, arm = root.children
    assert (amd.digest, amd.platform, amd.held, amd.children) == (AMD.digest, "linux/amd64", False, ())
    assert (arm.digest, arm.platform, arm.held, arm.media_type) == (ARM.digest, "linux/arm64", True, MANIFEST)
    assert [child.kind for child in arm.children] == ["config", "layer", "layer"]
    held = {node.digest: node.size for node in flat(root) if node.held}
    assert held == {digest: len(body) for digest, body in bodies(MULTI).items() if digest in held}
    assert held.keys() == {MULTI.digest, *everything(ARM)}


def test_a_tag_and_its_history(stock: Stock, reader: IndexReader) -> None:
    put(stock, "nginx:1", ARM)
    former = TagRow("former x", AMD.digest, MANIFEST, 1, 9e9, 0)
    seen = TagRow(f"first {AMD.digest}", "", MANIFEST, 2_000, 1_000.0, 0)
    stock.index.put_tag("registry-1.docker.io", 443, "library/nginx", "1", former)
    stock.index.put_tag("registry-1.docker.io", 443, "library/nginx", "seen:1", seen)
    assert stock.index.flush()
    found = details(reader, "nginx:1")
    assert found.name == "docker.io/library/nginx:1" and found.digest == ARM.digest
    assert found.tag is not None
    assert [(each.digest, each.current) for each in found.tag.variants] == [
        (ARM.digest, True),
        (AMD.digest, False),
    ]
    (then,) = found.tag.history
    assert (then.digest, then.first_at, then.last_at) == (AMD.digest, 1_000.0, 2_000.0)


def test_a_layer_by_its_digest(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ARM)
    found = details(reader, ARM.layers[0])
    assert found.tag is None and found.tree.children == ()
    assert found.use is not None and found.use.images == ("reg.test/app:1",)


@pytest.mark.parametrize("name", ["reg.test/app:2", ARM.digest, "other.test/app:1"])
def test_what_is_not_held(stock: Stock, reader: IndexReader, name: str) -> None:
    put(stock, "reg.test/app:1", AMD)
    with pytest.raises(NotHeld, match="is not in the cache"):
        details(reader, name)


def test_what_is_no_name(stock: Stock, reader: IndexReader) -> None:
    with pytest.raises(PinError, match="not the name of an image"):
        details(reader, "Reg.test/APP")


def test_a_manifest_that_names_itself_and_too_much(stock: Stock, reader: IndexReader) -> None:
    """Whoever may push can have an index of anything."""
    inner = [{"digest": digest_of(b"%d" % number), "size": 1} for number in range(500)]
    leaves = [
        json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": inner, "no": number}).encode()
        for number in range(8)
    ]
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"digest": digest_of(leaf), "size": "much"} for leaf in leaves],
        }
    ).encode()
    for each in (*leaves, body):
        stock.blob(body=each)
    read_all(stock.root, stock.index)
    found = details(reader, digest_of(body))
    assert found.cut
    assert sum(1 for _ in flat(found.tree)) == NODES_MAX + 1


def test_no_more_is_read_than_others_can_bear(
    stock: Stock, reader: IndexReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever parses much keeps the interpreter from all else."""
    put(stock, "reg.test/app:1", MULTI)
    monkeypatch.setattr("regproxy.inventory.details.BYTES_MAX", len(MULTI.manifest) + len(AMD.manifest))
    found = details(reader, "reg.test/app:1")
    amd, arm = found.tree.children
    assert (len(amd.children), len(arm.children), found.cut) == (3, 0, True)
