"""Programs that say logins, and a clock for what remembers them."""

from __future__ import annotations

import stat
import sys
from pathlib import Path


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- helpers ----------------------------------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    """Make a program of Python source, which has `server` (what it was asked for) and `log` (a file)."""
    head = f"#!{sys.executable}\nimport json, os, sys, time\nserver = sys.stdin.readline().strip()\n"
    log = f"open({str(path) + '.log'!r}, 'a').write(server + ' ' + ' '.join(sys.argv[1:]) + '\\n')\n"
    path.write_text(head + log + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
