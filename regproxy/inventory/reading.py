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
    """Reads the index of the cache at `root`, from any threads: each has a connection of its own meanwhile,
    so that a list that takes long keeps nobody else. There are as many as were ever wanted at a time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._idle: list[Reading] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection. Raises StoreError where the index can't be read."""
        reading = self._taken() or open_reading(layout.index(self.root))
        try:
            yield reading.connection
        except sqlite3.Error as error:
            reading.close()
            raise StoreError(f"index: {error}") from error
        except BaseException:
            self._give_back(reading)
            raise
        self._give_back(reading)

    def close(self) -> None:
        """Close the connections; those that are lent are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reading in idle:
            reading.close()

    def _taken(self) -> Reading | None:
        """Return an idle connection; close those whose file is another one by now."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                reading = self._idle.pop()
            if reading.is_current():
                return reading
            reading.close()

    def _give_back(self, reading: Reading) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(reading)
                return
        reading.close()


@contextmanager
def index_reader(root: Path) -> Iterator[IndexReader]:
    """Lend a reader for some questions, and close it."""
    reader = IndexReader(root)
    try:
        yield reader
    finally:
        reader.close()
