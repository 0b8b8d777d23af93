"""Manual pages: one for each command, that groff has nothing to say against."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from regproxy.cli import manual
from regproxy.cli.main import MODULES, app

PAGES = {page.name: page.text for page in manual.pages(typer.main.get_command(app))}


def test_every_command_has_one(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["man", str(tmp_path / "man")]).exit_code == 0
    written = {path.name for path in (tmp_path / "man").iterdir()}
    assert written == {f"{name}.1" for name in PAGES}
    assert {"regproxy", "regproxy-serve", *(f"regproxy-{name}" for name in MODULES)} <= PAGES.keys()
    assert "regproxy-cache-verify" in PAGES


def test_groff_takes_them() -> None:
    """Without a warning, and with all of their sections."""
    for name, page in PAGES.items():
        command = ["groff", "-man", "-Tutf8", "-ww", "-rLL=200n", *("-P-c", "-P-b", "-P-o", "-P-u")]
        done = subprocess.run(command, input=page, capture_output=True, text=True, check=True)
        sections = [line.removeprefix(".SH ") for line in page.splitlines() if line.startswith(".SH ")]
        assert (name, done.stderr) == (name, "")
        assert set(sections) <= set(done.stdout.splitlines())


def test_what_it_says() -> None:
    """What --help says: the summary, the options with their texts, the commands below."""
    text = PAGES["regproxy-cache-verify"]
    assert ".SH NAME\nregproxy\\-cache\\-verify \\- Check every blob against its digest\n" in text
    assert "\n\\fB\\-j, \\-\\-jobs " in text
    assert "regproxy\\-cache\\-verify(1)" in PAGES["regproxy-cache"]
    assert "check\\-config" in PAGES["regproxy"]


@pytest.mark.parametrize(
    ("text", "source"), [(".x", "\\&.x"), ("'x", "\\&'x"), ("a-b", "a\\-b"), ("a\\b", "a\\eb")]
)
def test_troff_obeys_no_text(text: str, source: str) -> None:
    assert manual._plain(text) == source
