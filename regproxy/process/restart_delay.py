"""Delay the restart of a child that keeps dying, and decide which of its deaths are logged."""

from __future__ import annotations

import math
from typing import Final

_A_WHILE: Final = 1.0  # seconds; a child that was ready for so long is replaced at once
_BACKOFF: Final = (0.1, 30.0)  # seconds, after the first and after the last of many failures
_KILLED: Final = 1.0  # seconds at most after one that was ready: something kills it, and clients wait
_LOUD: Final = 5  # failures in a row that are all logged
_SAY_EVERY: Final = 60.0  # seconds between later ones that are logged


class RestartDelay:
    """The time before which no child may be started. `until`: of time.monotonic()."""

    def __init__(self) -> None:
        self.until = 0.0
        self._failures = 0
        self._said = -math.inf

    def failed(self, now: float, lived: float | None) -> bool:
        """Note that a child died, `lived` seconds after it was ready; None: it never was.

        Returns whether to log that.
        """
        if lived is not None and lived >= _A_WHILE:
            self._failures = 0
            return True
        first, last = _BACKOFF if lived is None else (_BACKOFF[0], _KILLED)
        self.until = now + min(last, first * 2 ** min(self._failures, 32))
        self._failures += 1
        if self._failures > _LOUD and now - self._said < _SAY_EVERY:
            return False
        self._said = now
        return True
