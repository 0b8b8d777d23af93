"""The dashboards, by Grafana's own linter, as `make test-deploy` runs it: Go builds it first, for minutes.

What it is to let pass, and why, is in deploy/mixin/dashboards.lint.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.programs import CACHE, environment, go, has_go
from tests.support import ROOT

MODULE: Final = "github.com/grafana/dashboard-linter"
VERSION: Final = "v0.0.0-20241224134444-1765d94aec4a"
# For go.sum: the database of sums need not have a commit without a tag. It has what this one depends on.
SUMS: Final = f"""\
{MODULE} {VERSION} h1:wpyAYX8+Rqu0LIEE7zXBR/qjBH4t0yXvqlRGa1wD5rg=
{MODULE} {VERSION}/go.mod h1:aeONzEz1tWGxQvxYm5DFxxaJ90JINhRT50TrZ0oXuJM=
"""
CONFIG: Final = ROOT / "deploy" / "mixin" / "dashboards.lint"
DASHBOARDS: Final = sorted((ROOT / "deploy" / "grafana").glob("*.json"))

pytestmark = [
    pytest.mark.skipif(not has_go(), reason="Go is not here: install golang-go or https://go.dev"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="session")
def linter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, which is kept: a module of ours that imports it, as that wants no list of its versions."""
    path = CACHE / "bin" / f"dashboard-linter@{VERSION}"
    if not path.exists():
        place = tmp_path_factory.mktemp("linter")
        (place / "go.mod").write_text(f"module linter\n\ngo 1.23\n\nrequire {MODULE} {VERSION}\n")
        (place / "go.sum").write_text(SUMS)
        (place / "linter.go").write_text(f'//go:build linter\n\npackage linter\n\nimport _ "{MODULE}"\n')
        path.parent.mkdir(parents=True, exist_ok=True)
        built = path.with_name(f"building-linter-{os.getpid()}")
        environ = environment(CACHE, path.parent)
        environ |= {"GOFLAGS": f"{environ['GOFLAGS']} -mod=mod", "GONOSUMDB": MODULE}
        subprocess.run([go(), "build", "-o", built, MODULE], cwd=place, env=environ, check=True)
        built.rename(path)
    return path


def lint(linter: Path, dashboard: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [linter, "lint", "--strict", "--config", CONFIG, dashboard]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_it_finds_nothing(linter: Path, dashboard: Path) -> None:
    done = lint(linter, dashboard)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_would_find_something(linter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(DASHBOARDS[0].read_text().replace("${datasource}", "mine"))
    done = lint(linter, broken)
    assert done.returncode == 1 and "datasource" in done.stdout
