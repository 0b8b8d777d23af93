"""The command line itself."""

from __future__ import annotations

import json
import os
import platform
import re
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

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


def checked(**env: str) -> tuple[int, list[str]]:
    """Exit code and lines of `check-config`."""
    shown = CliRunner().invoke(app, ["check-config"], env=env)
    return shown.exit_code, shown.output.splitlines()


def test_a_configuration_that_is_good(tmp_path: Path) -> None:
    places = {"REGPROXY_CA_DIR": str(tmp_path / "ca"), "REGPROXY_CACHE_DIR": str(tmp_path / "cache")}
    code, lines = checked(REGPROXY_AUDIT_LOG=str(tmp_path / "log"), **places)
    assert (code, lines[-1]) == (0, "The configuration is good.")
    assert list(tmp_path.iterdir()) == []  # what a start would make is not made


def test_what_settings_mean_and_warnings(tmp_path: Path) -> None:
    """What is read otherwise than it is written is said in its row, and warnings behind the table."""
    env = {"REGPROXY_CA_DIR": str(tmp_path / "ca"), "REGPROXY_CACHE_DIR": str(tmp_path / "cache")}
    env |= {"ENABLE_MANIFEST_CACHE": "yes", "SEND_TIMEOUT": "0", "REGISTRIES": "a.example bad:port"}
    code, lines = checked(**env, VERIFY_SSL="1")
    rows = {line.split()[0]: " ".join(line.split()[1:-1]) for line in lines[:-1]}
    assert (code, lines[-1]) == (0, "The configuration is usable, with 4 warnings.")
    assert [line.startswith("warning: ") for line in lines[-6:-1]] == [False, True, True, True, True]
    assert rows["ENABLE_MANIFEST_CACHE"] == "yes (read as false)"
    assert rows["VERIFY_SSL"] == "1 (read as true)"
    assert rows["SEND_TIMEOUT"] == "0 (read as 60s)"
    assert rows["REGISTRIES"] == "a.example bad:port (read as a.example)"
    assert rows["ALLOW_PUSH"] == "false"
    shown = CliRunner().invoke(app, ["check-config", "--json"], env=env)
    switch = {"setting": "ENABLE_MANIFEST_CACHE", "value": "yes", "from": "env", "read_as": "false"}
    assert switch in json.loads(shown.output)["settings"]


@pytest.mark.parametrize("fault", [{"REGPROXY_WORKERS": "x"}, {"REGPROXY_HTPASSWD": "/nonexistent/x"}])
def test_warnings_beside_a_fault(fault: dict[str, str], tmp_path: Path) -> None:
    env = {"REGPROXY_CA_DIR": str(tmp_path / "ca"), "REGPROXY_CACHE_DIR": str(tmp_path / "cache")}
    code, (warning, error) = checked(**env, **fault, ENABLE_MANIFEST_CACHE="yes")
    assert code == 2
    assert warning.startswith("warning: ENABLE_MANIFEST_CACHE='yes': read as false")
    assert error.startswith(f"regproxy: {next(iter(fault))}=")


def test_files_that_are_of_no_use(tmp_path: Path) -> None:
    """All of them are told, as other faults are."""
    (tmp_path / "users").write_text("alice:secret\n")
    files = {"REGPROXY_HTPASSWD": f"{tmp_path}/users", "REGPROXY_DOCKER_CONFIG": f"{tmp_path}/none"}
    code, (first, second) = checked(REGPROXY_CA_DIR=str(tmp_path), **files)
    assert code == 2
    assert first.startswith(f"regproxy: REGPROXY_HTPASSWD='{tmp_path}/users': not usable in line 1: ")
    assert second.startswith(
        f"REGPROXY_DOCKER_CONFIG='{tmp_path}/none': a file of text that can be read: No such"
    )
    assert "secret" not in first + second


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_toml_file_that_is_none(command: str, tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.touch()
    os.truncate(large, 1 << 36)
    for path, why in [
        (pipe, "not a file, but a pipe or a device"),
        (large, "more than 4194304 bytes"),
        (tmp_path, "Is a directory"),
        (tmp_path / "none", "No such file or directory"),
    ]:
        shown = CliRunner().invoke(app, [command, "--config", str(path)])
        assert (shown.exit_code, shown.output) == (
            2,
            f"regproxy: REGPROXY_CONFIG='{path}': can't be read: {why}\n",
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
        ("process.supervisor", ["regproxy.doctor", "regproxy.cli", "typer", "rich"]),
        ("process.worker", ["regproxy.doctor", "regproxy.cli", "typer", "rich"]),
        ("process.janitor", ["regproxy.doctor", "regproxy.cli", "typer", "cryptography", "asyncio"]),
    ],
)
def test_a_process_loads_what_it_needs(module: str, spares: list[str]) -> None:
    """Most of a start are imports, and what is imported stays in memory."""
    command = [sys.executable, "-c", f"import sys, regproxy.{module}; print(*sys.modules, sep='\\n')"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert f"regproxy.{module}" in loaded
    assert not set(spares) & set(loaded)
