"""`regproxy cache` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

# --- the command -----------------------------------------------------------------------------------------


def environment(root: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(root.parent),
        "REGPROXY_CACHE_DIR": str(root),
        **more,
    }


def command(root: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regproxy", "cache", *words],
        env=environment(root, **env),
        capture_output=True,
        text=True,
        timeout=60,
    )
