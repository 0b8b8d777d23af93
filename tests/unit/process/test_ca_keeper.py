"""The supervisor's part in the CA: it is made once, and its end is warned of daily."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from regproxy.config.directories import Directories
from regproxy.config.sources.assembly import load
from regproxy.process.ca_keeper import CaKeeper

DAY = 86_400.0


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return found


def test_the_end_of_a_ca(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directories = Directories(tmp_path, tmp_path / "ca.crt", tmp_path / "ca.key", ())
    keeper = CaKeeper()
    keeper.remind(time.time() + 1e10)
    assert said(caplog) == []
    (pair,) = keeper.prepare(load({}), directories)
    (made,) = said(caplog)
    assert made.startswith("made a new CA")
    soon = pair.ends - 10 * DAY
    for now, count in ((time.time() + 2 * DAY, 0), (soon, 1), (soon + 1, 0), (soon + DAY + 1, 1)):
        keeper.remind(now)
        lines = said(caplog)
        assert len(lines) == count
        assert all("the CA expires on" in line for line in lines)
    (tmp_path / "ca.key").unlink()
    keeper.remind(soon + 3 * DAY)
    assert "ca.key" in said(caplog)[0]
    assert not (tmp_path / "ca.key").exists()
