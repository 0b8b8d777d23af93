"""Run a command as systemd would by a unit's restrictions, where no systemd runs: by the system's own Python.

    python3 like_a_service.py UNIT WRITABLE... -- COMMAND...

In a mount namespace with a root file system that can't be written but for the paths that are named, as an
unprivileged user without new privileges, under the seccomp filter that the unit's SystemCallFilter=,
MemoryDenyWriteExecute=, RestrictAddressFamilies= and RestrictNamespaces= make (systemd.exec(5)). The command
has this process's id. Starts as root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

USER = 3128
_NEWNS = 0x00020000  # unshare(2)
_NAMESPACES = 0x7E020000 | 0x80  # CLONE_NEW*
_PR_SET_NO_NEW_PRIVS = 38
_PROT_WRITE, _PROT_EXEC, _SHM_EXEC = 2, 4, 0o100000


def main() -> None:
    split = sys.argv.index("--")
    unit, *writable = sys.argv[1:split]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for path in writable:
        subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "/"], check=True)
    allowed = calls(values(Path(unit).read_text(), "SystemCallFilter"))
    families = values(Path(unit).read_text(), "RestrictAddressFamilies")
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    load(allowed, [getattr(socket, name) for name in " ".join(families).split()])
    command = sys.argv[split + 1 :]
    os.execvp(command[0], command)


def values(unit: str, name: str) -> list[str]:
    """Return what the lines of a unit say for `name`, in their order."""
    found = (line.partition("=") for line in unit.splitlines())
    return [value for key, _, value in found if key == name]


def calls(lines: list[str]) -> set[str]:
    """Return the system calls that lines of SystemCallFilter= leave, the first of which allows."""
    allowed = members("@default")
    for line in lines:
        names = line.removeprefix("~").split()
        found = {call for name in names for call in (members(name) if name[0] == "@" else {name})}
        allowed = allowed - found if line.startswith("~") else allowed | found
    return allowed


def members(group: str) -> set[str]:
    """Return the system calls of a group, those of groups in it included."""
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True
    ).stdout.splitlines()[1:]
    names = [line.strip() for line in listed if line.strip() and line.strip()[0] != "#"]
    groups = [name for name in names if name[0] == "@"]
    return set(names).difference(groups).union(*(members(name) for name in groups))


def load(allowed: set[str], families: list[int]) -> None:
    """Load the filter: what is not allowed is EPERM, clone3 ENOSYS, since its flags can't be seen."""
    import seccomp  # type: ignore[import-not-found]  # Debian's python3-seccomp

    def masked(arg: int, mask: int, *values: int) -> list[Any]:
        return [seccomp.Arg(arg, seccomp.MASKED_EQ, mask, value) for value in values]

    rules = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.EPERM))
    both = _PROT_WRITE | _PROT_EXEC
    limited = {
        "mmap": masked(2, both, 0, _PROT_WRITE, _PROT_EXEC),
        "mprotect": masked(2, _PROT_EXEC, 0),
        "pkey_mprotect": masked(2, _PROT_EXEC, 0),
        "shmat": masked(2, _SHM_EXEC, 0),
        "clone": masked(0, _NAMESPACES, 0),
        "socket": [seccomp.Arg(0, seccomp.EQ, family) for family in families],
    }
    for name in sorted(allowed - {"clone3", "unshare", "setns"}):
        try:
            for condition in limited.get(name, [None]):
                rules.add_rule(seccomp.ALLOW, name, *([condition] if condition else []))
        except (OSError, RuntimeError, ValueError):
            continue  # a call of another architecture
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.load()


if __name__ == "__main__":
    main()
