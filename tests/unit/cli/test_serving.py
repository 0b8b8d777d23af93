"""Starting the proxy without the library of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from regproxy.cli import serving


@pytest.mark.parametrize(
    ("arguments", "plain"),
    [
        (["serve"], True),
        (["serve", "--config", "a.toml"], True),
        (["serve", "--config"], False),
        (["serve", "--help"], False),
        (["--version", "serve"], False),
        ([], False),
    ],
)
def test_what_needs_no_parser(arguments: list[str], plain: bool) -> None:
    assert serving.plain_arguments(arguments) is plain


def test_the_parser_is_not_imported() -> None:
    code = """
import os, sys
sys.argv = ["regproxy", "serve", "--config", "/nowhere/regproxy.toml"]
from regproxy.cli.entry import main
try:
    main()
except SystemExit as end:
    print(end.code, {"typer", "pydantic", "rich"} & set(sys.modules))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "2 set()\n"
    assert "/nowhere/regproxy.toml" in ended.stderr
