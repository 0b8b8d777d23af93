"""Real parts for tests: images, a CA, docker-registry, a token server, clients, the proxy itself.

Everything listens on loopback, on ports that were free, keeps its files below a directory that the caller
names, and ends what it started by process id when its `with` block is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
"""The project's own directory; not resolved, for in build/asan tests/ is a link (see sanitized.py)."""
