"""The metrics of a process: every subject's, published at intervals, and rendered for a scrape.

Names follow Prometheus' rules: base units, `_total` for counters. Hot paths count in C (Tally); publish()
moves the counts at intervals. The processes of one supervisor use prometheus_client's multiprocess mode:
each publishes to files of its own in a directory (see `metrics_dir`), and the process that answers a scrape
renders the sum.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from regproxy.dataplane.tally import Tally
from regproxy.telemetry.meters.admission import AdmissionMeters
from regproxy.telemetry.meters.cache import CacheMeters
from regproxy.telemetry.meters.fills import FillMeters
from regproxy.telemetry.meters.processes import ProcessMeters
from regproxy.telemetry.meters.registries import RegistryMeters
from regproxy.telemetry.meters.requests import RequestMeters
from regproxy.telemetry.meters.watched import WatchedMeters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own


def share(directory: str | Path, slot: str) -> None:
    """Keep the metrics of this process in `directory` from here on; call it before any Metrics is created.

    `slot` is a name without "_" that no other process has at the same time. A later process in a slot
    continues the counts of the former one, so the number of files does not grow with every process.
    """
    os.environ[_DIRECTORY] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def unshare() -> None:
    """Close the files of share(): nothing is counted any more."""
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call]


class Metrics(
    RequestMeters,
    RegistryMeters,
    AdmissionMeters,
    FillMeters,
    CacheMeters,
    ProcessMeters,
    WatchedMeters,
):
    """The metrics of one process. Use from one thread, except collect().

    `version` None: that of the installed package. Watched or tallied values appear with publish().
    """

    def __init__(self, registry: CollectorRegistry, *, version: str | None = None) -> None:
        # Otherwise each series gets another one, for a format that is not rendered here. This is
        # process-wide.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        super().__init__(registry)
        self._show_build(version)

    def _new_tally(self, registry: str, kind: str, cache_status: str, code: int) -> Tally:
        if registry:
            self._begin_registry(self._labels.registries.bound(registry))
        return super()._new_tally(registry, kind, cache_status, code)

    def publish(self) -> None:
        """Move all counts to where render() reads them: microseconds for each series that has changed."""
        self._publish_requests()
        self._publish_decisions()
        self._publish_watched()

    def render(self) -> bytes:
        """Publish, and return collect()."""
        self.publish()
        return self.collect()

    def collect(self) -> bytes:
        """Return what all processes have published, in Prometheus' text format (CONTENT_TYPE).

        Takes milliseconds for each process. May be called by any thread.
        """
        directory = os.environ.get(_DIRECTORY)
        if directory is None:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        merged.register(_Merged(Path(directory)))
        return generate_latest(merged)


class _Merged(Collector):
    """The sums over the files of all processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Any:
        # A file is empty for a moment while a process creates it.
        files = [str(path) for path in self._directory.glob("*.db") if _size(path) > 0]
        return MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
