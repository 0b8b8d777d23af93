"""How long the admin port's pages and lists take with many images in the cache: `make bench-pages`.

Each image is a manifest, a configuration and a layer that a hundred of them share. The index is filled by its
own functions, the files by hand. Prints a line for each page; exit code 1 if one takes longer than the limit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import quote

from regproxy.cache.index.index import Index
from regproxy.cache.index.rows import ObjectRow, TagRow
from regproxy.inventory.catalog import catalogue
from regproxy.registry.accept import bits_above
from tests.support.client import Client
from tests.support.images import MANIFEST
from tests.support.proxy import Proxy

LIMIT: Final = 0.100  # seconds, the median of a page
HOST: Final = "registry.test"
_CONFIG, _LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
_PIECE: Final = 5_000  # images in one transaction
_SHARED: Final = 100  # images with one layer


def descriptor(kind: str, body: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}


def image(number: int) -> tuple[str, str, list[bytes]]:
    """Return an image's repository, tag, and contents, the manifest first."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "number": number}).encode()
    layer = b"layer %d" % (number // _SHARED)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(_CONFIG, config),
        "layers": [descriptor(_LAYER, layer)],
    }
    return (
        f"team{number % 97}/app{number // 10}",
        f"v{number % 10}",
        [json.dumps(manifest).encode(), config, layer],
    )


def stock(root: Path, count: int) -> None:
    """Fill a cache directory with that many images, as a proxy leaves it that has pulled them."""
    index = Index.open(root / "index.sqlite3")
    try:
        for first in range(0, count, _PIECE):
            rows: dict[str, ObjectRow] = {}
            for number in range(first, min(first + _PIECE, count)):
                repository, tag, bodies = image(number)
                digests = [_keep(root, rows, body) for body in bodies]
                for digest, body in zip(digests, bodies, strict=True):
                    index.put_presence(HOST, 443, repository, digest, len(body))
                named = bits_above(MANIFEST)
                row = TagRow(f"{MANIFEST} {named}", digests[0], MANIFEST, len(bodies[0]), time.time(), named)
                index.put_tag(HOST, 443, repository, tag, row)
            index.adopt(rows.values())
            index.flush(120)
        while catalogue(root, index, 1_000):
            pass
    finally:
        index.close()


def _keep(root: Path, rows: dict[str, ObjectRow], body: bytes) -> str:
    """Write a content's file, and note its row; return its digest."""
    name = hashlib.sha256(body).hexdigest()
    digest = f"sha256:{name}"
    path = root / "blobs" / "sha256" / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    rows[digest] = ObjectRow(digest, len(body), None, time.time(), 4096, time.time())
    return digest


def pages(count: int) -> Iterator[str]:
    """Yield the paths that are asked for."""
    name = quote(f"{HOST}/{image(count // 2)[0]}:{image(count // 2)[1]}", safe="")
    yield from (
        "/",
        "/images",
        "/images?sort=size",
        "/images?name=app77",
        "/images?name=nobody",
        f"/images/{name}",
        "/jobs",
    )
    yield from (
        "/api/v1/images",
        "/api/v1/images?sort=size&name=app77",
        "/api/v1/blobs?sort=size",
        "/api/v1/repositories",
    )
    yield from ("/api/v1/totals", "/api/v1/status")


def seconds(proxy: Proxy, path: str, rounds: int) -> list[float]:
    """Ask for a page that often, over one connection; how long each answer took. Raises RuntimeError."""
    token = (proxy.cache_dir / "state" / "admin-token").read_text().strip()
    found = []
    with Client.connect(proxy.admin_address, timeout=60.0) as client:
        for _ in range(rounds):
            began = time.perf_counter()
            reply = client.request("GET", path, {"Authorization": f"Bearer {token}"})
            found.append(time.perf_counter() - began)
            if reply.status != 200:
                raise RuntimeError(f"{path}: {reply.status} {reply.body[:200]!r}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    slow = 0
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        stock(Path(place, "cache"), options.images)
        took = time.monotonic() - began
        print(f"{options.images:,} images, made in {took:.0f} s; milliseconds, median and longest:")
        with Proxy(Path(place), {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_DEBUG": None}) as proxy:
            for path in pages(options.images):
                found = seconds(proxy, path, options.rounds)
                slow += median(found) > LIMIT
                print(f"{median(found) * 1e3:8.1f} {max(found) * 1e3:8.1f}  {path}", flush=True)
    print(f"{slow} pages take longer than {LIMIT * 1e3:.0f} ms" if slow else "all are below the limit")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
