"""Build the image of the Dockerfile by buildah, on a base that debootstrap makes, like debian:13-slim.

All is below build/image. Wants root, debootstrap, buildah, and a way to Debian's archive and to PyPI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.support import ROOT, debian_root

PLACE: Final = ROOT / "build/image"
BASE: Final = "localhost/debian:13-slim"
EPOCH: Final = "1700000000"  # SOURCE_DATE_EPOCH
# What debian:13-slim has dpkg leave out, too.
SLIM: Final = ("doc", "man", "locale", "info")
KEPT: Final = "path-include /usr/share/doc/*/copyright\n"


def storage() -> list[str]:
    """Return the options of podman and buildah for a storage of our own."""
    return ["--root", f"{PLACE}/storage", "--runroot", f"{PLACE}/run", "--storage-driver", "vfs"]


def buildah(*words: str) -> str:
    """Run buildah; return what it prints. Raises CalledProcessError."""
    done = subprocess.run(["buildah", *storage(), *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def make_base() -> None:
    """Make BASE, unless it is there."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return
    root = debian_root.make(PLACE / "debian-13-slim", "trixie", ["ca-certificates"])
    excluded = "".join(f"path-exclude /usr/share/{name}/*\n" for name in SLIM)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(excluded + KEPT)
    for name in (*(f"usr/share/{each}" for each in SLIM), "var/lib/apt/lists", "var/cache/apt", "var/log"):
        for path in (root / name).glob("*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    packed = PLACE / "base.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(packed), "."], check=True)
    container = buildah("from", "scratch")
    buildah("add", container, str(packed), "/")
    buildah("config", "--cmd", "bash", container)
    buildah("commit", "--quiet", container, BASE)
    buildah("rm", container)
    packed.unlink()


def build(target: str, name: str) -> None:
    """Build a target of the Dockerfile as `name`, with this machine's ways to PyPI, which stay out of it."""
    pip = PLACE / "pip.conf"
    pip.write_text("[global]\ncert = /run/host-ca.crt\n")
    mounts = {pip: "/etc/pip.conf", Path("/etc/ssl/certs/ca-certificates.crt"): "/run/host-ca.crt"}
    volumes = [word for path, to in mounts.items() for word in ("--volume", f"{path}:{to}:ro")]
    arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"]
    subprocess.run(
        [
            *("buildah", *storage(), "build", "--isolation", "chroot", "--network", "host", "--pull-never"),
            *("--format", "docker", "--layers", "--target", target, "--tag", name, *arguments, *volumes),
            *("--file", str(ROOT / "Dockerfile"), str(ROOT)),
        ],
        check=True,
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
    )


def configuration(name: str) -> dict[str, Any]:
    """Return an image's configuration, as Docker has it."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
    return found


def compressed(name: str) -> int:
    """Return the bytes of an image's layers as a registry has them, by gzip."""
    layout = PLACE / "pushed"
    shutil.rmtree(layout, ignore_errors=True)
    buildah("push", "--quiet", name, f"oci:{layout}:image")
    size = sum(path.stat().st_size for path in (layout / "blobs/sha256").iterdir())
    shutil.rmtree(layout)
    return size
