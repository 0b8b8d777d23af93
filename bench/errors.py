"""The errors of this package."""

from __future__ import annotations


class BenchError(Exception):
    """A run that does not count: a wrong answer, a server that does not start, a cache that was not warm."""


class Void(BenchError):
    """A run whose latencies are the generator's: it had less of the machine than its schedule takes."""
