"""Pins: what a name means is found, followed to all that belongs to it, and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from regproxy.cache import pins
from regproxy.cache.eviction import Evictor, Limits
from regproxy.cache.index.index import TagKey, TagRow
from regproxy.cache.pins import PinError, Pinned, Reference
from tests.support import ROOT
from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image, make_index
from tests.support.images import Index as ImageIndex
from tests.support.stocked_cache import DAY, Stock

HUB = "registry-1.docker.io"
DIGEST = "sha256:" + "a1" * 32


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    with Stock(tmp_path / "cache") as stock:
        yield stock


def tag(stock: Stock, digest: str, *, variant: str = "any", at: TagKey | None = None) -> None:
    """registry.k8s.io/pause:3.9 is this, or the tag `at`."""
    key = at or ("registry.k8s.io", 443, "pause", "3.9")
    stock.index.put_tag(*key, TagRow(variant, digest, MANIFEST, 1, 1.0, 0))
    assert stock.index.flush()


def hold(stock: Stock, image: Image | ImageIndex, *, without: tuple[str, ...] = ()) -> None:
    """Have an image in the cache."""
    bodies = [image.manifest, *(child.manifest for child in image.images), *image.blobs.values()]
    for body in dict.fromkeys(bodies):
        if digest_of(body) not in without:
            stock.blob(body=body, idle=30 * DAY)


def everything(image: Image | ImageIndex) -> set[str]:
    return {image.digest, *(child.digest for child in image.images), *image.blobs}


def pinned(stock: Stock) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, digest in stock.index.pins():
        found.setdefault(name, set()).add(digest)
    return found


NAMES = [
    ("nginx", Reference(HUB, 443, "library/nginx", "latest", ""), "docker.io/library/nginx:latest"),
    ("nginx:1.25", Reference(HUB, 443, "library/nginx", "1.25", ""), "docker.io/library/nginx:1.25"),
    ("bitnami/redis", Reference(HUB, 443, "bitnami/redis", "latest", ""), "docker.io/bitnami/redis:latest"),
    ("docker.io/nginx", Reference(HUB, 443, "library/nginx", "latest", ""), "docker.io/library/nginx:latest"),
    (f"{HUB}/a/b:c", Reference(HUB, 443, "a/b", "c", ""), "docker.io/a/b:c"),
    ("docker://quay.io/a/b", Reference("quay.io", 443, "a/b", "latest", ""), "quay.io/a/b:latest"),
    (
        "registry.k8s.io/pause:3.9",
        Reference("registry.k8s.io", 443, "pause", "3.9", ""),
        "registry.k8s.io/pause:3.9",
    ),
    ("localhost/x", Reference("localhost", 443, "x", "latest", ""), "localhost/x:latest"),
    ("Host:5000/a/b:c", Reference("host", 5000, "a/b", "c", ""), "host:5000/a/b:c"),
    ("[::1]:5000/a", Reference("::1", 5000, "a", "latest", ""), "[::1]:5000/a:latest"),
    (f"host:5000/a@{DIGEST}", Reference("host", 5000, "a", "", DIGEST), f"host:5000/a@{DIGEST}"),
    (
        f"nginx:1.25@{DIGEST}",
        Reference(HUB, 443, "library/nginx", "", DIGEST),
        f"docker.io/library/nginx@{DIGEST}",
    ),
    (DIGEST, Reference("", 0, "", "", DIGEST), DIGEST),
]
NONSENSE = [
    "",
    "/",
    ":",
    "@",
    "nginx:",
    "nginx@",
    "Nginx",
    "nginx:a b",
    "sha256:12",
    "nginx@sha256:12",
    f"nginx@{DIGEST.upper()}",
    "host:port/nginx",
    "host:99999/nginx",
    "registry.k8s.io/",
    "https://registry.k8s.io/pause",
    "a//b",
    "../etc/passwd",
    "nginx:../x",
]


@pytest.mark.parametrize("text, want, name", NAMES, ids=[case[0] for case in NAMES])
def test_names(text: str, want: Reference, name: str) -> None:
    assert pins.parse(text) == want
    assert want.name == name
    assert pins.parse(name) == want


@pytest.mark.parametrize("text", NONSENSE, ids=repr)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(PinError, match="an image, such as nginx"):
        pins.parse(text)


class TestPin:
    def test_an_image_by_its_tag(self, stock: Stock) -> None:
        image = make_image()
        hold(stock, image)
        tag(stock, image.digest)
        found = pins.pin(stock.root, stock.index, "registry.k8s.io/pause:3.9")
        size = len(image.manifest) + sum(map(len, image.blobs.values()))
        assert found == Pinned("registry.k8s.io/pause:3.9", 4, 4, size)
        assert pinned(stock) == {"registry.k8s.io/pause:3.9": everything(image)}

    def test_docker_hubs_short_name(self, stock: Stock) -> None:
        image = make_image()
        hold(stock, image)
        tag(stock, image.digest, at=(HUB, 443, "library/nginx", "latest"))
        pins.pin(stock.root, stock.index, "nginx")
        assert pinned(stock) == {"docker.io/library/nginx:latest": everything(image)}

    def test_all_variants_of_a_tag(self, stock: Stock) -> None:
        one, two = make_image(seed=1), make_index(seed=2)
        hold(stock, one)
        hold(stock, two)
        tag(stock, one.digest, variant="single")
        tag(stock, two.digest, variant="index")
        pins.pin(stock.root, stock.index, "registry.k8s.io/pause:3.9")
        (digests,) = pinned(stock).values()
        assert digests == everything(one) | everything(two)

    def test_what_is_named_and_not_held_is_kept_when_it_comes(self, stock: Stock) -> None:
        image = make_index()
        other = image.images[1]
        hold(stock, image, without=(other.digest, *other.blobs))
        found = pins.pin(stock.root, stock.index, f"quay.io/a@{image.digest}")
        (digests,) = pinned(stock).values()
        assert digests == {image.digest, other.digest} | everything(image.images[0])
        assert (found.digests, found.held) == (6, 5)
        # Its manifest comes and is looked at when it is pinned anew.
        hold(stock, other)
        assert pins.pin(stock.root, stock.index, f"quay.io/a@{image.digest}").held == 9

    def test_an_index_that_names_too_much(self, stock: Stock) -> None:
        made_up = [{"digest": f"sha256:{number:064x}"} for number in range(pins.MOST_PINNED)]
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": made_up}).encode()
        digest = stock.blob(body=body)
        with pytest.raises(PinError, match="names more than 20,000 contents"):
            pins.pin(stock.root, stock.index, digest)
        assert pinned(stock) == {}

    def test_indexes_that_name_too_much_together(self, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
        """No more of them are read than it takes to know that: each may have MANIFEST_MAX bytes."""
        monkeypatch.setattr(pins, "MOST_PINNED", 20)
        indexes = []
        for start in range(0, 100, 10):
            made_up = [{"digest": f"sha256:{number:064x}"} for number in range(start, start + 10)]
            body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": made_up}).encode()
            indexes.append({"digest": stock.blob(body=body)})
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": indexes}).encode()
        digest, read_small = stock.blob(body=body), pins._read_small
        read: list[str] = []

        def read_and_note(root: Path, digest: str) -> bytes:
            read.append(digest)
            return read_small(root, digest)

        monkeypatch.setattr(pins, "_read_small", read_and_note)
        with pytest.raises(PinError, match="names more than 20 contents"):
            pins.pin(stock.root, stock.index, digest)
        assert read == [digest, *(each["digest"] for each in indexes[:1])]

    def test_a_layer_by_its_digest(self, stock: Stock) -> None:
        layer, other = stock.blob(5000), stock.blob(5000)
        assert pins.pin(stock.root, stock.index, layer) == Pinned(layer, 1, 1, 5000)
        assert other not in pinned(stock)[layer]

    def test_json_that_is_no_manifest_is_not_followed(self, stock: Stock) -> None:
        """An image's configuration may name anything."""
        config = stock.blob(body=json.dumps({"config": {"digest": DIGEST}, "layers": [DIGEST]}).encode())
        pins.pin(stock.root, stock.index, config)
        assert pinned(stock) == {config: {config}}

    def test_a_manifest_that_has_rotted_is_not_followed(self, stock: Stock) -> None:
        image = make_image()
        hold(stock, image)
        path = stock.path(image.digest)
        path.write_bytes(path.read_bytes().replace(b"sha256:", b"sha256:0", 1))
        assert pins.pin(stock.root, stock.index, image.digest).digests == 1

    def test_schema_1_and_artifacts(self, stock: Stock) -> None:
        layers = [stock.blob(100), stock.blob(200)]
        old = {"schemaVersion": 1, "fsLayers": [{"blobSum": layers[0]}, {"blobSum": "md5:x"}, 5, None]}
        artifact = {
            "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
            "blobs": [{"digest": layers[1]}],
        }
        for document, layer in zip((old, artifact), layers, strict=True):
            digest = stock.blob(body=json.dumps(document).encode())
            pins.pin(stock.root, stock.index, digest)
            assert pinned(stock)[digest] == {digest, layer}

    def test_an_index_that_names_itself(self, stock: Stock) -> None:
        """No digest can, but what is held under a name may name what is pinned already: it ends."""
        inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
        entries = [{"digest": stock.blob(body=inner)}] * 3
        outer = stock.blob(
            body=json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        )
        assert pins.pin(stock.root, stock.index, outer).digests == 2

    def test_a_tag_that_has_moved_is_pinned_anew(self, stock: Stock) -> None:
        old, new = make_image(seed=1), make_image(seed=2)
        for image in (old, new):
            hold(stock, image)
            tag(stock, image.digest)
            pins.pin(stock.root, stock.index, "registry.k8s.io/pause:3.9")
        assert pinned(stock) == {"registry.k8s.io/pause:3.9": everything(new)}

    @pytest.mark.parametrize("name", ["nginx", DIGEST, f"quay.io/a@{DIGEST}"])
    def test_what_is_not_in_the_cache(self, stock: Stock, name: str) -> None:
        with pytest.raises(PinError, match=r"is not in the cache: pull .* first"):
            pins.pin(stock.root, stock.index, name)
        assert pinned(stock) == {}

    def test_a_tag_whose_manifest_was_removed(self, stock: Stock) -> None:
        tag(stock, DIGEST)
        with pytest.raises(PinError, match="is not in the cache"):
            pins.pin(stock.root, stock.index, "registry.k8s.io/pause:3.9")

    def test_eviction_leaves_it(self, stock: Stock) -> None:
        image = make_image()
        hold(stock, image)
        other = stock.blob(idle=DAY)
        pins.pin(stock.root, stock.index, image.digest)
        limits = Limits(max_size=1, inactive=1.0, min_free=0)
        with closing(Evictor(stock.root, stock.index, limits, stock.clock, stock.clock.monotonic)) as evictor:
            while evictor.step().more:
                pass
        assert stock.files() == everything(image) and other not in stock.files()


class TestUnpin:
    def test_by_any_spelling(self, stock: Stock) -> None:
        image = make_image()
        hold(stock, image)
        tag(stock, image.digest, at=(HUB, 443, "library/nginx", "latest"))
        pins.pin(stock.root, stock.index, "nginx")
        assert pins.unpin(stock.index, "docker.io/nginx:latest").name == "docker.io/library/nginx:latest"
        assert pinned(stock) == {}

    def test_what_is_not_pinned(self, stock: Stock) -> None:
        with pytest.raises(PinError, match=r"docker\.io/library/nginx:latest is not pinned"):
            pins.unpin(stock.index, "nginx")


# --- the command -----------------------------------------------------------------------------------------


def command(stock: Stock, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "REGPROXY_CACHE_DIR": str(stock.root), **more}
    return subprocess.run(
        [sys.executable, "-m", "regproxy", "cache", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestCommand:
    def test_pin_list_unpin(self, stock: Stock) -> None:
        image = make_image()
        hold(stock, image)
        tag(stock, image.digest)
        done = command(stock, "pin", "registry.k8s.io/pause:3.9")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pinned registry.k8s.io/pause:3.9: 4 blobs, ")
        done = command(stock, "pins")
        assert done.returncode == 0 and done.stdout.startswith("registry.k8s.io/pause:3.9\t4 blobs, ")
        done = command(stock, "unpin", "registry.k8s.io/pause:3.9")
        assert (done.returncode, done.stdout) == (0, "unpinned registry.k8s.io/pause:3.9\n")
        done = command(stock, "pins")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing is pinned\n")

    def test_one_of_several_is_not_there(self, stock: Stock) -> None:
        held = stock.blob()
        done = command(stock, "pin", "nginx", held)
        assert done.returncode == 1
        assert "docker.io/library/nginx:latest is not in the cache: pull" in done.stderr
        assert pinned(stock) == {held: {held}}
        done = command(stock, "unpin", "nginx", held)
        assert done.returncode == 1 and "is not pinned" in done.stderr
        assert pinned(stock) == {}

    def test_what_is_no_name(self, stock: Stock) -> None:
        done = command(stock, "pin", "No Such")
        assert done.returncode == 1 and "an image, such as nginx" in done.stderr

    def test_status(self, stock: Stock) -> None:
        old = stock.blob(5000, idle=DAY)
        stock.blob(3000)
        stock.index.set_complete()
        stock.index.pin("x", [old])
        done = command(stock, "status", CACHE_MAX_SIZE="10g", REGPROXY_MIN_FREE="1g", TZ="UTC")
        assert (done.returncode, done.stderr) == (0, "")
        shown = {line[:11].strip(): line[12:] for line in done.stdout.splitlines()}
        assert shown.pop("free").endswith("; to be kept free: 1.0 GiB")
        assert shown.pop("oldest use").endswith(" +0000")
        assert shown == {
            "directory": str(stock.root),
            "downloads": "0 B",
            "index": "complete",
            "blobs": "2, 7.8 KiB",
            "on disk": "12.0 KiB",
            "limit": "10.0 GiB",
            "pins": "1",
            "quarantine": "0 files",
        }

    def test_no_such_cache(self, stock: Stock) -> None:
        done = command(stock, "status", REGPROXY_CACHE_DIR=str(stock.root / "nowhere"))
        assert done.returncode == 2 and "no such directory" in done.stderr
        assert not os.path.exists(stock.root / "nowhere")  # noqa: PTH110
