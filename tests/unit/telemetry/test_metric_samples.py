"""Metrics as numbers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from regproxy.telemetry.metric_samples import Samples
from regproxy.telemetry.metrics import Metrics


def test_sums() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.tally("reg.test", "blob", "HIT", 200).add(10, 0.1)
    metrics.tally("reg.test", "blob", "MISS", 200).add(20, 0.1)
    metrics.tally("other.test", "blob", "STALE", 200).add(30, 0.1)
    metrics.publish()
    samples = Samples(metrics.families())
    assert samples.sum("requests_total") == 3
    assert samples.sum("requests_total", cache="HIT") == 1
    assert samples.sum("requests_total", cache=("HIT", "STALE")) == 2
    assert samples.sum("client_bytes_total", registry="reg.test") == 30
    assert samples.by("requests_total", "registry") == {"reg.test": 2, "other.test": 1}
    assert samples.sum("none") == 0
