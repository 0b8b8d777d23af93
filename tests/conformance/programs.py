"""Build the suite, and distribution v3, as the Go module proxy has them, into a cache directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

CACHE = ROOT / ".local" / "go"


@dataclass(frozen=True, slots=True)
class Program:
    """A Go program: `package` of a module, at `version`; it is called `name`."""

    name: str
    package: str
    version: str

    def build(self, cache: Path) -> Path:
        """Return the built program, which is kept in `cache` (as are Go's own files); CalledProcessError."""
        path = cache / "bin" / f"{self.name}@{self.version}"
        if not path.exists():
            place = path.parent / f"building-{os.getpid()}"
            command = [go(), "install", f"{self.package}@{self.version}"]
            subprocess.run(command, env=environment(cache, place), cwd="/", check=True)
            [built] = place.iterdir()
            built.rename(path)
            place.rmdir()
        return path


# Neither has tags of its own: the version is that of a commit of the specification's repository.
SUITE = Program(
    "conformance",
    "github.com/opencontainers/distribution-spec/conformance",
    "v0.0.0-20260831232431-97274622c111",
)
DISTRIBUTION = Program("registry", "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2")


def has_go() -> bool:
    """Tell whether Go is here."""
    return Path(go()).exists()


def go() -> str:
    """Return the path of the go command."""
    return shutil.which("go") or "/usr/local/go/bin/go"


def environment(cache: Path, binaries: Path) -> dict[str, str]:
    """Return the environment of the go command: its files are in `cache`, what it builds in `binaries`."""
    kept = {"PATH", "HOME", "HTTPS_PROXY", "NO_PROXY", "GOPROXY", "GOSUMDB", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    own = {
        "GOPATH": str(cache / "path"),
        "GOCACHE": str(cache / "cache"),
        "GOBIN": str(binaries),
        "GOFLAGS": "-modcacherw",
        "CGO_ENABLED": "0",
    }
    return {name: value for name, value in os.environ.items() if name in kept} | own
