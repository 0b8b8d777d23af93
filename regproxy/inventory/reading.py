"""Read the index by a connection of its own: long lists make no request wait that looks something up.

Answers are some tens of milliseconds behind what a worker has just learned, which is in its memory first.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regproxy.cache import layout
from regproxy.cache.index.database import Reading, open_reading
from regproxy.core.errors import StoreError


class IndexReader:
    """Reads the index of the cache at `root`: from any thread, one at a time. Opened when first used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._reading: Reading | None = None

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection. Raises StoreError where the index can't be read."""
        with self._lock:
            if self._reading is not None and not self._reading.is_current():
                self._end()
            if self._reading is None:
                self._reading = open_reading(layout.index(self.root))
            try:
                yield self._reading.connection
            except sqlite3.Error as error:
                self._end()
                raise StoreError(f"index: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None


@contextmanager
def index_reader(root: Path) -> Iterator[IndexReader]:
    """Lend a reader for some questions, and close it."""
    reader = IndexReader(root)
    try:
        yield reader
    finally:
        reader.close()
