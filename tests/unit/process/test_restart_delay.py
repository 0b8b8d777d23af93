"""How long the supervisor waits before it restarts a child, and which deaths are logged."""

from __future__ import annotations

import pytest

from regproxy.process.restart_delay import RestartDelay


class TestRestartDelay:
    """When the next child is started."""

    def test_it_grows_and_ends(self) -> None:
        delay = RestartDelay()
        delays = []
        for _ in range(12):
            delay.failed(100.0, None)
            delays.append(round(delay.until - 100.0, 3))
        assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
        assert delay.failed(200.0, 5.0)  # it had lived for a while
        assert delay.until < 200.0
        delay.failed(300.0, 0.5)
        assert delay.until == pytest.approx(300.1)

    def test_who_was_ready_is_soon_back(self) -> None:
        """However often something kills it: clients wait for it."""
        delay = RestartDelay()
        for _ in range(12):
            delay.failed(100.0, 0.5)
        assert delay.until == 101.0

    def test_not_all_is_said(self) -> None:
        delay = RestartDelay()
        said = [delay.failed(float(second), None) for second in range(120)]
        assert said[:5] == [True] * 5
        assert sum(said) == 6
