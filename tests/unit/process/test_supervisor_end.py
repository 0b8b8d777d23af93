"""How long the supervisor may take to end all processes."""

from __future__ import annotations

from regproxy.config.sources.assembly import load
from regproxy.process import supervisor

DOCKER_KILLS = 10.0  # seconds after SIGTERM, also Compose and podman
SAID = 3.0  # seconds that docs/configuration.md has an operator allow beyond REGPROXY_DRAIN_TIMEOUT


def test_all_has_ended_before_docker_kills() -> None:
    """With the default, even where processes have to be killed; a second is left for the runtime."""
    longest = load({}).drain_timeout + supervisor._MARGIN
    assert longest <= DOCKER_KILLS - 1


def test_the_janitor_has_its_time_after_the_last_worker() -> None:
    assert supervisor._WORKER_MARGIN + supervisor._JANITOR_SECONDS <= supervisor._MARGIN < SAID
