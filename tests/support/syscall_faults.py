"""A kernel that refuses what it may refuse, for a process that is started for that.

    said = run_with(tmp_path, "nowait", "print('what the tests of the data plane import is there')")

The process has `syscall_faults.c` preloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support import ROOT

SOURCE: Final = Path(__file__).with_suffix(".c")

MISSING: Final = None if shutil.which("cc") else "no C compiler (cc)"
"""Why there is no such kernel here; None: there is."""


def run_with(directory: Path, refuses: str, code: str, **env: str) -> str:
    """What this code prints, run by a Python of its own, whose kernel refuses that (see syscall_faults.c)."""
    library = directory / "kernel.so"
    command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
    preload = " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(library))))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": preload, "KERNEL_REFUSES": refuses, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
