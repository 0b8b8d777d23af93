"""Where an image's signatures are in a registry, and what the manifests that list them say.

cosign stores them in two ways. Under the tag `sha256-<hex>.sig` is a manifest with a layer for each
signature: the layer is what was signed, its annotation the signature (cosign, SIGNATURE_SPEC.md). Or each
signature is a manifest of its own that refers to the image (BUNDLE_SPEC.md; OCI distribution spec, "Listing
Referrers" and "Referrers Tag Schema").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from regproxy.registry.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from regproxy.registry.strict_json import read_strictly
from regproxy.registry.targets import is_digest

LIST_MAX: Final = 1_048_576  # bytes of a manifest of signatures, or a list of referrers
LAYERS_MAX: Final = 128  # layers of one manifest of signatures
REFERRERS_MAX: Final = 1024  # entries of a list of referrers

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ARTIFACT: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
SIGNATURE_ACCEPT: Final = f"{OCI_MANIFEST}, {DOCKER_MANIFEST}".encode()
REFERRERS_ACCEPT: Final = OCI_INDEX.encode()

_BUNDLES: Final = "application/vnd.dev.sigstore.bundle"
_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_PREDICATE: Final = "dev.sigstore.bundle.predicateType"


class SignatureLayer(Struct, frozen=True):
    """What was signed, and its `signature` in base64; "": a bundle, which has it inside."""

    digest: str
    size: int
    signature: str = ""


class Referrer(Struct, frozen=True):
    """A manifest that may have a signature of the image that it refers to."""

    digest: str
    size: int


def signature_tag(digest: str) -> str:
    """Return the tag of the signatures of what has this digest."""
    return digest.replace(":", "-") + ".sig"


def referrers_tag(digest: str) -> str:
    """Return the tag of the list of referrers, at registries that don't make such lists themselves."""
    return digest.replace(":", "-")


def signature_layers(manifest: bytes) -> list[SignatureLayer]:
    """Return the layers of a manifest that are signatures or bundles, in its order.

    None of one that calls itself an attestation: its word may only make less of it. Raises ValueError: not a
    manifest, or more than LAYERS_MAX layers.
    """
    document = _document(manifest)
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ValueError("a manifest without layers")
    if len(layers) > LAYERS_MAX:
        raise ValueError(f"a manifest of {len(layers)} layers, more than {LAYERS_MAX}")
    return list(_signature_layers(layers)) if _may_be_signature(document) else []


def _signature_layers(layers: list[Any]) -> Iterator[SignatureLayer]:
    for layer in layers:
        digest, size = _descriptor(layer)
        media_type = layer.get("mediaType")
        if media_type == SIMPLE_SIGNING:
            signature = _annotations(layer).get(_SIGNATURE)
            if isinstance(signature, str) and signature:
                yield SignatureLayer(digest, size, signature)
        elif is_bundle_type(media_type):
            yield SignatureLayer(digest, size)


def referrers(index: bytes) -> list[Referrer]:
    """Return the entries of a list of referrers that may be signatures, in its order.

    Left out is what the list calls something else: SBOMs, provenance. Its word may only make less of it.
    Raises ValueError: not a list, or more than REFERRERS_MAX entries.
    """
    document = _document(index)
    entries = document.get("manifests")
    if not isinstance(entries, list):
        raise ValueError("no list of referrers")
    if len(entries) > REFERRERS_MAX:
        raise ValueError(f"a list of {len(entries)} referrers, more than {REFERRERS_MAX}")
    return [Referrer(*_descriptor(entry)) for entry in entries if _may_sign(entry)]


def _may_sign(entry: Any) -> bool:
    if not isinstance(entry, dict):
        raise ValueError("an entry that is no descriptor")
    kind = entry.get("artifactType")
    if kind not in (None, "", SIGNATURE_ARTIFACT) and not is_bundle_type(kind):
        return False
    return _may_be_signature(entry)


def _may_be_signature(document: dict[str, Any]) -> bool:
    return _annotations(document).get(_PREDICATE) in (None, SIGN_PREDICATE)


def is_bundle_type(media_type: object) -> bool:
    """Return whether this is a media type of Sigstore's bundles, of any version."""
    return isinstance(media_type, str) and media_type.startswith((f"{_BUNDLES}.v", f"{_BUNDLES}+json"))


def _document(body: bytes) -> dict[str, Any]:
    document = read_strictly(body, LIST_MAX)
    if not isinstance(document, dict):
        raise ValueError("JSON that is no object")
    return document


def _descriptor(entry: Any) -> tuple[str, int]:
    """Return digest and size of a descriptor (OCI image spec). Raises ValueError for what is none."""
    digest, size = (entry.get("digest"), entry.get("size")) if isinstance(entry, dict) else (None, None)
    if not isinstance(digest, str) or not is_digest(digest):
        raise ValueError("an entry without a digest by SHA-256")
    if type(size) is not int or size < 0:
        raise ValueError("an entry without a size")
    return digest, size


def _annotations(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("annotations")
    return found if isinstance(found, dict) else {}
