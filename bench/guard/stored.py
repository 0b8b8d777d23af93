"""The counts in the tree: one set for each platform, as another OpenSSL or Python executes other code."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.guard.paths import Counts
from regproxy.dataplane import tls

FILE = Path(__file__).parent / "counts.json"
MARGIN = 1.05
# Of all of a path's instructions: how the bytes of a fill are cut into reads changes no more than this.
CUTS = 0.002
# OpenSSL chooses its code by these, as far as valgrind passes them on.
FEATURES = ("aes", "pclmulqdq", "avx", "avx2", "bmi2", "adx", "rdseed")


@dataclass(frozen=True, slots=True)
class Build:
    """What counts depend on besides our code. `name`: the platform whose counts they are."""

    name: str
    details: dict[str, str]

    @classmethod
    def here(cls) -> Build:
        system = platform.freedesktop_os_release()
        openssl = tls.openssl_version().split()[1]
        python = platform.python_version()
        short = f"Python {python.rpartition('.')[0]}, OpenSSL {openssl.rpartition('.')[0]}"
        name = f"{system['ID']} {system.get('VERSION_ID', '')}, {short}, {platform.machine()}"
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
        details = {
            "python": python,
            "openssl": openssl,
            "libc": platform.libc_ver()[1],
            "uvloop": metadata.version("uvloop"),
            "cython": metadata.version("cython"),
            "cpu": " ".join(feature for feature in FEATURES if feature in flags),
        }
        return cls(name, details)


def load() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def save(build: Build, found: dict[str, Counts]) -> None:
    """Replace the counts of that platform."""
    told = load() | {build.name: {"build": build.details, "instructions": found}}
    FILE.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One count beside the stored one. `counts`: whether it decides. `least`: less than that is no change."""

    path: str
    of: str
    before: int
    now: int
    counts: bool
    least: float = 0.0

    @property
    def failed(self) -> bool:
        return self.counts and self.now > max(self.before * MARGIN, self.before + self.least)

    def __str__(self) -> str:
        change = (self.now / self.before - 1) * 100
        word = "TOO MANY" if self.failed else "ok" if self.counts else "not judged: another CPU"
        if self.counts and self.now < min(self.before / MARGIN, self.before - self.least):
            word = "ok, fewer: make bench-guard-update keeps it so"
        counts = f"{self.now:,} instructions, stored {self.before:,}, {change:+.1f} %"
        return f"{self.path}, {self.of}: {counts}  {word}"


def compare(build: Build, stored: dict[str, Any], found: dict[str, Counts]) -> Iterator[Verdict]:
    """Compare with the stored counts of the same platform. Those of libcrypto need the same CPU, too."""
    same_cpu = stored["build"]["cpu"] == build.details["cpu"]
    for path, counts in found.items():
        least = CUTS * stored["instructions"].get(path, {}).get("all", 0)
        for of, now in counts.items():
            before = stored["instructions"].get(path, {}).get(of)
            if before:
                yield Verdict(path, of, before, now, of != "all" or same_cpu, least)
