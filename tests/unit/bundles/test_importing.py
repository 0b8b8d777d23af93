"""What is imported is verified, known where it says, and nobody's key to anything else."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.bundles.importing import Import, Importer
from regproxy.bundles.oci_layout import CONTAINERD_NAME, BundleError
from tests.support.images import MANIFEST, digest_of, make_image, make_index, write_layout
from tests.support.stocked_cache import Stock
from tests.support.stocked_images import everything, put

ONE, TWO = (make_image(size=20_000, seed=seed) for seed in (1, 2))
MULTI = make_index(size=20_000, seed=4)
PLACE = ("reg.test", 443, "app")


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "layout", {"reg.test/app:1": ONE})


def take(stock: Stock, source: Path, name: str = "") -> Import:
    return Importer(stock.root, stock.index).run(str(source), io.BytesIO(), name)


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest[7:]


def test_once_more_it_goes_on_where_it_was(stock: Stock, layout: Path) -> None:
    whole = blob(layout, ONE.layers[1]).read_bytes()
    blob(layout, ONE.layers[1]).write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="is damaged"):
        take(stock, layout)
    assert ONE.layers[1] not in stock.files()
    assert stock.index.tag(*PLACE, "1") == ()
    blob(layout, ONE.layers[1]).write_bytes(whole)
    before = len(stock.files())
    done = take(stock, layout)
    assert (done.skipped, done.stored) == (before, len(everything(ONE)) - before)
    assert stock.files() == everything(ONE)
    assert list(stock.parts.iterdir()) == []


def test_whoever_knows_a_digest_gets_nothing_by_it(stock: Stock, layout: Path) -> None:
    """Another registry's content is held; a layout names it, or has as many other bytes in its place."""
    put(stock, "private.test/secret:1", ONE)
    layer = blob(layout, ONE.layers[0])
    layer.unlink()
    (done,) = take(stock, layout).images
    assert (done.error, done.missing) == ("", 1)
    assert stock.index.presence(*PLACE, ONE.layers[0]) is None
    assert stock.index.presence(*PLACE, ONE.layers[1]) is True
    layer.write_bytes(bytes(len(ONE.blobs[ONE.layers[0]])))
    with pytest.raises(BundleError, match="is damaged"):
        take(stock, layout)
    assert stock.index.presence(*PLACE, ONE.layers[0]) is None
    blob(layout, ONE.digest).unlink()
    layer.unlink()
    (refused,) = take(stock, layout).images
    assert "the layout names it, and does not have it" in refused.error


def test_what_a_client_has_deleted_is_there_again(stock: Stock, layout: Path) -> None:
    stock.index.put_absence(*PLACE, ONE.digest)
    take(stock, layout)
    assert stock.index.presence(*PLACE, ONE.digest) is True


def test_a_tag_is_what_it_is_now(stock: Stock, layout: Path) -> None:
    put(stock, "reg.test/app:1", TWO)
    take(stock, layout)
    newest = max(stock.index.tag(*PLACE, "1"), key=lambda row: row.fetched_at)
    assert newest.digest == ONE.digest


def test_a_type_that_the_bytes_do_not_state(stock: Stock, tmp_path: Path) -> None:
    body = ONE.manifest.replace(f'"mediaType": "{MANIFEST}", '.encode(), b"", 1)
    assert body != ONE.manifest
    plain = type(ONE)(body, ONE.config_digest, ONE.layers, ONE.blobs)
    take(stock, write_layout(tmp_path / "plain", {"reg.test/app:1": plain}))
    assert stock.index.told(*PLACE, plain.digest) == MANIFEST


def test_names_of_containerd(stock: Stock, layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"] = {CONTAINERD_NAME: "docker.io/library/nginx:1"}
    (layout / "index.json").write_text(json.dumps(index))
    assert [each.name for each in take(stock, layout).images] == ["docker.io/library/nginx:1"]


BROKEN = [
    ("index.json", b"{", "not valid JSON"),
    ("index.json", b"[]", "not a JSON object"),
    ("index.json", b"{}", "no list of manifests"),
    ("index.json", b'{"manifests": [{"digest": "sha256:x"}]}', "without a sha256 digest"),
    ("index.json", b'{"manifests": [7]}', "without a sha256 digest"),
    ("oci-layout", b'{"imageLayoutVersion": "2.0.0"}', "unknown version '2.0.0'"),
    ("oci-layout", b"{}", "unknown version None"),
    ("index.json", None, "no such file, so this is no image layout"),
    ("oci-layout", None, "no such file, so this is no image layout"),
]


@pytest.mark.parametrize("name, text, says", BROKEN)
def test_what_is_no_layout(stock: Stock, layout: Path, name: str, text: bytes | None, says: str) -> None:
    (layout / name).unlink() if text is None else (layout / name).write_bytes(text)
    with pytest.raises(BundleError, match=says):
        take(stock, layout)
    assert stock.index.tag(*PLACE, "1") == ()


def test_what_is_no_archive(stock: Stock, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no archive" * 1000)
    with pytest.raises(BundleError, match="no tar archive"):
        take(stock, tmp_path / "x.tar")


def archive(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        if link:
            info = tarfile.TarInfo(f"blobs/sha256/{ONE.layers[0][7:]}")
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    return path


def test_paths_of_an_archive_lead_nowhere(stock: Stock, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not to be read")
    hostile = {"../../evil": b"x", "/etc/evil": b"x", "blobs/sha256/../../evil": b"x", "index.json/x": b"x"}
    source = archive(tmp_path / "x.tar", hostile, link=str(secret))
    with pytest.raises(BundleError, match=r"it has no index\.json"):
        take(stock, source)
    assert stock.files() == set()
    assert not list(tmp_path.glob("**/evil"))


def test_the_index_may_come_first_or_last(stock: Stock, layout: Path, tmp_path: Path) -> None:
    files = {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    for number, order in enumerate((sorted(files), sorted(files, reverse=True))):
        source = archive(tmp_path / f"{number}.tar", {f"./{name}": files[name] for name in order})
        assert take(stock, source).images[0].error == ""


def test_a_name_for_several(stock: Stock, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "two", {"reg.test/app:1": ONE, "reg.test/app:2": MULTI})
    with pytest.raises(BundleError, match="--name is for a layout of one image"):
        take(stock, layout, "reg.test/app:3")
    assert stock.files() == everything(ONE) | everything(MULTI)


def test_a_manifest_of_another_type_than_it_is_said_to_be(stock: Stock, layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["mediaType"] = "application/vnd.oci.image.index.v1+json"
    (layout / "index.json").write_text(json.dumps(index))
    (refused,) = take(stock, layout).images
    assert "sent as" in refused.error
    assert stock.index.tag(*PLACE, "1") == ()


@pytest.mark.parametrize("told", ["text/x\r\nset-cookie: a=b", "\ud800/x", "\x9b31m/x"], ids=ascii)
def test_a_type_that_is_no_type(stock: Stock, tmp_path: Path, told: str) -> None:
    """It would be a Content-Type for clients, and nothing that the index takes."""
    body = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
    layout = write_layout(tmp_path / "layout", {"reg.test/app:1": ONE})
    blob(layout, digest_of(body)).write_bytes(body)
    entry = {"mediaType": told, "digest": digest_of(body), "annotations": {CONTAINERD_NAME: "reg.test/app:1"}}
    (layout / "index.json").write_text(json.dumps({"manifests": [entry]}))
    (done,) = take(stock, layout).images
    assert done.error == ""
    assert [row.media_type for row in stock.index.tag(*PLACE, "1")] == [MANIFEST]


def test_what_is_evicted_meanwhile(stock: Stock, layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closure = Importer._closure

    def late(importer: Importer, digest: str, body: bytes) -> Iterator[tuple[str, bool]]:
        stock.path(ONE.layers[0]).unlink()
        return closure(importer, digest, body)

    monkeypatch.setattr(Importer, "_closure", late)
    (done,) = take(stock, layout).images
    assert (done.error, done.missing) == ("", 1)
    assert stock.index.presence(*PLACE, ONE.layers[0]) is None
    assert stock.index.presence(*PLACE, ONE.layers[1]) is True


def test_more_than_the_cache_may_hold(stock: Stock, layout: Path) -> None:
    sizes = [path.stat().st_size for path in (layout / "blobs" / "sha256").iterdir()]

    def run(room: int) -> Import:
        return Importer(stock.root, stock.index, room=room).run(str(layout), io.BytesIO())

    with pytest.raises(BundleError, match="CACHE_MAX_SIZE"):
        run(sum(sizes) - 1)
    assert sum(stock.path(each).stat().st_size for each in stock.files()) < sum(sizes)
    # What is held by now takes no room.
    assert len(run(max(sizes)).images) == 1


def test_a_directory_with_a_pipe_in_it(stock: Stock, layout: Path) -> None:
    """Opening it would wait for a writer."""
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    with pytest.raises(BundleError, match="a pipe"):
        take(stock, layout)
