"""A cache directory with blobs and rows as a test wants them, and small file systems to put one on."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from regproxy.cache.index.index import Index, ObjectRow
from tests.support.images import digest_of

BLOCK = 4096
HOUR = 3600.0
DAY = 86_400.0


class Clock:
    """Seconds since the epoch, and monotonic ones, that pass when the test says so."""

    def __init__(self) -> None:
        self.now = time.time()
        self.passed = 0.0

    def __call__(self) -> float:
        return self.now + self.passed

    def monotonic(self) -> float:
        return self.passed

    def wait(self, seconds: float) -> None:
        self.passed += seconds


class Stock:
    """The cache directory `root`. `index` is that of a process that looks after it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self._noise = random.Random(str(root))
        for place in (self.blobs, self.parts):
            place.mkdir(parents=True, exist_ok=True)
        self.index = Index.open(root / "index.sqlite3", clock=self.clock)

    @property
    def blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    def path(self, digest: str) -> Path:
        return self.blobs / digest[7:9] / digest[7:]

    def file(self, size: int = BLOCK, *, body: bytes | None = None, age: float = 0.0) -> str:
        """Make a blob without a row, last written `age` seconds ago; its digest."""
        body = self._noise.randbytes(size) if body is None else body
        digest = digest_of(body)
        path = self.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (self.clock() - age, self.clock() - age))
        return digest

    def blob(self, size: int = BLOCK, *, body: bytes | None = None, idle: float = 0.0) -> str:
        """Make a blob with its row, last used `idle` seconds ago; its digest."""
        digest = self.file(size, body=body)
        self.row(digest, idle=idle)
        return digest

    def row(self, digest: str, *, size: int | None = None, idle: float = 0.0) -> None:
        """Make a row; its sizes are the file's where there is one."""
        path = self.path(digest)
        length = path.stat().st_size if size is None else size
        disk = path.stat().st_blocks * 512 if path.exists() else -(-length // BLOCK) * BLOCK
        used = self.clock() - idle
        self.index.adopt([ObjectRow(digest, length, None, used, disk, used)])

    def many(self, count: int, *, rows: bool = True, idle: float = 0.0) -> list[str]:
        """Make blobs whose content is not what they are named by, each used a second later than the last."""
        digests = [f"sha256:{number % 256:02x}{number:062x}" for number in range(count)]
        found = []
        for number, digest in enumerate(digests):
            path = self.path(digest)
            if number < 256:
                path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
            last_used = self.clock() - idle - count + number
            found.append(ObjectRow(digest, 1, None, last_used, BLOCK, last_used))
        if rows:
            self.index.adopt(found)
        return digests

    def part(self, name: str, *, size: int = BLOCK, age: float = 0.0) -> Path:
        """Make a file in parts/, a claim in claims/."""
        path = (self.root / "claims" if name.endswith(".tag") else self.parts) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"p" * size)
        os.utime(path, (self.clock() - age, self.clock() - age))
        return path

    def files(self) -> set[str]:
        """The digests whose files are there."""
        return {f"sha256:{path.name}" for path in self.blobs.glob("??/*")}

    def rows(self) -> set[str]:
        """The digests that have a row."""
        return set(self.index.rows_between("sha256:", "sha256:g"))

    def close(self) -> None:
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
