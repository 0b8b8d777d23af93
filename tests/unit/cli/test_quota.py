"""`regproxy quota`: what the file of quotas says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regproxy.cache import layout
from regproxy.cli.main import app
from regproxy.registry.rate_limits import Lane, Report
from regproxy.upstream.quota_file import Block, QuotaEntry, QuotaFile

SECRET = "client:0123456789abcdef"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache directory with the state of two registries."""
    now = time.time()
    path = layout.quotas(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    layout.blobs(tmp_path).mkdir(parents=True)
    QuotaFile(path).write(
        {
            ("registry-1.docker.io", "anonymous"): QuotaEntry(Report(now - 60, 40, 100, 21_600.0)),
            ("registry-1.docker.io", SECRET): QuotaEntry(Report(now - 90_000, 1, 200, 21_600.0)),  # long over
            ("quay.io", SECRET): QuotaEntry(None, {Lane.MANIFESTS: Block(now, now + 300, 1)}),
        }
    )
    return tmp_path


def asked(cache: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["quota", *options], env={"REGPROXY_CACHE_DIR": str(cache)})
    return result.exit_code, result.output


def test_the_table(cache: Path) -> None:
    code, text = asked(cache)
    assert code == 1  # quay.io refuses
    assert SECRET not in text
    head, quay, hub = (line.split() for line in text.splitlines())
    assert head[:4] == ["registry", "credential", "left", "of"]
    assert hub[:6] == ["registry-1.docker.io", "anonymous", "40", "100", "6", "h"]
    assert quay[:2] == ["quay.io", "client"]
    assert "manifests" in quay


def test_json(cache: Path) -> None:
    code, text = asked(cache, "--json")
    quay, hub = json.loads(text)["quotas"]
    assert (code, quay["spent"], hub["spent"]) == (1, True, False)
    assert (hub["remaining"], hub["limit"], hub["window_seconds"]) == (40, 100, 21_600.0)
    assert set(quay["refused_until"]) == {"manifests"}


def test_nothing_is_known(tmp_path: Path) -> None:
    layout.blobs(tmp_path).mkdir(parents=True)
    code, text = asked(tmp_path)
    assert (code, text) == (0, "no registry has reported a limit, and none refuses requests\n")
    assert json.loads(asked(tmp_path, "--json")[1]) == {"quotas": []}


def test_no_cache_is_there(tmp_path: Path) -> None:
    code, text = asked(tmp_path / "elsewhere")
    assert (code, "no such directory; REGPROXY_CACHE_DIR" in text) == (2, True)
    code, text = asked(tmp_path, "--json")
    assert (code, "holds no cache" in text) == (2, True)


def test_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["quota"], env={"REGPROXY_WORKERS": "many"})
    assert result.exit_code == 2
    assert "REGPROXY_WORKERS" in result.output
