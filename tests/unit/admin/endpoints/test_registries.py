"""What is known of a registry, from all sources under one name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from regproxy.admin.endpoints.registries import Registries
from regproxy.telemetry.metric_samples import Samples
from regproxy.telemetry.snapshots import LiveCircuit, LiveFailure, Snapshot
from regproxy.upstream.quota_file import QuotaEntry

HUB = "registry-1.docker.io"


def test_one_name_for_each() -> None:
    known = {(HUB, ""): QuotaEntry()}
    quotas = SimpleNamespace(known=lambda: known, trend=None)
    services: Any = SimpleNamespace(upstream=SimpleNamespace(gate=SimpleNamespace(quotas=quotas)))
    nothing: Any = None
    sample = SimpleNamespace(name="regproxy_upstream_429_total", labels={"registry": HUB}, value=3.0)
    snapshot = Snapshot(
        *(0, 1, 1.0),
        circuits=[LiveCircuit(HUB, 443, 2, 0.0, "no route"), LiveCircuit("::1", 443, 1, 0.0, "")],
        failures=[LiveFailure(HUB, 5, 1.0, "it answered 500"), LiveFailure("[::1]:5000", 1, 1.0, "x")],
    )
    found = Registries(services, nothing, nothing).merged(
        [snapshot], Samples([SimpleNamespace(samples=[sample])])
    )
    assert [each.name for each in found] == ["[::1]", "[::1]:5000", "docker.io"]
    hub = found[-1]
    assert (hub.circuit.failures, hub.errors.count, hub.refused_429, len(hub.quotas)) == (2, 5, 3, 1)
