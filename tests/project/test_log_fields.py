"""The documents have every field of the logs, as the code writes them, and no other."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import get_args

from regproxy.server import responder, routes
from regproxy.telemetry.access_log import AccessLog
from regproxy.telemetry.audit_log import line_of
from regproxy.telemetry.audit_pulls import Pull, PullKey
from regproxy.telemetry.log_format import ALWAYS, EXCEPTION, FIELDS, Role
from tests.support import ROOT

LOGS = ROOT / "docs" / "logging.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"


def section(page: Path, title: str) -> str:
    """Return the text below a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def tables(text: str) -> list[list[str]]:
    """Return the names in the first column of each table whose first column is `field`, in their order."""
    found = re.findall(r"^\| field \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    firsts = ("".join(re.findall(r"^\|([^|]*)\|", rows, re.MULTILINE)) for rows in found)
    return [re.findall(r"`(\w+)`", names) for names in firsts]


def of_few_lines() -> set[str]:
    """Return what the access log's lines may have besides: its names are written in two places."""
    calls = re.findall(r"extra_fields\((.*?)\)", inspect.getsource(routes), re.DOTALL)
    told = {name for call in calls for name in re.findall(r"(\w+)=", call)}
    return told | set(re.findall(r'"(\w+)":', inspect.getsource(responder._more)))


def test_the_log() -> None:
    always, besides = tables(section(LOGS, "The log"))
    assert always == list(ALWAYS)
    assert besides == [*FIELDS, EXCEPTION]
    (role,) = re.findall(r"^\| `role` \|(.*)\|$", LOGS.read_text(), re.MULTILINE)
    assert [name for name in get_args(Role) if name not in role] == []


def test_the_access_log(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(str(path))
    log.line(0.0, "192.0.2.1", "GET", "/v2/", "ghcr.io", 200, 2, 0.1)
    log.close()
    (listed,) = tables(section(LOGS, "The access log"))
    few = of_few_lines()
    assert [name for name in listed if name not in few] == list(json.loads(path.read_text()))
    assert few and few <= set(listed)


def test_the_audit_log() -> None:
    pull = Pull(PullKey("192.0.2.1", "ci", "address", "connect", "ghcr.io", "team/app"), "pull", 0.0, 1.0)
    (listed,) = tables(section(CONFIGURATION, "The audit log"))
    assert sorted(listed) == sorted(json.loads(line_of(pull, "", 0.0)))
