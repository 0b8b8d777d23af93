"""A client's host for set-ups and the doctor: a file system of its own, programs that only take notes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

Family = Literal["debian", "rhel", "alpine", "suse"]

_ANCHORS: Final[dict[Family, str]] = {
    "debian": "usr/local/share/ca-certificates",
    "rhel": "etc/pki/ca-trust/source/anchors",
    "alpine": "usr/local/share/ca-certificates",
    "suse": "etc/pki/trust/anchors",
}
_SYSTEMD: Final = ("etc/systemd/system", "run/systemd/system")
_SYSTEM: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS: Final = (
    *(
        "sh",
        "awk",
        "basename",
        "cat",
        "cmp",
        "cp",
        "dirname",
        "env",
        "grep",
        "head",
        "id",
        "mkdir",
        "mktemp",
        "mv",
    ),
    *("rm", "rmdir", "sed", "sort", "tr", "uname"),
)
# Says what it was called with, and swallows what it is fed.
_STUB: Final = '#!/bin/sh\necho "$(basename "$0") $*" >>"$CALLS"\n'


class FakeHost:
    """The file system below `root`. `calls` are the lines that the programs in `stubs` have noted."""

    def __init__(self, directory: Path, family: Family = "debian") -> None:
        self.root, self._bin, self._calls = directory / "root", directory / "bin", directory / "calls"
        self.family = family
        self._bin.mkdir(parents=True)
        for folder in (
            _ANCHORS[family],
            "etc",
            "var/lib",
            *(("run/openrc",) if family == "alpine" else _SYSTEMD),
        ):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for tool in _TOOLS:
            place = shutil.which(tool, path=_SYSTEM)
            assert place is not None, tool
            (self._bin / tool).symlink_to(place)
        trust = "update-ca-trust" if family == "rhel" else "update-ca-certificates"
        for name in (trust, "rc-service" if family == "alpine" else "systemctl"):
            self.stub(name)

    @property
    def anchor(self) -> Path:
        """Where the CA is put."""
        return self.root / _ANCHORS[self.family] / "regproxy.crt"

    def stub(self, name: str, script: str = "") -> None:
        """Put a program into PATH that notes its arguments and then does what `script` says, in sh."""
        path = self._bin / name
        path.write_text(_STUB + script)
        path.chmod(0o755)

    def link(self, name: str) -> bool:
        """Put a program of this machine into PATH; False: it is not here."""
        place = shutil.which(name, path=_SYSTEM)
        if place is not None:
            (self._bin / name).symlink_to(place)
        return place is not None

    def write(self, path: str, text: str) -> Path:
        """Write a file of the host."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def run(
        self,
        script: str,
        *arguments: str,
        shell: tuple[str, ...] = ("sh",),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as `curl URL | sh -s -- ARGUMENTS` does."""
        interpreter = shutil.which(shell[0])
        assert interpreter is not None, shell
        return subprocess.run(
            [interpreter, *shell[1:], "-s", "--", *arguments],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                "PATH": str(self._bin),
                "CALLS": str(self._calls),
                "REGPROXY_SETUP_ROOT": str(self.root),
                **(env or {}),
            },
        )

    def calls(self) -> list[str]:
        """Return what was noted since it was last asked for."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return lines

    def tree(self) -> dict[str, tuple[int, bytes | None]]:
        """Return every file and folder: mode and content (None for a folder)."""
        found: dict[str, tuple[int, bytes | None]] = {}
        for folder, _, files in os.walk(self.root):
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                content = None if path.is_dir() else path.read_bytes()
                found[str(path.relative_to(self.root))] = (path.stat().st_mode, content)
        return found
