"""Claims on tags: of all processes that are asked the same, one asks the origin and tells the others.

How they agree is behind a Protocol: workers of one machine do by files (see `claim_files`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class TagClaim(Protocol):
    """The right to fetch."""

    @property
    def answer(self) -> dict[str, Any] | None:
        """What somebody else was answered: then there is nothing to fetch."""

    def publish(self, answer: dict[str, Any], at: float) -> None:
        """Leave an answer (JSON's types) for those who asked before `at` (monotonic), when it was there."""

    def close(self) -> None:
        """Let the next one fetch."""


class TagClaims(Protocol):
    """Where claims are taken."""

    async def take(self, request: str, asked: Callable[[], float]) -> TagClaim:
        """Wait for the right to fetch, or for the answer that another process got since `asked()`.

        `asked` is looked at when the wait is over: monotonic seconds. Where the others can't be asked, every
        process fetches for itself.
        """

    def mark(self, text: str) -> str:
        """Return the same for equal texts in all processes; it tells nothing of the text."""
