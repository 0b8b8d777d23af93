"""Synthetic images (OCI image spec 1.0): random layers as tar+gzip, so nothing compresses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True, slots=True)
class Image:
    """One platform's image. `manifest` is what a registry has to hand out; `blobs` are config and layers."""

    manifest: bytes
    config_digest: str
    layers: tuple[str, ...]
    blobs: Mapping[str, bytes]
    architecture: str = "amd64"
    media_type: str = MANIFEST

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def images(self) -> tuple[Image, ...]:
        return (self,)


@dataclass(frozen=True, slots=True)
class Index:
    """A multi-arch index over images."""

    manifest: bytes
    images: tuple[Image, ...]
    media_type: str = INDEX

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def blobs(self) -> Mapping[str, bytes]:
        return {digest: body for image in self.images for digest, body in image.blobs.items()}


def digest_of(data: bytes) -> str:
    """Return "sha256:<hex>"."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_image(*, size: int = 300_000, layers: int = 2, seed: int = 1, architecture: str = "amd64") -> Image:
    """Return an image whose layers together hold `size` random bytes; same arguments, same image."""
    blobs: dict[str, bytes] = {}
    descriptors, diff_ids = [], []
    for number in range(layers):
        tar = _tar(f"{architecture}/{number}.bin", _noise(size // layers, f"{seed}/{architecture}/{number}"))
        packed = gzip.compress(tar, compresslevel=1, mtime=0)
        diff_ids.append(digest_of(tar))
        descriptors.append(_descriptor(LAYER, packed))
        blobs[digest_of(packed)] = packed
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"layer {number}"} for number in range(layers)],
        }
    ).encode()
    blobs[digest_of(config)] = config
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": descriptors,
        }
    ).encode()
    return Image(
        manifest=manifest,
        config_digest=digest_of(config),
        layers=tuple(layer["digest"] for layer in descriptors),
        blobs=blobs,
        architecture=architecture,
    )


def make_index(*, size: int = 300_000, layers: int = 2, seed: int = 1) -> Index:
    """Return an index of two platforms, amd64 and arm64, each with `size` bytes of layers."""
    images = tuple(
        make_image(size=size, layers=layers, seed=seed, architecture=name) for name in ("amd64", "arm64")
    )
    manifests = [
        _descriptor(MANIFEST, image.manifest)
        | {"platform": {"architecture": image.architecture, "os": "linux"}}
        for image in images
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
    return Index(manifest=body, images=images)


def write_layout(path: Path, tags: Mapping[str, Image | Index]) -> Path:
    """Write an OCI image layout directory that holds these under their tags, and return its path."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = []
    for tag, image in tags.items():
        bodies = {image.digest: image.manifest, **image.blobs}
        bodies |= {child.digest: child.manifest for child in image.images}
        for digest, body in bodies.items():
            place = path / "blobs" / digest.replace(":", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(body)
        reference = {"annotations": {"org.opencontainers.image.ref.name": tag}}
        entries.append(_descriptor(image.media_type, image.manifest) | reference)
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return path


def _descriptor(media_type: str, body: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(body), "size": len(body)}


def _tar(name: str, body: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def _noise(size: int, seed: str) -> bytes:
    chance = random.Random(seed)
    return b"".join(chance.randbytes(min(1 << 20, size - start)) for start in range(0, size, 1 << 20))
