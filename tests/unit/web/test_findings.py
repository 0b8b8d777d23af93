"""What is wrong, in words."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.admin.endpoints.registries import Circuit, Errors, Quota, Registry
from regproxy.admin.endpoints.status import Counts, Fill, Offline, Status
from regproxy.web.findings import findings

NOW = 1_000_000.0
COUNTS = Counts(requests=0, hits=0, hit_ratio=None, bytes=0, saved_bytes=0, byte_ratio=None)
FILL = {"objects": 0, "bytes": 10, "max_bytes": 0, "free_bytes": 90, "oldest_use": None, "pins": 0}


def status(fill: dict[str, Any] | None = None, **changed: Any) -> Status:
    values: dict[str, Any] = {
        "version": "1",
        "started": 0.0,
        "uptime_seconds": 1.0,
        "workers": 1,
        "ready": True,
        "not_ready_because": None,
        "offline": Offline(on=False, by=None),
        "connections": 0,
        "downloads": 0,
        "answered": COUNTS,
        "cache": Fill(**(FILL | (fill or {}))),
        "warnings": [],
    }
    return Status(**(values | changed))


def registry(
    state: Any = "closed", quotas: list[Quota] | None = None, last: tuple[str, float] | None = None
) -> Registry:
    circuit = Circuit(state=state, failures=3, retry_at=None, cause="connection refused", workers=1)
    error, at = last or (None, None)
    errors = Errors(count=1 if last else 0, last=error, last_at=at)
    return Registry(name="ghcr.io", circuit=circuit, quotas=quotas or [], refused_429=0, errors=errors)


def quota(remaining: int | None = 50, refused: dict[str, float] | None = None) -> Quota:
    return Quota(
        credential="anonymous",
        limit=100,
        remaining=remaining,
        window_seconds=1.0,
        seen_at=NOW,
        per_hour=0.0,
        ends_at=None,
        refused_until=refused or {},
    )


@pytest.mark.parametrize(
    ("told", "registries", "level", "words"),
    [
        (status(ready=False, not_ready_because="shutting down"), [], "bad", "shutting down"),
        (status(offline=Offline(on=True, by="switch")), [], "note", "Offline"),
        (status({"free_bytes": 1, "bytes": 999}), [], "bad", "disk has 1 B left"),
        (status(warnings=["VERIFY_SSL is off"]), [], "note", "VERIFY_SSL is off"),
        (status(), [registry("open")], "bad", "ghcr.io can't be reached (connection refused)"),
        (status(), [registry(quotas=[quota(9)])], "note", "allows 9 more of 100"),
        (status(), [registry(quotas=[quota(0)])], "bad", "allows 0 more of 100"),
        (status(), [registry(quotas=[quota(refused={"manifests": NOW + 600})])], "bad", "another 10 min"),
        (status(), [registry(last=("timed out", NOW - 60))], "note", "timed out, 60 s ago"),
    ],
)
def test_what_is_wrong(told: Status, registries: list[Registry], level: str, words: str) -> None:
    (found,) = findings(told, registries, NOW)
    assert found.level == level
    assert words in found.what


@pytest.mark.parametrize(
    "registries", [[], [registry(quotas=[quota()])], [registry(last=("x", NOW - 9_999))]]
)
def test_nothing_is(registries: list[Registry]) -> None:
    assert findings(status(), registries, NOW) == []


def test_the_worst_comes_first() -> None:
    found = findings(status(warnings=["a", "b"]), [registry("open")], NOW)
    assert [each.level for each in found] == ["bad", "note", "note"]
