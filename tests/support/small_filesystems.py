"""Small file systems of a test's own: full, read-only or broken. Who may not mount skips the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SMALLEST = 4096


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes, mounted at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    with _mounted(place, "-t", "tmpfs", "-o", f"size={size}", "regproxy-test"):
        yield place


@contextmanager
def fragile_disk(place: Path, size: int) -> Iterator[Path]:
    """An ext4 file system in a file, mounted at `place`; `break_disk()` turns it read-only."""
    place.mkdir(parents=True, exist_ok=True)
    image = place.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(size)
    if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("there is no mkfs.ext4 here")
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
    with _mounted(place, "-o", "loop,errors=remount-ro", str(image)):
        yield place


def break_disk(place: Path) -> None:
    """Let the kernel find an error in it, as it does where a disk is failing."""
    command = ["findmnt", "-no", "SOURCE", str(place)]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    Path(f"/sys/fs/ext4/{Path(source).name}/trigger_fs_error").write_text("1")


@contextmanager
def read_only(place: Path) -> Iterator[Path]:
    """A second way to the directory `place`, by which nothing can be written."""
    view = place.with_name(f"{place.name}-read-only")
    view.mkdir()
    with _mounted(view, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
        yield view


def fill_up(place: Path) -> Path:
    """Write a file until nothing more goes onto its disk."""
    path = place / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (65_536, _SMALLEST, 1):
            try:
                while file.write(b"b" * size) == size:
                    pass
            except OSError:
                continue
    return path


def free(place: Path) -> int:
    """Bytes that are left."""
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


@contextmanager
def _mounted(place: Path, *options: str) -> Iterator[None]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount file systems")
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount refuses: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
