"""What nodes ask for when a deployment rolls, as containerd asks it.

Nodes begin in waves (a Deployment replaces a quarter at a time). Each one asks by HEAD what the tag points
to, gets the manifest by digest, then config and layers, so many at a time. The next layer begins when the one
before it in its lane would have come at the node's own speed. Some bodies break off, and are asked for again
from there; some nodes get layers by parallel ranges (containerd 2.1).
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.material import HOST, LAYER_TYPE, MANIFEST_TYPE, REPOSITORY, Material
from bench.mix.requests import Request

TAG = "rollout"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
CONFIG_SIZE = 8_000
SHARES = (0.4, 0.24, 0.16, 0.1, 0.06, 0.03, 0.01)  # of an image's bytes, by layer
SEED = 7_000  # apart from blobs of other scenarios
THINK = (0.005, 0.02)  # s, between an answer and the next request
RESUME = 0.5  # s, until a body that broke off is asked for again


@dataclass(frozen=True, slots=True)
class Image:
    """What a pull asks for: digests as sha256:hex, sizes in bytes."""

    host: str
    repository: str
    tag: str
    digest: str
    size: int  # of the manifest
    blobs: tuple[tuple[str, int], ...]  # config, then layers

    @property
    def bytes(self) -> int:
        return self.size + sum(size for _, size in self.blobs)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The parameters of the model. ValueError names one that is out of bounds."""

    nodes: int = 200
    seconds: float = 30.0  # in which all nodes begin
    waves: int = 4
    spread: float = 0.5  # share of a wave's time in which its nodes begin
    parallel: int = 3  # blobs at a time, containerd's max_concurrent_downloads
    node_rate: float = 100e6  # bytes/s that a node is able to take
    drops: float = 0.02  # share of layers that break off
    ranged: float = 0.1  # share of nodes that fetch layers by ranges
    range_size: int = 2 << 20  # bytes
    fetchers: int = 4  # ranges of a layer at a time
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("nodes", "waves", "parallel", "range_size", "fetchers", "seconds", "node_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be more than 0")
        for name in ("spread", "drops", "ranged"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")


def make(rollout: Rollout, images: Sequence[Image]) -> list[Request]:
    """The mix of a roll of these images, which every node pulls in turn; same arguments, same mix."""
    chance = random.Random(rollout.seed)
    found: list[Request] = []
    for number in range(rollout.nodes):
        wave, length = number * rollout.waves // rollout.nodes, rollout.seconds / rollout.waves
        at = length * (wave + rollout.spread * chance.random())
        ranged = chance.random() < rollout.ranged
        for image in images:
            pull = Pull(rollout, image, f"node-{number}", chance, ranged)
            found += pull.requests(at)
            at = pull.end
    return sorted(found, key=lambda request: request.at)


class Pull:
    """One node's pull of one image. `end`: when it would be there, in seconds."""

    def __init__(
        self, rollout: Rollout, image: Image, node: str, chance: random.Random, ranged: bool
    ) -> None:
        self._rollout, self._image, self._node = rollout, image, node
        self._chance, self._ranged = chance, ranged
        self.end = 0.0

    def requests(self, at: float) -> Iterator[Request]:
        image = self._image
        yield self._ask(at, "HEAD", f"manifests/{image.tag}", size=image.size)
        at += self._think()
        yield self._ask(at, "GET", f"manifests/{image.digest}", size=image.size)
        at += self._think()
        lanes = [at] * self._rollout.parallel
        for digest, size in image.blobs:
            begin = heapq.heappop(lanes)
            yield from self._blob(begin, digest, size)
            heapq.heappush(lanes, begin + size / self._rollout.node_rate + self._think())
        self.end = max(lanes)

    def _blob(self, at: float, digest: str, size: int) -> Iterator[Request]:
        path, rate = f"blobs/{digest}", self._rollout.node_rate
        if self._ranged and size > self._rollout.range_size:
            yield from self._ranges(at, path, size)
        elif size > CONFIG_SIZE and self._chance.random() < self._rollout.drops:
            drop = int(size * self._chance.uniform(0.1, 0.9))
            yield self._ask(at, "GET", path, size=size, drop=drop)
            again = at + drop / rate + RESUME
            yield self._ask(again, "GET", path, size=size - drop, span=f"bytes={drop}-")
        else:
            yield self._ask(at, "GET", path, size=size)

    def _ranges(self, at: float, path: str, size: int) -> Iterator[Request]:
        """Each fetcher has a part of the node's speed, and takes the next range when it has one."""
        length, fetchers = self._rollout.range_size, self._rollout.fetchers
        each = length * fetchers / self._rollout.node_rate
        for number, first in enumerate(range(0, size, length)):
            last = min(first + length, size) - 1
            begin = at + each * (number // fetchers)
            yield self._ask(begin, "GET", path, size=last - first + 1, span=f"bytes={first}-{last}")

    def _ask(
        self, at: float, method: str, what: str, *, size: int, drop: int | None = None, span: str = ""
    ) -> Request:
        path = f"/v2/{self._image.repository}/{what}"
        return Request(
            at=at,
            client=self._node,
            method=method,
            host=self._image.host,
            path=path,
            range=span,
            drop=drop,
            bytes=size,
        )

    def _think(self) -> float:
        return self._chance.uniform(*THINK)


def image_of(reference: str, manifest: bytes) -> Image:
    """HOST[:PORT]/REPOSITORY:TAG, and its image manifest as `skopeo inspect --raw` prints it."""
    name, _, tag = reference.rpartition(":")
    host, _, repository = name.partition("/")
    if not (host and repository and tag) or "/" in tag:
        raise BenchError(f"not HOST/REPOSITORY:TAG: {reference}")
    try:
        document = json.loads(manifest)
        described = [document["config"], *document["layers"]]
        blobs = tuple((str(each["digest"]), int(each["size"])) for each in described)
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{reference}: not an image manifest with config and layers: {error!r}") from None
    return Image(
        host, repository, tag, f"sha256:{hashlib.sha256(manifest).hexdigest()}", len(manifest), blobs
    )


def make_image(material: Material, size: int, host: str = HOST) -> Image:
    """An image of `size` bytes in the material, under TAG; the same for the same size."""
    sizes = [CONFIG_SIZE, *(max(1, int(size * share)) for share in SHARES)]
    items = [material.blob(each, SEED + number) for number, each in enumerate(sizes)]
    described = [
        {
            "mediaType": CONFIG_TYPE if number == 0 else LAYER_TYPE,
            "digest": f"sha256:{item.sha256}",
            "size": item.size,
        }
        for number, item in enumerate(items)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": described[0],
        "layers": described[1:],
    }
    body = json.dumps(document).encode()
    image = image_of(f"{host}/{REPOSITORY}:{TAG}", body)
    place: Path = material.root / "v2" / REPOSITORY / "manifests"
    for name in (image.digest, TAG):
        (place / name).write_bytes(body)
    return image
