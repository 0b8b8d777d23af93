"""Small file systems of a test's own, which can be full or read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


class SmallDisk:
    """A tmpfs of `size` bytes at `path`, unmounted in the end. Who may not mount skips the test."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        done = subprocess.run(self._mount(size), capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small file system can't be mounted here: {done.stderr.strip()}")

    def _mount(self, size: int) -> list[str]:
        return ["mount", "-t", "tmpfs", "-o", f"size={size}", "regproxy-test", str(self.path)]

    def free(self) -> int:
        """Bytes that are left."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def fill(self) -> Path:
        """Take all the space that is left; the file that has it."""
        hog = self.path / "hog"
        with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        return hog

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, capture_output=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FragileDisk(SmallDisk):
    """An ext4 file system in a file, which turns read-only when the kernel finds an error in it."""

    def _mount(self, size: int) -> list[str]:
        image = self.path.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        return ["mount", "-o", "loop,errors=remount-ro", str(image), str(self.path)]

    def fail(self) -> None:
        """Let the kernel find an error."""
        source = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.path)], check=True, capture_output=True, text=True
        ).stdout.strip()
        Path(f"/sys/fs/ext4/{Path(source).name}/trigger_fs_error").write_text("1")

    def replace(self) -> None:
        """Put another file system in its place, an empty one: this one can't be made writable again."""
        self.close()
        subprocess.run(super()._mount(40_000_000), check=True, capture_output=True)
