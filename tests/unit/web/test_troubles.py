"""What is wrong, in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from regproxy.admin.endpoints.registries import Circuit, Errors, Quota, Registry
from regproxy.admin.endpoints.status import CacheUse, Counts, Offline, Status
from regproxy.web.troubles import CA_SOON, CA_URGENT, Health, troubles

NOW = 1_000_000_000.0
WELL = Health(store_ok=True, index_complete=True, min_free=10.0, ca_ends=NOW + CA_SOON + 1)
STATUS = Status(
    version="1",
    started=NOW - 100,
    uptime_seconds=100,
    workers=2,
    ready=True,
    not_ready_because=None,
    offline=Offline(on=False, by=None),
    connections=1,
    downloads=0,
    answered=Counts(requests=0, hits=0, hit_ratio=None, bytes=0, saved_bytes=0, byte_ratio=None),
    cache=CacheUse(objects=1, bytes=1, max_bytes=0, free_bytes=100, oldest_use=None, pins=0),
    warnings=[],
)
QUOTA = Quota(
    credential="anonymous",
    limit=100,
    remaining=50,
    window_seconds=3600.0,
    seen_at=NOW,
    per_hour=0.0,
    ends_at=None,
    refused_until={},
)
CLOSED = Circuit(state="closed", failures=0, retry_at=None, cause=None, workers=0)


def registry(circuit: Circuit = CLOSED, **quota: Any) -> Registry:
    quotas = [msgspec.structs.replace(QUOTA, **quota)]
    errors = Errors(count=0, last=None, last_at=None)
    return Registry(name="reg.test", circuit=circuit, quotas=quotas, refused_429=0, errors=errors)


def found(status: Status = STATUS, known: Health = WELL, *registries: Registry) -> list[tuple[str, str]]:
    return [(each.level, each.what) for each in troubles(status, registries, known, 2, NOW)]


def test_nothing_is_wrong() -> None:
    assert found(STATUS, WELL, registry()) == []
    unknown = Health(store_ok=None, index_complete=None, min_free=0.0, ca_ends=None)
    assert found(STATUS, unknown) == []


@pytest.mark.parametrize(
    "changes, level, words",
    [
        ({"ready": False, "not_ready_because": "it ends"}, "bad", "not ready: it ends."),
        ({"workers": 1}, "warn", "1 of 2 workers"),
        ({"offline": Offline(on=True, by="switch")}, "warn", "offline"),
        ({"ca_lacks": ["nas.lan"]}, "bad", "The CA may not sign nas.lan: "),
        ({"warnings": ["X is odd"]}, "note", "X is odd"),
        ({"cache": msgspec.structs.replace(STATUS.cache, pins=None)}, "warn", "index can't be read"),
        ({"cache": msgspec.structs.replace(STATUS.cache, free_bytes=9)}, "warn", "9 B free"),
    ],
)
def test_status(changes: dict[str, Any], level: str, words: str) -> None:
    ((said, what),) = found(msgspec.structs.replace(STATUS, **changes))
    assert said == level and words in what


@pytest.mark.parametrize(
    "changes, level, words",
    [
        ({"store_ok": False}, "bad", "can't be written"),
        ({"index_complete": False}, "note", "does not list everything"),
        ({"ca_ends": NOW + CA_SOON - 1}, "warn", "expires in 30 d"),
        ({"ca_ends": NOW + CA_URGENT - 1}, "bad", "expires in 7 d"),
        ({"ca_ends": NOW - 1}, "bad", "has expired"),
    ],
)
def test_health(changes: dict[str, Any], level: str, words: str) -> None:
    ((said, what),) = found(STATUS, replace(WELL, **changes))
    assert said == level and words in what


@pytest.mark.parametrize(
    "changes, level, words",
    [
        ({"remaining": 9}, "warn", "9 of 100 requests left"),
        ({"remaining": 0, "refused_until": {"manifest": NOW + 60}}, "bad", "answers 429"),
        ({"ends_at": NOW + 600}, "warn", "ends in 10 min"),
    ],
)
def test_quota(changes: dict[str, Any], level: str, words: str) -> None:
    ((said, what),) = found(STATUS, WELL, registry(**changes))
    assert said == level and words in what


def advice(status: Status = STATUS, known: Health = WELL) -> str:
    ((each),) = troubles(status, (), known, 2, NOW)
    return each.to_do


def test_what_is_to_be_done_can_be_done() -> None:
    """A reload does not change the environment; an expired CA is not loaded, so it can't be rotated."""
    offline = msgspec.structs.replace(STATUS, offline=Offline(on=True, by="setting"))
    for status in (offline, msgspec.structs.replace(STATUS, warnings=["X is odd"])):
        assert "in the TOML file, reload; if it is in the environment, restart" in advice(status)
    assert "ca rotate" in advice(known=replace(WELL, ca_ends=NOW + 60))
    over = advice(known=replace(WELL, ca_ends=NOW - 60))
    assert "rotate`," not in over and "remove ca.crt and ca.key" in over


def test_the_worst_comes_first() -> None:
    circuit = Circuit(state="open", failures=3, retry_at=NOW + 30, cause="no route", workers=1)
    status = msgspec.structs.replace(STATUS, warnings=["x"] * 12)
    levels = [level for level, _ in found(status, WELL, registry(circuit, remaining=1))]
    assert levels == ["bad", "warn", *["note"] * 11]
    assert "reg.test can't be reached: no route." in found(status, WELL, registry(circuit))[0][1]
