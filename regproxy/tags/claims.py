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
        """The answer that another process got: then there is nothing to fetch."""

    def publish(self, answer: dict[str, Any], at: float) -> None:
        """Leave an answer (JSON's types), which came at `at` (monotonic), for requests from before that."""

    def close(self) -> None:
        """Release the claim: the next process may fetch."""


class TagClaims(Protocol):
    """The claims of all processes that share a cache."""

    async def take(self, request: str, asked: Callable[[], float]) -> TagClaim:
        """Wait for the right to fetch, or for an answer that another process got since `asked()`.

        `asked()`, monotonic seconds, is called when the wait is over. Where processes can't coordinate, each
        fetches for itself.
        """

    def mark(self, text: str) -> str:
        """Return a mark: equal for equal texts in all processes, revealing nothing of the text."""
