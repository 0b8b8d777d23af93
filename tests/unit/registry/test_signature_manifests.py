"""What the manifests say that list an image's signatures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from regproxy.registry.signature_manifests import (
    LAYERS_MAX,
    LIST_MAX,
    REFERRERS_MAX,
    SIGN_PREDICATE,
    SIGNATURE_ARTIFACT,
    SIMPLE_SIGNING,
    Referrer,
    SignatureLayer,
    referrers,
    referrers_tag,
    signature_layers,
    signature_tag,
)

DIGEST = "sha256:" + "ab" * 32
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "dev.sigstore.bundle.predicateType"
SIGNED = {"dev.cosignproject.cosign/signature": "c2ln"}


def entry(**members: Any) -> dict[str, Any]:
    return {"digest": DIGEST, "size": 5} | members


def test_tags() -> None:
    assert signature_tag(DIGEST) == f"sha256-{'ab' * 32}.sig"
    assert referrers_tag(DIGEST) == f"sha256-{'ab' * 32}"


LAYERS: dict[str, tuple[list[Any], list[SignatureLayer]]] = {
    "none": ([], []),
    "a payload": ([entry(mediaType=SIMPLE_SIGNING, annotations=SIGNED)], [SignatureLayer(DIGEST, 5, "c2ln")]),
    "a payload without a signature": ([entry(mediaType=SIMPLE_SIGNING)], []),
    "a signature that is no text": (
        [entry(mediaType=SIMPLE_SIGNING, annotations={"dev.cosignproject.cosign/signature": 1})],
        [],
    ),
    "a bundle": ([entry(mediaType=BUNDLE, annotations=SIGNED)], [SignatureLayer(DIGEST, 5)]),
    "an older bundle": (
        [entry(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1")],
        [SignatureLayer(DIGEST, 5)],
    ),
    "others": ([entry(mediaType="text/plain", annotations=SIGNED), entry()], []),
    "annotations that are none": ([entry(mediaType=SIMPLE_SIGNING, annotations=[])], []),
}


@pytest.mark.parametrize("layers, want", LAYERS.values(), ids=LAYERS.keys())
def test_layers(layers: list[Any], want: list[SignatureLayer]) -> None:
    assert signature_layers(json.dumps({"layers": layers}).encode()) == want


@pytest.mark.parametrize("predicate, count", [(SIGN_PREDICATE, 1), ("https://cyclonedx.org/bom", 0)])
def test_attestations(predicate: str, count: int) -> None:
    notes = {PREDICATE: predicate}
    manifest = json.dumps({"annotations": notes, "layers": [entry(mediaType=BUNDLE)]}).encode()
    assert len(signature_layers(manifest)) == count
    index = json.dumps({"manifests": [entry(artifactType=BUNDLE, annotations=notes)]}).encode()
    assert len(referrers(index)) == count


@pytest.mark.parametrize(
    "artifact, counts",
    [
        (BUNDLE, True),
        (SIGNATURE_ARTIFACT, True),
        (None, True),
        ("", True),
        ("application/spdx+json", False),
        (1, False),
        ("application/vnd.dev.cosign.artifact.sbom.v1+json", False),
    ],
)
def test_referrers(artifact: object, counts: bool) -> None:
    index = json.dumps({"manifests": [entry(artifactType=artifact)]}).encode()
    assert referrers(index) == ([Referrer(DIGEST, 5)] if counts else [])


BAD: dict[str, Any] = {
    "an array": [],
    "nothing": {},
    "no list": {"layers": {}, "manifests": "x"},
    "no descriptor": {"layers": [1], "manifests": [1]},
    "no digest": {"layers": [{"size": 1}], "manifests": [{"size": 1}]},
    "another digest": {name: [{"digest": "sha512:00", "size": 1}] for name in ("layers", "manifests")},
    "no size": {name: [{"digest": DIGEST}] for name in ("layers", "manifests")},
    "a size that is none": {name: [{"digest": DIGEST, "size": True}] for name in ("layers", "manifests")},
    "a negative size": {name: [entry(size=-1)] for name in ("layers", "manifests")},
    "too many": {"layers": [entry()] * (LAYERS_MAX + 1), "manifests": [entry()] * (REFERRERS_MAX + 1)},
    "too large": {"layers": [], "manifests": [], "x": "x" * LIST_MAX},
}


@pytest.mark.parametrize("document", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("read", [signature_layers, referrers])
def test_refused(read: Any, document: Any) -> None:
    with pytest.raises(ValueError):
        read(json.dumps(document).encode())
