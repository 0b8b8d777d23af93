"""End a command that can't go on."""

from __future__ import annotations

from typing import NoReturn

import typer

from regproxy.cli.common.exit_codes import USAGE_ERROR
from regproxy.cli.common.text import say


def complain(error: Exception | str) -> bool:
    """Print an error. Returns False."""
    for line in f"regproxy: {error}".split("\n"):  # a configuration may have several faults
        say(line, err=True)
    return False


def fail(error: Exception | str, code: int = USAGE_ERROR) -> NoReturn:
    """Print an error, and end the command with that exit code."""
    complain(error)
    raise typer.Exit(code)
