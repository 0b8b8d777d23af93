"""Run a command as a hardened container does: a helper of test_hardened, run by the system's own Python.

    python3 like_a_container.py WRITABLE... -- COMMAND...

In a mount, IPC and UTS namespace of its own, with a root file system that can't be written but for the paths
that are named, as an unprivileged user without any capability or new privileges, and under the seccomp
profile that containers have by default. The command has this process's id. Starts as root.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROFILE = Path("/usr/share/containers/seccomp.json")
USER = 3128
_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000  # unshare(2)


def main() -> None:
    split = sys.argv.index("--")
    writable, command = sys.argv[1:split], sys.argv[split + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNS | _NEWUTS | _NEWIPC):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for path in writable:
        subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "/"], check=True)
    load_filter(json.loads(PROFILE.read_text()))
    # setpriv's no_new_privs is set by the filter already.
    bare = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    who = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    os.execvp("setpriv", ["setpriv", "--no-new-privs", *who, *bare, "--", *command])


def load_filter(profile: dict[str, Any]) -> None:
    """Load a profile (Docker's format) for a process that will have no capability."""
    import seccomp  # type: ignore[import-not-found]  # Debian's python3-seccomp

    errno = seccomp.ERRNO(profile["defaultErrnoRet"])
    rules = seccomp.SyscallFilter(defaction=errno)
    # setpriv has to drop the capabilities first, by calls that the profile allows anyway.
    for rule in profile["syscalls"]:
        if rule["action"] != "SCMP_ACT_ALLOW" or not _is_for_us(rule):
            continue
        conditions = [
            seccomp.Arg(arg["index"], getattr(seccomp, arg["op"].removeprefix("SCMP_CMP_")), arg["value"])
            for arg in rule.get("args") or ()
        ]
        for name in rule["names"]:
            try:
                rules.add_rule(seccomp.ALLOW, name, *conditions)
            except (OSError, RuntimeError, ValueError):
                continue  # a call of another architecture
    rules.load()


def _is_for_us(rule: dict[str, Any]) -> bool:
    needs = rule.get("includes") or {}
    return not needs.get("caps") and "amd64" in needs.get("arches", ["amd64"])


if __name__ == "__main__":
    main()
