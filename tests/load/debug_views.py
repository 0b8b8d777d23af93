"""The tests of the debug views where this Python is too old for mitmproxy: `make test-debug`, as root.

mitmweb is run by the Python of a debootstrap root with Debian 13, through that root's own loader. There is no
chroot, so it sees the files that the tests write. Takes a minute to make, below build/debug.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

from tests.support import ROOT, debian_root

PLACE: Final = ROOT / "build/debug"
TESTS: Final = "tests/processes/test_debug_views.py"


def wanted() -> str:
    """Return what the extra `debug` asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (requirement,) = extras["debug"]
    return str(requirement).partition(";")[0].strip()


def make_mitmweb() -> Path:
    """Return the directory of a program mitmweb, which is made where there is none."""
    programs, packages = PLACE / "bin", PLACE / "packages"
    if (programs / "mitmweb").exists():
        return programs
    root = debian_root.make(PLACE / "root", "trixie", ["ca-certificates", "python3", "python3-pip"])
    loader = [f"{root}/lib64/ld-linux-x86-64.so.2", "--library-path", f"{root}/usr/lib/x86_64-linux-gnu"]
    python = ["env", f"PYTHONHOME={root}/usr", *loader, f"{root}/usr/bin/python3"]
    bundled = f"PYTHONPATH={root}/usr/lib/python3/dist-packages"
    install = ["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", str(packages), wanted()]
    subprocess.run([python[0], bundled, *python[1:], *install], check=True)
    programs.mkdir(exist_ok=True)
    program = programs / "mitmweb"
    start = "import sys; from mitmproxy.tools.main import mitmweb; sys.exit(mitmweb())"
    words = [python[0], f"PYTHONPATH={packages}", *python[1:], "-c", start]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    return programs


def main() -> int:
    """Return pytest's exit code."""
    missing = debian_root.lacking()
    if missing:
        print(f"make test-debug {missing}")
        return 1
    env = {**os.environ, "PATH": f"{make_mitmweb()}:{os.environ['PATH']}"}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", TESTS], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    raise SystemExit(main())
