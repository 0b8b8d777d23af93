"""A purge takes what was meant and what nothing that stays names, and leaves who reads in peace."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.cache import pins
from regproxy.cache.index.index import TagRow
from regproxy.cache.pins import parse
from regproxy.inventory import purge as module
from regproxy.inventory.purge import Kept, Purge, Selection, SelectionError, purge
from regproxy.inventory.reading import IndexReader
from tests.support.images import MANIFEST, Image, make_image, make_index
from tests.support.stocked_cache import DAY, Stock
from tests.support.stocked_images import bodies, everything, put, size_of

ONE, TWO, THREE = (make_image(size=2_000, seed=seed) for seed in (1, 2, 3))
MULTI = make_index(size=2_000, seed=4)
# Its layers are those of ONE, its configuration and manifest are not.
SISTER = Image(
    ONE.manifest.replace(b'"schemaVersion": 2', b'"schemaVersion": 2, "annotations": {}'),
    *(ONE.config_digest, ONE.layers, ONE.blobs),
)


def run(stock: Stock, reader: IndexReader, *, dry_run: bool = False, **selection: Any) -> Purge:
    if "images" in selection:
        selection["images"] = tuple(map(parse, selection["images"]))
    if "registry" in selection:
        selection["place"] = pins.parse_registry(selection.pop("registry"))
    return purge(reader, stock.index, Selection(**selection), dry_run=dry_run)


def tagged(stock: Stock, name: str) -> bool:
    place = parse(name)
    return bool(stock.index.tag(place.host, place.port, place.repository, place.tag))


def test_an_image_goes_with_all_that_it_names(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", MULTI)
    put(stock, "reg.test/other:1", TWO)
    done = run(stock, reader, images=["reg.test/app:1"])
    assert (done.tags, done.images, done.kept) == (1, ["reg.test/app:1"], [])
    assert (done.objects, done.done, done.bytes) == (len(everything(MULTI)), done.objects, size_of(MULTI))
    assert stock.files() == stock.rows() == everything(TWO)
    assert not tagged(stock, "reg.test/app:1")
    assert tagged(stock, "reg.test/other:1")


def test_a_dry_run_tells_the_same_and_removes_nothing(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    put(stock, "reg.test/app:2", SISTER)
    dry = run(stock, reader, images=["reg.test/app:1"], dry_run=True)
    assert stock.files() == everything(ONE) | everything(SISTER)
    assert tagged(stock, "reg.test/app:1")
    assert (dry.dry_run, dry.done, dry.digests) == (True, 0, [ONE.digest])
    done = run(stock, reader, images=["reg.test/app:1"])
    assert (done.tags, done.objects, done.bytes) == (dry.tags, dry.objects, dry.bytes)
    assert (done.dry_run, done.done) == (False, 1)


@pytest.mark.parametrize("looks", [0, 1, 2], ids=["reading", "choosing", "later"])
def test_stopped_before_it_is_known_what_goes(looks: int, stock: Stock, reader: IndexReader) -> None:
    """While manifests are read, or in the middle of a statement."""
    put(stock, "reg.test/app:1", ONE)
    put(stock, "reg.test/app:2", TWO)
    more = set() if looks else {stock.blob(body=b"nobody has read it")}
    assert stock.index.flush()
    left = [False] * (looks - 1)

    def stops() -> bool:
        return left.pop() if left else True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STEPS", 1)
        found = purge(reader, stock.index, Selection(repository="app"), stops=stops)
    assert found == Purge(0, 0, 0, 0, [], [], [], dry_run=False, cancelled=True)
    assert stock.files() == everything(ONE) | everything(TWO) | more
    with reader.connection() as connection:
        assert not connection.in_transaction
    assert run(stock, reader, repository="app").done == len(everything(ONE) | everything(TWO))


def test_what_an_image_that_stays_names_is_kept(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    put(stock, "other.test/app:1", SISTER)
    done = run(stock, reader, images=["reg.test/app:1"])
    assert stock.files() == everything(SISTER)
    assert {(each.name, each.why) for each in done.kept} == {(digest, "named") for digest in ONE.blobs}


def test_another_tag_of_the_same_content_keeps_it(stock: Stock, reader: IndexReader) -> None:
    for name in ("reg.test/app:1", "reg.test/app:stable"):
        put(stock, name, ONE)
    done = run(stock, reader, images=["reg.test/app:1"])
    assert (done.tags, done.objects) == (1, 0)
    assert stock.files() == everything(ONE)
    assert not tagged(stock, "reg.test/app:1")
    assert tagged(stock, "reg.test/app:stable")


def test_a_digest_goes_from_all_tags(stock: Stock, reader: IndexReader) -> None:
    for name in ("reg.test/app:1", "other.test/app:stable"):
        put(stock, name, ONE)
    done = run(stock, reader, images=[ONE.digest])
    assert sorted(done.images) == ["other.test/app:stable", "reg.test/app:1"]
    assert stock.files() == stock.rows() == set()
    assert not tagged(stock, "reg.test/app:1")
    assert not tagged(stock, "other.test/app:stable")


def test_a_layer_goes_by_its_digest_and_its_images_stay(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    done = run(stock, reader, images=[ONE.layers[0]])
    assert (done.tags, done.objects) == (0, 1)
    assert stock.files() == everything(ONE) - {ONE.layers[0]}
    assert tagged(stock, "reg.test/app:1")


def test_a_repository(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/team/app:1", ONE)
    put(stock, "reg.test/team/app:2", TWO)
    put(stock, f"reg.test/team/app@{THREE.digest}", THREE)
    put(stock, "reg.test/team/tool:1", MULTI)
    done = run(stock, reader, registry="reg.test", repository="team/app")
    assert sorted(done.images) == ["reg.test/team/app:1", "reg.test/team/app:2"]
    assert stock.files() == everything(MULTI)


def test_a_registry_and_not_what_another_one_has_too(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    put(stock, "reg.test/app:2", TWO)
    # Pulled by its digest: no tag names it there.
    put(stock, f"other.test/app@{ONE.digest}", ONE)
    done = run(stock, reader, registry="reg.test")
    assert stock.files() == everything(ONE)
    assert done.tags == 2
    place = ("reg.test", 443, "app")
    assert stock.index.presence(*place, ONE.digest) is None
    assert stock.index.presence("other.test", *place[1:], ONE.digest) is True


def test_the_docker_hub_by_its_name(stock: Stock, reader: IndexReader) -> None:
    put(stock, "nginx:1", ONE)
    done = run(stock, reader, registry="docker.io")
    assert done.images == ["docker.io/library/nginx:1"]
    assert stock.files() == set()


def test_a_tag_wherever_it_is(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:latest", ONE)
    put(stock, "reg.test/app:1", TWO)
    put(stock, "other.test/tool:latest", THREE)
    assert run(stock, reader, tag="latest").tags == 2
    assert stock.files() == everything(TWO)


def test_what_was_not_used_for_long(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:old", ONE, idle=30 * DAY)
    put(stock, "reg.test/app:new", SISTER)
    put(stock, "reg.test/app:also-old", TWO, idle=30 * DAY)
    loose = stock.blob(idle=30 * DAY)
    done = run(stock, reader, unused_since=stock.clock() - 7 * DAY)
    assert sorted(done.images) == ["reg.test/app:also-old", "reg.test/app:old"]
    assert loose not in stock.files()
    # The layers of both were stored when the first came, and belong to what is in use.
    assert stock.files() == everything(SISTER)


def test_conditions_are_taken_together(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:old", ONE, idle=30 * DAY)
    put(stock, "reg.test/app:new", TWO)
    put(stock, "other.test/app:old", THREE, idle=30 * DAY)
    done = run(stock, reader, registry="reg.test", unused_since=stock.clock() - 7 * DAY)
    assert done.images == ["reg.test/app:old"]
    assert stock.files() == everything(TWO) | everything(THREE)
    assert run(stock, reader, images=["reg.test/app:new"], registry="other.test").tags == 0
    assert run(stock, reader, images=[TWO.digest], registry="other.test").objects == 0
    assert run(stock, reader, images=[TWO.digest], registry="reg.test").objects == len(everything(TWO))


def test_what_has_answered_no_request(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:used", ONE)
    put(stock, "reg.test/app:unused", TWO)
    for digest in everything(ONE):
        stock.index.hit(digest)
    assert stock.index.flush()
    assert run(stock, reader, never_hit=True).images == ["reg.test/app:unused"]
    assert stock.files() == everything(ONE)


def test_what_is_pinned_stays_and_is_told(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    put(stock, "reg.test/app:2", TWO)
    pins.pin(stock.root, stock.index, "reg.test/app:1")
    done = run(stock, reader, registry="reg.test")
    assert done.images == ["reg.test/app:2"]
    assert stock.files() == everything(ONE)
    assert tagged(stock, "reg.test/app:1")
    assert Kept("reg.test/app:1", "pinned") in done.kept
    assert {each.name for each in done.kept} == {"reg.test/app:1", *everything(ONE)}
    assert stock.index.presence("reg.test", 443, "app", ONE.digest) is True
    by_digest = run(stock, reader, images=[ONE.digest])
    assert (by_digest.tags, by_digest.objects) == (0, 0)
    assert stock.files() == everything(ONE)


def test_a_pinned_platform_of_an_index_stays(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", MULTI)
    arm = MULTI.images[1]
    pins.pin(stock.root, stock.index, arm.digest)
    run(stock, reader, images=["reg.test/app:1"])
    assert stock.files() == everything(arm)


def test_a_tag_of_content_that_is_not_held(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE, only=ONE.layers)
    done = run(stock, reader, images=["reg.test/app:1"])
    assert (done.tags, done.objects) == (1, 0)
    assert not tagged(stock, "reg.test/app:1")


def test_nothing_selected_is_not_everything(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    with pytest.raises(SelectionError, match="nothing is selected"):
        run(stock, reader)
    assert stock.files() == everything(ONE)


def test_it_can_be_stopped_between_two_pieces(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    asked = iter([False, True, True, True, True, True])
    done = purge(reader, stock.index, Selection(images=(parse("reg.test/app:1"),)), stops=lambda: next(asked))
    assert (done.cancelled, done.done) == (True, 0)
    assert stock.files() == everything(ONE)
    assert not tagged(stock, "reg.test/app:1")


def test_a_manifest_that_came_meanwhile_keeps_what_it_names(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    came: list[str] = []

    def pull(_: Purge) -> None:
        if not came:
            came.append(put(stock, "reg.test/app:2", SISTER))

    purge(reader, stock.index, Selection(images=(parse("reg.test/app:1"),)), on_progress=pull)
    assert stock.files() == everything(SISTER)


def test_whoever_reads_reads_on(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    layer = ONE.layers[0]
    with stock.path(layer).open("rb") as file:
        start = file.read(10)
        run(stock, reader, images=["reg.test/app:1"])
        assert not stock.path(layer).exists()
        assert start + file.read() == bodies(ONE)[layer]


def test_other_processes_hear_of_it(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    with Stock(stock.root) as other:
        assert tagged(other, "reg.test/app:1")
        removed: list[str] = []
        other.index.on_removed = removed.append
        run(stock, reader, images=["reg.test/app:1"])
        other.index.tick()
        assert not tagged(other, "reg.test/app:1")
        assert set(removed) == everything(ONE)


def test_a_tags_history_stays(stock: Stock, reader: IndexReader) -> None:
    put(stock, "reg.test/app:1", ONE)
    place = ("reg.test", 443, "app", "seen:1")
    seen = TagRow(f"first {ONE.digest}", "", MANIFEST, 2_000, 1_000.0, 0)
    stock.index.put_tag(*place, seen)
    assert stock.index.flush()
    run(stock, reader, images=["reg.test/app:1"])
    assert stock.index.tag(*place) == (seen,)


def test_many_pieces(stock: Stock, reader: IndexReader) -> None:
    digests = stock.many(450)
    assert run(stock, reader, unused_since=stock.clock() + 1).done == 450
    assert stock.rows() == set() == stock.files() & set(digests)
