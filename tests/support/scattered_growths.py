"""Files that grow in several places at once, with their maps beside them."""

from __future__ import annotations

import os
import random
from pathlib import Path

from regproxy.dataplane.block_map import BLOCK_SIZE, Extents
from regproxy.dataplane.file import File
from regproxy.dataplane.growing_file import GrowingFile
from tests.support.plane import Plane

TOTAL = 40 * BLOCK_SIZE + 12_345
DATA = random.Random("extents").randbytes(TOTAL)


def open_map(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


def scattered(
    plane: Plane, directory: Path, total: int = TOTAL, *, file: File | None = None, there: bytes = b""
) -> GrowingFile:
    """A growth of `total` bytes with its map beside it, of which the first ones are there."""
    if file is None:
        (directory / "part").write_bytes(there)
        growth = plane.growth(directory / "part")
    else:
        growth = GrowingFile(file)
    growth.follow(len(there))
    extents = Extents(total, open_map(directory / "map"))
    extents.start(*identity(growth), growth.written)
    growth.scatter(extents)
    return growth


def identity(growth: GrowingFile) -> tuple[int, int]:
    status = os.fstat(growth.file.fd)
    return status.st_dev, status.st_ino
