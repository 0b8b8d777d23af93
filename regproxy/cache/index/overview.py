"""A few figures of the index, read beside whoever has it open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from msgspec import Struct

_PINS: Final = "SELECT count(DISTINCT name) FROM pins"
_OLDEST: Final = "SELECT min(last_used) FROM objects INDEXED BY objects_by_use"
_PATIENCE: Final = 2.0  # seconds, where the file is locked


class Overview(Struct, frozen=True):
    """`pins`: names that are pinned. `oldest_use`: of what was unused for longest, epoch; or None."""

    pins: int
    oldest_use: float | None


def overview(path: Path) -> Overview | None:
    """Return the figures of an index's file, None where it can't be read. Blocks; any thread may call it."""
    try:
        uri = f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as database:
            ((pins,),) = database.execute(_PINS)
            ((oldest,),) = database.execute(_OLDEST)
    except sqlite3.Error:
        return None
    return Overview(pins, oldest)
