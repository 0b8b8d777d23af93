"""What a run was made on: the machine, the versions of everything, and how fast its OpenSSL is."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("regproxy", "uvloop", "httptools", "cython")
PROGRAMS = {
    "nginx": ["nginx", "-v"],
    "squid": ["squid", "-v"],
    "docker-registry": ["docker-registry", "--version"],
    "trafficserver": ["traffic_server", "-V"],
}
# What makes AES-GCM, SHA-256 and copies fast or slow.
FLAGS = (
    "aes",
    "pclmulqdq",
    "avx2",
    "avx512f",
    "vaes",
    "vpclmulqdq",
    "sha_ni",
    "erms",
    "fsrm",
    "sha2",
    "pmull",
)
CIPHERS = ("aes-128-gcm", "aes-256-gcm", "sha256")
RECORD = 16_384  # bytes, the largest TLS record


def machine() -> dict[str, str]:
    """CPU, memory, kernel, load; each as one line."""
    info = Path("/proc/cpuinfo").read_text()
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1e6
    return {
        "CPU": f"{_first(info, 'model name') or platform.machine()}, {os.cpu_count()} cores",
        "CPU flags": known_flags(_first(info, "flags") or _first(info, "Features")),
        "memory": f"{memory:.0f} GB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "load average at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _first(info: str, field: str) -> str:
    found = re.search(rf"^{field}\s*: *(.*)$", info, re.MULTILINE)
    return found[1] if found else ""


def known_flags(flags: str) -> str:
    """Those of FLAGS that the CPU has."""
    there = set(flags.split())
    return " ".join(flag for flag in FLAGS if flag in there)


def speeds() -> dict[str, float]:
    """GB/s of one core in records of 16 KiB, by `openssl speed`; what it does not say is left out."""
    found = {}
    for cipher in CIPHERS:
        command = ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", str(RECORD), "-evp", cipher]
        result = re.search(r"^\+F:\d+:[^:]+:([\d.]+)$", said(command, everything=True), re.MULTILINE)
        if result:
            found[cipher] = float(result[1]) / 1e9
    return found


def versions() -> dict[str, str]:
    """Of the interpreter, OpenSSL, our packages, the peers and this tree."""
    found = {"Python": platform.python_version(), "OpenSSL": ssl.OPENSSL_VERSION}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    for name, command in PROGRAMS.items():
        found[name] = said(command)
    built = re.search(
        r"running with (OpenSSL [\w.]+)|built with (OpenSSL [\w.]+)", said(["nginx", "-V"], True)
    )
    found["nginx's OpenSSL"] = (built[1] or built[2]) if built else "not installed"
    found["commit"] = said(["git", "rev-parse", "HEAD"])
    return found


def said(command: list[str], everything: bool = False) -> str:
    """The first line a command prints that is not blank, or all of them."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return "not installed"
    lines = (done.stdout + done.stderr).strip()
    return lines if everything else lines.split("\n", 1)[0]
