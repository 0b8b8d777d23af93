"""Mixed load on a cache that is half as large as what is asked for: `python -m tests.load.soak --minutes 30`.

Clients pull blobs, ranges of them, manifests and tags, some with a connection for each request, some slowly,
some leaving in the middle. Meanwhile the size of the cache and the memory of the processes are looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image
from tests.support.origin import Origin
from tests.support.processes import free_address
from tests.support.proxy import Proxy
from tests.support.trust import Trust

MEGA = 1 << 20
RATE = 30_000_000  # bytes/s of the origin
CLIENTS = 8
# Room for what is shorter than 1 MiB is made once it is there, and each client may bring one at a time.
ABOVE = CLIENTS * MEGA
LOOK = 0.2  # seconds between two looks at the cache's size
WARM_UP = 0.2  # of the time; memory is compared from there on
ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX)]


@dataclass
class Findings:
    """What was seen. Bytes; `memory`: of all processes together, one value for each second."""

    limit: int
    requests: int = 0
    hits: int = 0
    bytes: int = 0
    largest: int = 0
    memory: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    evicted: float = 0

    @property
    def growth(self) -> float:
        """Memory of the last fifth of the time, as a multiple of that behind the warm-up."""
        fifth = max(1, int(len(self.memory) * WARM_UP))
        return statistics.median(self.memory[-fifth:]) / statistics.median(self.memory[fifth : 2 * fifth])

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.hits / max(1, self.requests):.0%} hits, "
            f"{self.bytes / 1e9:.2f} GB; cache at most {self.largest / self.limit:.3f} of its limit, "
            f"{self.evicted:.0f} objects evicted; memory {max(self.memory or [0]) / 1e6:.0f} MB at most, "
            f"{self.growth if len(self.memory) > 5 else 1:.3f} of what it was; {len(self.errors)} errors"
        )


class Soak:
    """A proxy of two workers whose cache holds `limit` bytes, and images of twice as many."""

    def __init__(self, directory: Path, limit: int, seed: int) -> None:
        self.found = Findings(limit)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._chance = random.Random(seed)
        trust = Trust(directory / "trust")
        self._origin = self._stack.enter_context(Origin(trust, "reg.test", rate=RATE))
        self._images = self._publish(2 * limit)
        address = free_address()
        self._proxy = self._stack.enter_context(
            Proxy(
                directory / "proxy",
                {
                    "REGPROXY_WORKERS": "2",
                    "ENABLE_MANIFEST_CACHE": "true",
                    "MANIFEST_CACHE_DEFAULT_TIME": "2s",
                    "CACHE_MAX_SIZE": str(limit),
                    "REGPROXY_MIN_FREE": "0",
                    "REGPROXY_ACCESS_LOG": "off",
                },
                registries=(self._origin.authority,),
                resolve=self._origin.resolve,
                ca=trust.path,
                addresses=(address, free_address(address[0])),
            )
        )

    def _publish(self, size: int) -> list[Image]:
        images: list[Image] = []
        while size > 0:
            image = make_image(
                size=self._chance.randrange(100_000, 4_000_000), layers=2, seed=5000 + len(images)
            )
            self._origin.publish("app", image, f"tag{len(images)}")
            images.append(image)
            size -= sum(map(len, image.blobs.values()))
        return images

    def run(self, seconds: float) -> None:
        threads = [
            threading.Thread(target=self._client, args=(random.Random(self._chance.random()),))
            for _ in range(CLIENTS)
        ]
        threads.append(threading.Thread(target=self._watch))
        for thread in threads:
            thread.start()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.found.errors:
            self.found.memory.append(sum(map(_resident, self._proxy.pids())))
            self._over.wait(1.0)
        self._over.set()
        for thread in threads:
            thread.join(60)
        self.found.evicted = self._proxy.metric("regproxy_evicted_objects_total")

    def close(self) -> None:
        self._stack.close()

    # --- what is looked at -------------------------------------------------------------------------------

    def _watch(self) -> None:
        cache = self._proxy.cache_dir
        while not self._over.wait(LOOK):
            size = sum(map(_on_disk, [*cache.glob("blobs/sha256/??/*"), *cache.glob("parts/*")]))
            self.found.largest = max(self.found.largest, size)

    # --- clients -----------------------------------------------------------------------------------------

    def _client(self, chance: random.Random) -> None:
        client: Client | None = None
        while not self._over.is_set():
            try:
                if client is None:
                    client = self._proxy.client(self._origin.authority)
                stays = self._ask(client, chance)
            except (OSError, AssertionError) as error:
                self._wrong(f"{type(error).__name__}: {error}\n{self._state()}")
                return
            if not stays or chance.random() < 0.1:
                client.close()
                client = None
        if client is not None:
            client.close()

    def _ask(self, client: Client, chance: random.Random) -> bool:
        """One request, and whether its connection can be used again."""
        # Some images are liked better than others, as everywhere.
        number = min(int(chance.paretovariate(0.7)) - 1, len(self._images) - 1)
        if chance.random() < 0.5:
            number = chance.randrange(len(self._images))
        image = self._images[number]
        kind = chance.choice(("blob", "blob", "blob", "manifest", "tag", "head", "range", "leave", "slow"))
        path = f"/v2/app/blobs/{chance.choice(image.layers)}"
        if kind == "manifest":
            return self._check(client.get(f"/v2/app/manifests/{image.digest}", ACCEPT), image.manifest)
        if kind == "tag":
            return self._check(client.get(f"/v2/app/manifests/tag{number}", ACCEPT), image.manifest)
        body = image.blobs[path.rpartition("/")[2]]
        if kind == "head":
            reply = client.request("HEAD", path)
            return self._check(reply, b"", length=len(body))
        if kind == "range":
            start = chance.randrange(len(body) - 1)
            reply = client.get(path, [("Range", f"bytes={start}-")])
            return self._check(reply, body[start:], status=206)
        if kind == "leave":
            client.ask("GET", path)
            client.read_head()
            client.read(chance.randrange(len(body)))
            client.reset()
            return False
        reply = client.request("GET", path, rate=3e6 if kind == "slow" else None)
        return self._check(reply, body)

    def _check(self, reply: Reply, body: bytes, *, status: int = 200, length: int | None = None) -> bool:
        right = reply.status == status and reply.complete and digest_of(reply.body) == digest_of(body)
        if length is not None:
            right = right and reply.get("Content-Length") == str(length)
        if not right:
            self._wrong(
                f"{reply.status}, {len(reply.body)} of {len(body)} bytes, {reply.end}: {reply.headers}"
            )
        with self._lock:
            self.found.requests += 1
            self.found.bytes += len(reply.body)
            self.found.hits += reply.get("X-Docker-Registry-Proxy-Cache-Upstream-Status") == "HIT"
        return right

    def _state(self) -> str:
        """What the processes are at, and what they have said."""
        lines = []
        for pid in self._proxy.pids():
            with contextlib.suppress(OSError):
                place = Path(f"/proc/{pid}")
                name = place.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = place.joinpath("stat").read_text().rpartition(")")[2].split()
                lines.append(f"{name}: {state[0]}, {place.joinpath('wchan').read_text()}, {state[11:13]}")
        return "\n".join([*lines, self._proxy.log()[-3000:]])

    def _wrong(self, what: str) -> None:
        with self._lock:
            self.found.errors.append(what)


def _on_disk(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_blocks * 512
    return 0


def _resident(pid: int) -> int:
    """Bytes of a process's memory besides files; of pages that several share, its part (proc(5))."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    return 0


def run(directory: Path, limit: int, seconds: float, seed: int) -> Findings:
    """That many seconds of it."""
    soak = Soak(directory, limit, seed)
    try:
        soak.run(seconds)
    finally:
        soak.close()
    return soak.found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--megabytes", type=int, default=200, help="CACHE_MAX_SIZE")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="regproxy-soak-") as place:
        found = run(Path(place), options.megabytes * MEGA, options.minutes * 60, options.seed)
    print(found)
    for error in found.errors[:10]:
        print(f"ERROR: {error}")
    return 1 if found.errors or found.largest > found.limit + ABOVE or found.growth > 1.25 else 0


if __name__ == "__main__":
    sys.exit(main())
