"""The exit codes of commands. Imports nothing: `regproxy serve` has them in memory."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1  # it was done, and something is wrong
USAGE_ERROR: Final = 2  # it can't be done: the configuration, the arguments, the files
INTERRUPTED: Final = 130  # a shell's exit code for SIGINT
