"""Images go out as layouts that other tools take, and come in again; what is damaged does neither."""

from __future__ import annotations

import errno
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.bundles.exporting import Exported, export, plan
from regproxy.bundles.importing import Import, Importer
from regproxy.bundles.oci_layout import FULL_NAME, REF_NAME, BundleError
from regproxy.bundles.writing import TarWriter, writer_for
from regproxy.cache.pins import parse
from tests.support.images import INDEX, Image, make_image, make_index, write_layout
from tests.support.images import Index as ImageIndex
from tests.support.stocked_cache import Stock
from tests.support.stocked_images import bodies, everything, put

ONE, TWO = (make_image(size=20_000, seed=seed) for seed in (1, 2))
MULTI = make_index(size=20_000, seed=4)
AMD, ARM = MULTI.images


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "other") as stock:
        yield stock


def write(stock: Stock, target: Path | str, *names: str, platforms: tuple[str, ...] = ()) -> list[Exported]:
    found = list(plan(stock.root, stock.index, names, platforms))
    assert [each.error for each in found] == [""] * len(names)
    export(stock.root, found, writer_for(str(target), io.BytesIO()))
    return found


def take(stock: Stock, source: Path, name: str = "") -> Import:
    return Importer(stock.root, stock.index).run(str(source), io.BytesIO(), name)


def digests_of(stock: Stock, name: str) -> set[str]:
    place = parse(name)
    return {row.digest for row in stock.index.tag(place.host, place.port, place.repository, place.tag)}


def skopeo(*words: str) -> str:
    """Run skopeo, which reads no configuration of this machine for that."""
    policy = ["skopeo", "--insecure-policy", *words]
    return subprocess.run(policy, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("target", ["layout", "images.tar"])
def test_out_and_in_again(stock: Stock, other: Stock, tmp_path: Path, target: str) -> None:
    put(stock, "nginx:1", ONE)
    put(stock, "reg.test:5000/team/app:2", MULTI)
    found = write(stock, tmp_path / target, "nginx:1", "reg.test:5000/team/app:2")
    assert [(each.objects, each.missing) for each in found] == [
        (len(everything(ONE)), 0),
        (len(everything(MULTI)), 0),
    ]
    done = take(other, tmp_path / target)
    assert [(each.name, each.error, each.missing) for each in done.images] == [
        ("docker.io/library/nginx:1", "", 0),
        ("reg.test:5000/team/app:2", "", 0),
    ]
    assert (done.stored, done.skipped) == (len(everything(ONE) | everything(MULTI)), 0)
    assert other.files() == other.rows() == everything(ONE) | everything(MULTI)
    for digest, body in (bodies(ONE) | bodies(MULTI)).items():
        assert other.path(digest).read_bytes() == body
    assert digests_of(other, "nginx:1") == {ONE.digest}
    (row,) = other.index.tag("reg.test", 5000, "team/app", "2")
    assert (row.digest, row.media_type, row.named) == (MULTI.digest, INDEX, 0)
    for digest in everything(MULTI):
        assert other.index.presence("reg.test", 5000, "team/app", digest) is True
        assert not other.index.presence("registry-1.docker.io", 443, "library/nginx", digest)
    assert list(other.parts.iterdir()) == []


def test_the_names_in_it(stock: Stock, tmp_path: Path) -> None:
    put(stock, "nginx:1", ONE)
    write(stock, tmp_path / "layout", "nginx:1", f"nginx@{ONE.digest}")
    index = json.loads((tmp_path / "layout" / "index.json").read_text())
    tagged, by_digest = (each["annotations"] for each in index["manifests"])
    assert (tagged[REF_NAME], tagged[FULL_NAME]) == ("1", "docker.io/library/nginx:1")
    assert REF_NAME not in by_digest
    assert by_digest[FULL_NAME] == f"docker.io/library/nginx@{ONE.digest}"
    version = json.loads((tmp_path / "layout" / "oci-layout").read_text())
    assert version == {"imageLayoutVersion": "1.0.0"}


@pytest.mark.parametrize("image", [ONE, MULTI], ids=["image", "index"])
def test_skopeo_takes_it(stock: Stock, tmp_path: Path, image: Image | ImageIndex) -> None:
    put(stock, "reg.test/app:1", image)
    write(stock, tmp_path / "images.tar", "reg.test/app:1")
    skopeo("copy", "--all", f"oci-archive:{tmp_path}/images.tar:1", f"dir:{tmp_path}/dir")
    assert (tmp_path / "dir" / "manifest.json").read_bytes() == image.manifest
    for digest, body in image.blobs.items():
        assert (tmp_path / "dir" / digest[7:]).read_bytes() == body


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_of_skopeo(other: Stock, tmp_path: Path, packed: bool) -> None:
    layout = write_layout(tmp_path / "layout", {"1": MULTI})
    archive = tmp_path / "images.tar"
    skopeo("copy", "--all", f"oci:{layout}:1", f"oci-archive:{archive}:1")
    if packed:
        subprocess.run(["gzip", archive], check=True)
        archive = tmp_path / "images.tar.gz"
    (refused,) = take(other, archive).images
    assert "it is tagged 1" in refused.error and "--name" in refused.error
    done = take(other, archive, "reg.test/app:1")
    assert (done.images[0].name, done.images[0].error) == ("reg.test/app:1", "")
    assert digests_of(other, "reg.test/app:1") == {MULTI.digest}
    assert other.files() >= everything(MULTI)


def test_platforms(stock: Stock, other: Stock, tmp_path: Path) -> None:
    put(stock, "reg.test/app:1", MULTI)
    (found,) = write(stock, tmp_path / "layout", "reg.test/app:1", platforms=("linux/arm64",))
    assert found.missing == 1
    (done,) = take(other, tmp_path / "layout").images
    assert (done.error, done.missing) == ("", 1)
    assert other.files() == {MULTI.digest, *everything(ARM)}
    (none,) = plan(stock.root, stock.index, ["reg.test/app:1"], ("linux/s390x",))
    assert "no image for linux/s390x in it" in none.error


def test_what_is_held_of_an_index(stock: Stock, tmp_path: Path) -> None:
    put(stock, "reg.test/app:1", MULTI, without=(AMD.layers[0],))
    (found,) = write(stock, tmp_path / "layout", "reg.test/app:1")
    assert (set(found.contents), found.missing) == ({MULTI.digest, *everything(ARM)}, 1)


def test_what_is_not_held_whole(stock: Stock) -> None:
    put(stock, "reg.test/app:1", ONE, without=(ONE.layers[1],))
    put(stock, "reg.test/app:2", TWO, without=(TWO.digest,))
    names = ["reg.test/app:1", "reg.test/app:2", "reg.test/app:3", "APP", ONE.digest]
    errors = [each.error for each in plan(stock.root, stock.index, names)]
    assert "1 of its blobs are not in the cache" in errors[0]
    assert all("is not in the cache" in error for error in errors[1:3])
    assert "not the name of an image" in errors[3]
    assert "an image needs a name" in errors[4]


@pytest.mark.parametrize("target", ["layout", "images.tar"])
def test_damaged_content_does_not_go_out(stock: Stock, tmp_path: Path, target: str) -> None:
    put(stock, "reg.test/app:1", ONE)
    path = stock.path(ONE.layers[0])
    path.write_bytes(bytes(path.stat().st_size))
    found = list(plan(stock.root, stock.index, ["reg.test/app:1"]))
    with pytest.raises(BundleError, match="is damaged"):
        export(stock.root, found, writer_for(str(tmp_path / target), io.BytesIO()))
    assert not (tmp_path / "images.tar").exists()
    assert not (tmp_path / "layout" / "index.json").exists()
    assert not list(tmp_path.glob("**/*.partial"))


def test_content_that_goes_meanwhile(stock: Stock, tmp_path: Path) -> None:
    put(stock, "reg.test/app:1", ONE)
    found = list(plan(stock.root, stock.index, ["reg.test/app:1"]))
    stock.path(ONE.layers[0]).unlink()
    with pytest.raises(BundleError, match="removed from the cache meanwhile"):
        export(stock.root, found, writer_for(str(tmp_path / "layout"), io.BytesIO()))


def test_a_directory_goes_on_where_it_was(stock: Stock, tmp_path: Path) -> None:
    put(stock, "reg.test/app:1", ONE)
    write(stock, tmp_path / "layout", "reg.test/app:1")
    (tmp_path / "layout" / "index.json").unlink()
    blob = tmp_path / "layout" / "blobs" / "sha256" / ONE.layers[0][7:]
    before = blob.stat().st_ino
    write(stock, tmp_path / "layout", "reg.test/app:1")
    assert blob.stat().st_ino == before


def test_by_a_stream(stock: Stock, other: Stock, tmp_path: Path) -> None:
    put(stock, "reg.test/app:1", ONE)
    stream = io.BytesIO()
    found = list(plan(stock.root, stock.index, ["reg.test/app:1"]))
    export(stock.root, found, writer_for("-", stream))
    stream.seek(0)
    Importer(other.root, other.index).run("-", stream)
    assert digests_of(other, "reg.test/app:1") == {ONE.digest}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"an archive's name ends in \.tar"):
        writer_for(str(tmp_path / "file"), io.BytesIO())


def test_a_disk_that_is_full_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of an archive whose last blocks can't be written, and no file stays open."""
    writer = TarWriter(tmp_path / "images.tar")

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def finish() -> None:
        with writer:
            monkeypatch.setattr(writer._tar, "close", full)

    with pytest.raises(OSError, match="No space left"):
        finish()
    assert list(tmp_path.iterdir()) == []
    assert writer._file.closed
