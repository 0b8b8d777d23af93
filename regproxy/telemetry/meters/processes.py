"""The processes, and what runs in them."""

from __future__ import annotations

import platform
from importlib import metadata

from prometheus_client import CollectorRegistry

from regproxy.dataplane import tls
from regproxy.telemetry.meters.declaring import Declaring


class ProcessMeters(Declaring):
    """The metrics of processes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._workers = self._gauge("workers", "Workers that take connections.")
        self._exits = self._counter(
            "worker_exits", "Workers that ended though nobody had told them to.", ["reason"]
        )
        self._reloads = self._counter(
            "reloads", "Reloads, by SIGHUP or the admin API, by what became of them.", ["result"]
        )
        self._build = self._gauge(
            "build_info",
            "The running version, and what it runs on.",
            "livemostrecent",
            ["version", "python", "openssl"],
        )
        self._admin_logins = self._counter("admin_logins", "Tokens shown to the admin port.", ["outcome"])
        for outcome in ("accepted", "refused", "slowed"):
            self._admin_logins.labels(outcome)
        # Metrics used in alerts exist from the start: increase() does not see the first sample of a series.
        for reason in ("exit", "killed", "hung"):
            self._exits.labels(reason)
        for result in ("done", "refused", "failed"):
            self._reloads.labels(result)

    def _show_build(self, version: str | None) -> None:
        """Show the version; None: that of the installed package."""
        version = _installed_version() if version is None else version
        self._build.labels(version, platform.python_version(), tls.openssl_version().split()[1]).set(1)

    def workers_ready(self, count: int) -> None:
        """Set the number of workers that accept connections."""
        self._workers.set(count)

    def worker_ended(self, reason: str) -> None:
        """Count a worker that ended unasked. `reason`: exit, killed (by a signal), hung (killed for it)."""
        self._exits.labels(reason).inc()

    def reloaded(self, result: str) -> None:
        """Count a SIGHUP. `result`: done, refused (can't be used), failed (no worker came up with it)."""
        self._reloads.labels(result).inc()

    def admin_login(self, outcome: str) -> None:
        """Count a token that was shown to the admin port: accepted (the first time), refused, slowed."""
        self._admin_logins.labels(outcome).inc()


def _installed_version() -> str:
    try:
        return metadata.version("regproxy")
    except metadata.PackageNotFoundError:
        return "unknown"
