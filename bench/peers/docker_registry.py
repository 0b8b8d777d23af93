"""Distribution as a pull-through cache (`proxy.remoteurl`) over TLS: Debian's 2.8, and 3 where it was built.

As distribution.github.io has it ("Registry as a pull through cache"): local storage, descriptors in memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench.loadgen import Load
from bench.material import Item
from bench.peers.base import Peer

ROOT = Path(__file__).parent.parent.parent
BUILT = ROOT / ".local" / "go" / "bin"  # where tests/conformance keeps what it built by Go


class DockerRegistry(Peer):
    """One process with as many threads as Go takes by itself; access log on."""

    name = "docker-registry"
    program = "docker-registry"
    package = "docker-registry"
    separate = "it fetches for each client on its own, and once more for its cache"

    def refuses(self, item: Item) -> str:
        """A tag is looked up at the origin each time, by design: the cache stands in for one that fails."""
        return "" if "/sha256:" in item.path else "it asks its origin for a tag each time"

    def enough(self, load: Load) -> Load:
        """A manifest takes it about 2 ms of CPU: a twentieth of what others do in that time."""
        if load.fresh or load.count is None or "/manifests/" not in load.item.path:
            return load
        return dataclasses.replace(load, count=max(load.connections, load.count // 20))

    def stored(self, item: Item) -> bool:
        """It fetches a blob a second time for its cache, beside the answer to the client."""
        blobs = self.cache / "docker/registry/v2/blobs/sha256"
        return (blobs / item.sha256[:2] / item.sha256 / "data").exists()

    def command(self) -> list[str]:
        return [self.where() or self.program, "serve", str(self.site.directory / "config.yml")]

    def _environ(self) -> Mapping[str, str]:
        return {"SSL_CERT_FILE": str(self.site.identity.ca), "OTEL_SDK_DISABLED": "1"}

    def _write(self) -> None:
        # JSON is YAML.
        (self.site.directory / "config.yml").write_text(json.dumps(self._config(), indent=1))

    def _config(self) -> dict[str, object]:
        identity = self.site.identity
        return {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.cache)},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {
                "addr": f"127.0.0.1:{self.port}",
                "secret": "of no use here",
                "tls": {"certificate": str(identity.leaf), "key": str(identity.leaf_key)},
            },
            "proxy": {"remoteurl": f"https://127.0.0.1:{self.site.origin}"},
        }


class Distribution(DockerRegistry):
    """Distribution 3: not in Debian, so only where `python -m tests.conformance` has built it."""

    name = "distribution"
    program = "registry"
    pattern: ClassVar[str] = "registry@v3*"

    @classmethod
    def where(cls) -> str | None:
        built = sorted(BUILT.glob(cls.pattern))
        return str(built[-1]) if built else None

    @classmethod
    def missing(cls) -> str:
        return "" if cls.where() else f"{BUILT}/{cls.pattern} is not here: make bench-distribution builds it"
