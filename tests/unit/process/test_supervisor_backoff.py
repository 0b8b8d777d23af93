"""How long the supervisor waits before it starts another one, and what of it is logged."""

from __future__ import annotations

import pytest

from regproxy.process import supervisor


class TestBackoff:
    """When the next child is started."""

    def test_it_grows_and_ends(self) -> None:
        backoff = supervisor.Backoff()
        delays = []
        for _ in range(12):
            backoff.failed(100.0, None)
            delays.append(round(backoff.until - 100.0, 3))
        assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
        assert backoff.failed(200.0, 5.0)  # it had lived for a while
        assert backoff.until < 200.0
        backoff.failed(300.0, 0.5)
        assert backoff.until == pytest.approx(300.1)

    def test_who_was_ready_is_soon_back(self) -> None:
        """However often something kills it: clients wait for it."""
        backoff = supervisor.Backoff()
        for _ in range(12):
            backoff.failed(100.0, 0.5)
        assert backoff.until == 101.0

    def test_not_all_is_said(self) -> None:
        backoff = supervisor.Backoff()
        said = [backoff.failed(float(second), None) for second in range(120)]
        assert said[:5] == [True] * 5
        assert sum(said) == 6
