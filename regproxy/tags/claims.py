"""Claims on tags: of all processes with the same request, one asks the origin and tells the others.

How they coordinate is behind a Protocol: workers of one machine use files (see `claim_files`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class TagClaim(Protocol):
    """The right to ask the origin for a tag."""

    @property
    def answer(self) -> dict[str, Any] | None:
        """The answer that another process got, which is to be used instead of asking; None: ask."""

    def publish(self, answer: dict[str, Any], at: float) -> None:
        """Leave an answer (JSON's types) for requests made before `at` (monotonic), when it came."""

    def close(self) -> None:
        """Release the claim: the next process may ask."""


class TagClaims(Protocol):
    """The claims of all processes that share a cache."""

    async def take(self, request: str, asked: Callable[[], float]) -> TagClaim:
        """Wait for the right to ask the origin, or for an answer that another process got after `asked()`.

        `asked()` returns when a client made this request last, in monotonic seconds. It is called when the
        wait is over, as more clients may have joined by then. Where processes can't coordinate, each asks for
        itself.
        """

    def mark(self, text: str) -> str:
        """Return a keyed hash of a text: the same in all processes, and reveals nothing of the text."""
