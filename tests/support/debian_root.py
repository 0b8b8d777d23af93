"""Root directories with another release of Debian, made by debootstrap, and commands that run in them.

Both want root. A command has a mount namespace of its own, so nothing stays mounted after it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ARCHIVE: Final = "http://deb.debian.org/debian"
INSTALL_SECONDS: Final = 900

# By pivot_root and not chroot alone: in a chroot nobody can make a user namespace (unshare(2), EPERM), which
# podman and buildah want.
_ENTER: Final = """
set -e
mount --bind {root} {root}
{proc}
mount --rbind /dev {root}/dev
mount --rbind /sys {root}/sys
{binds}
cd {root}
pivot_root . mnt
umount --lazy /mnt
{command}
"""


def lacking() -> str:
    """Return what is missing here to make and to enter a root directory, "" if nothing is."""
    if os.geteuid() != 0:
        return "needs root, to make a root directory and to mount /proc, /dev and /sys there: use sudo"
    if shutil.which("debootstrap") is None:
        return "needs debootstrap: apt-get install debootstrap"
    return ""


def make(place: Path, release: str, packages: Iterable[str]) -> Path:
    """Return the path of a root directory of `release`, which is made where it is not complete.

    Raises CalledProcessError, with debootstrap's output on stderr before.
    """
    place = place.resolve()
    complete = place / "var/lib/debootstrap-complete"
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        options = ["--variant=minbase", f"--include={','.join(packages)}"]
        command = ["debootstrap", *options, release, str(place), ARCHIVE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS)
        complete.touch()
    return place


def share_network(root: Path) -> None:
    """Let programs in `root` reach package registries as this machine does.

    That is its name servers, the CAs that its administrator added, and what apt and pip are told of proxies
    and indexes. No password is copied but one that stands in a URL there.
    """
    names = root / "etc/resolv.conf"
    names.unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", names)
    added = Path("usr/local/share/ca-certificates")
    shutil.copytree("/" / added, root / added, dirs_exist_ok=True)
    subprocess.run(enter(root, ["update-ca-certificates"]), check=True, capture_output=True)
    if Path("/etc/pip.conf").exists():
        shutil.copy("/etc/pip.conf", root / "etc/pip.conf")
    dump = ["apt-config", "dump", "--format", '%f "%v";%n', "Acquire::http::Proxy", "Acquire::https::Proxy"]
    proxies = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    (root / "etc/apt/apt.conf.d/99proxy").write_text(proxies)


def enter(
    root: Path, command: Sequence[str], *, binds: Iterable[Path] = (), own_processes: bool = False
) -> list[str]:
    """Return the command that runs `command` in `root`.

    `binds`: directories that are to be there too, by the same path. `own_processes`: in a process id
    namespace as well, which ends with the returned command, whatever started in it.
    """
    proc = f"mount -t proc proc {root}/proc" if own_processes else f"mount --bind /proc {root}/proc"
    bound = [f"mkdir -p {root}{path} && mount --bind {path} {root}{path}" for path in binds]
    # A namespace's first process has to reap orphans: the shell does.
    last = f"{shlex.join(command)} || exit $?" if own_processes else f"exec {shlex.join(command)}"
    script = _ENTER.format(root=shlex.quote(str(root)), proc=proc, binds="\n".join(bound), command=last)
    options = ["--mount", "--propagation", "private"]
    options += ["--pid", "--fork", "--kill-child"] if own_processes else []
    return ["unshare", *options, "sh", "-c", script]
