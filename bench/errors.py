"""The one error of this package."""

from __future__ import annotations


class BenchError(Exception):
    """A run that does not count: a wrong answer, a server that does not start, a cache that was not warm."""
