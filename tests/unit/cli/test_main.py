"""The command line itself."""

from __future__ import annotations

import platform
import re
import ssl
import tomllib

from typer.testing import CliRunner

from regproxy.cli.main import app
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
