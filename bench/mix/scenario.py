"""S13: a deployment rolls, against a cache that has the image and against one that has not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError, Void
from bench.lab import Lab, Sample
from bench.loadgen import Plan
from bench.material import HOST, Item
from bench.mix.replay import CACHE_HEADER, plan_text
from bench.mix.requests import RANGE, Request
from bench.mix.rollout import Rollout, make, make_image

NODES = 200
RANGE_SIZE = 512 * 1024  # bytes; less than containerd's, as the image is small too
KINDS = ("tag-head", "manifest", "blob", "range")
HELD = ("HIT", "REVALIDATED", "STALE")
LOG_TIMEOUT = 5.0  # s
VOIDS = 2  # void rolls in a row that are done again: a moment without a core must not void the scenario

Rolled = TypeVar("Rolled")
Measure = tuple[str, str, Callable[[Sample], float]]


class Roll:
    """The mix of an image of `size` bytes that rolls onto NODES nodes within `seconds`, for a lab."""

    def __init__(self, lab: Lab, seconds: float, size: int) -> None:
        self._lab = lab
        self._image = make_image(lab.material, size, f"{HOST}:{lab.origin.port}")
        path = f"/v2/{self._image.repository}/manifests/"
        lab.origin.publish(
            {path + name: self._image.digest for name in (self._image.tag, self._image.digest)}
        )
        everybody = Rollout(nodes=NODES, seconds=seconds, spread=1, range_size=RANGE_SIZE)
        alone = Rollout(nodes=1, seconds=seconds, drops=0, ranged=0)
        place = lab.material.root.parent / "mix"
        place.mkdir(parents=True, exist_ok=True)
        self.plan = self._write(place / "roll.plan", everybody)
        self._alone = replace(self._write(place / "alone.plan", alone), verify=True)

    def _write(self, file: Path, rollout: Rollout) -> Plan:
        requests = with_digests(make(rollout, [self._image]), self._lab.material.root)
        file.write_text(plan_text(requests))
        return Plan(file, cache_header=CACHE_HEADER, sources=True, realtime=True)

    def warm(self) -> None:
        """One node alone: all of the image is in the cache then, checked by digest on both sides."""
        self._lab.on_subject(self._alone)
        self._lab.on_peer(self._alone)

    def held(self, side: Callable[[Plan], Sample]) -> Sample:
        """The roll on a side that has the image. Raises Void where it is void for the third time."""
        return self._unless_void(lambda: side(self.plan))

    def cold(self) -> tuple[Sample, float]:
        """The roll with an empty cache, and how often the origin sent the layers' bytes for it."""
        return self._unless_void(self._cold)

    def _unless_void(self, roll: Callable[[], Rolled]) -> Rolled:
        for _ in range(VOIDS):
            try:
                return roll()
            except Void as error:
                self._lab.notes.append(f"a roll was done again: {str(error).splitlines()[0]}")
        return roll()

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """BenchError if the origin is asked for any of the image meanwhile."""
        path = f"/v2/{self._image.repository}/"
        names = [f"manifests/{self._image.digest}", *(f"blobs/{digest}" for digest, _ in self._image.blobs)]
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(self._lab.untouched(Item(path + name, "", 0)))
            yield

    def _cold(self) -> tuple[Sample, float]:
        self._lab.restart()
        before = self._sent()
        sample = self._lab.on_subject(self.plan)
        size = sum(size for _, size in self._image.blobs)
        deadline = time.monotonic() + LOG_TIMEOUT
        while (sent := self._sent() - before) < size and time.monotonic() < deadline:
            time.sleep(0.02)
        if sent < size:
            raise BenchError(f"the cache was not cold: the origin sent {sent} of {size} bytes")
        return sample, sent / size

    def _sent(self) -> int:
        path = f"/v2/{self._image.repository}/blobs/"
        return sum(sum(self._lab.origin.sent(path + digest)) for digest, _ in self._image.blobs)


def with_digests(requests: Sequence[Request], root: Path) -> list[Request]:
    """The same, and ranges of files below `root` say what their bytes must be."""
    known: dict[tuple[str, str], str] = {}

    def digest(request: Request) -> str:
        found = RANGE.fullmatch(request.range)
        if not found:
            return request.sha256
        key = request.path, request.range
        if key not in known:
            data = (root / request.path.lstrip("/")).read_bytes()
            stop = int(found[2]) + 1 if found[2] else len(data)
            known[key] = hashlib.sha256(data[int(found[1]) : stop]).hexdigest()
        return known[key]

    return [replace(request, sha256=digest(request)) for request in requests]


def measures() -> list[Measure]:
    """Name, unit and value of what is reported of a roll."""
    found: list[Measure] = [
        ("requests", "1/s", lambda s: s.result.requests / s.result.seconds),
        ("CPU per request", "us", lambda s: s.cpu_us_per_request),
        ("CPU per GB", "s", lambda s: s.cpu_per_gb),
        ("peak memory", "MB", lambda s: s.memory.peak / 1e6 if s.memory else 0.0),
    ]
    for kind in KINDS:
        found += [latency(kind, at) for at in ("p50", "p99", "p999")]
    return found


def latency(kind: str, at: str) -> Measure:
    title = {"p999": "p99.9"}.get(at, at)
    return (f"{kind} {title}", "ms", lambda s: s.result.kinds[kind].latency_us[at] / 1e3)


def held(sample: Sample) -> float:
    """The share of answers that the cache had, as the proxy's header tells; 0 from others."""
    counts = [kind.cache for kind in sample.result.kinds.values()]
    return sum(count.get(word, 0) for count in counts for word in HELD) / sample.result.requests
