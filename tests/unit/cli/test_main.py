"""The command line itself."""

from __future__ import annotations

import platform
import re
import ssl
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from regproxy.cli.main import MODULES, app
from tests.support import ROOT


def test_the_version_is_shown_with_what_it_runs_on() -> None:
    """OpenSSL's and Python's: what decides how fast TLS is, and what a report of a fault should say."""
    shown = CliRunner().invoke(app, ["--version"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    openssl = re.escape(ssl.OPENSSL_VERSION)
    assert shown.exit_code == 0
    assert re.fullmatch(
        rf"regproxy {re.escape(version)} \(Python {platform.python_version()}, {openssl}\)\n", shown.output
    )


@pytest.mark.parametrize("name", ["serve", "check-config", *MODULES])
def test_every_command_is_listed(name: str) -> None:
    listed = CliRunner().invoke(app, ["--help"])
    alone = CliRunner().invoke(app, [name, "--help"])
    assert re.search(rf"^\W*{name} +\w", listed.output, re.MULTILINE), listed.output
    assert alone.exit_code == 0
    assert f"Usage: root {name} " in alone.output


def test_a_name_that_is_mistyped() -> None:
    assert "Did you mean 'doctor'?" in CliRunner().invoke(app, ["docter"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize(
    "module, spares",
    [
        ("cli.main", ["regproxy.doctor", "regproxy.cache", "regproxy.process", "rich", "cryptography"]),
        ("process.supervisor", ["regproxy.doctor", "regproxy.cache", "regproxy.cli", "typer", "rich"]),
        ("process.worker", ["regproxy.doctor", "regproxy.cli", "typer", "rich"]),
        ("process.janitor", ["regproxy.doctor", "regproxy.cli", "typer", "cryptography", "asyncio"]),
    ],
)
def test_a_process_loads_what_it_needs(module: str, spares: list[str]) -> None:
    """Each start of the proxy is three processes, and most of a start are imports."""
    command = [sys.executable, "-c", f"import sys, regproxy.{module}; print(*sys.modules, sep='\\n')"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert f"regproxy.{module}" in loaded
    assert not set(spares) & set(loaded)
