"""What manifests name, and that nothing in them can do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.registry.descriptors import NAMED_MAX, Named, described, named, platform
from tests.support.images import make_image, make_index


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def test_an_image_and_an_index() -> None:
    index = make_index()
    assert named(index.manifest) == Named(
        {image.digest: f"linux/{image.architecture}" for image in index.images}
    )
    image = make_image()
    assert named(image.manifest) == Named(blobs=frozenset(image.blobs))


@pytest.mark.parametrize(
    "document, want",
    [
        ({"fsLayers": [{"blobSum": digest(1)}, {"blobSum": 2}, 3]}, Named(blobs=frozenset({digest(1)}))),
        ({"blobs": [{"digest": digest(1)}]}, Named(blobs=frozenset({digest(1)}))),
        ({"config": {"digest": digest(1)}, "layers": None}, Named(blobs=frozenset({digest(1)}))),
        ({"layers": [{"digest": "sha256:x"}, {"digest": 5}, {}, [], None]}, Named()),
        ({"manifests": {"digest": digest(1)}, "config": [digest(1)]}, Named()),
        ([], Named()),
        (5, Named()),
    ],
    ids=str,
)
def test_other_documents(document: object, want: Named) -> None:
    assert named(encoded(document)) == want


@pytest.mark.parametrize("section", ["manifests", "layers"])
def test_what_names_too_much_is_cut(section: str) -> None:
    found = named(encoded({section: [{"digest": digest(number)} for number in range(2 * NAMED_MAX)]}))
    assert not found.whole
    assert len(found.children) + len(found.blobs) == NAMED_MAX + 1


@pytest.mark.parametrize(
    "told, want",
    [
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, "linux/arm64/v8"),
        ({"os": "linux", "architecture": "amd64"}, "linux/amd64"),
        ({"os": "unknown", "architecture": "unknown"}, ""),
        ({"os": 1, "architecture": None}, ""),
        ({"os": "linux", "architecture": "arm/v7"}, "linux/arm/v7"),
        ({"os": "linux", "architecture": "\ud800"}, ""),
        ({"os": "linux\x1b[2J", "architecture": "amd64"}, ""),
        ({"os": "linux", "architecture": "a" * 65}, ""),
        (None, ""),
        ("linux", ""),
    ],
    ids=str,
)
def test_platforms(told: object, want: str) -> None:
    assert platform(told) == want


def test_only_a_type_is_a_type() -> None:
    told = ["a/b", "\x1b]52;c;YQ==\x07", "\ud800/x", "a/" + "b" * 128]
    layers = [{"digest": digest(number), "mediaType": each} for number, each in enumerate(told)]
    assert [each.media_type for each in described(encoded({"layers": layers}))] == ["a/b", "", "", ""]


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["digest", "platform", "layers", "manifests", "config"]), inner)
    ),
)


@given(JSON | st.binary())
def test_nothing_raises(told: Any) -> None:
    named(told if isinstance(told, bytes) else encoded(told))
