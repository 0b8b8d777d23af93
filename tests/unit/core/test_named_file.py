"""Files that settings name, where the path is that of something else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from regproxy.core.named_file import FILE_MAX, read_file, read_text


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * FILE_MAX)
    assert len(read_file(path)) == FILE_MAX
    assert read_file(str(path), FILE_MAX) == read_text(path).encode()
    path.write_bytes(b"")
    assert read_text(path) == ""
    (tmp_path / "link").symlink_to(path)
    assert read_file(tmp_path / "link") == b""


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 36)  # of which nobody could read it all


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


OTHERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("nothing", lambda path: None, "No such file or directory"),
    ("directory", Path.mkdir, "Is a directory"),
    ("pipe", os.mkfifo, "not a file, but a pipe or a device"),
    ("device", lambda path: path.symlink_to("/dev/zero"), "not a file, but a pipe or a device"),
    ("socket", listening, "No such device or address"),
    ("large", large, "more than 1048576 bytes"),
    ("text", lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
    ("loop", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
]


@pytest.mark.parametrize("make, why", [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_what_is_no_such_file(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    """None of it is waited for, and none of it fills the memory."""
    path = tmp_path / "it"
    make(path)
    before = descriptors()
    with pytest.raises(OSError) as caught:
        read_text(path)
    assert (caught.value.strerror, caught.value.filename) == (why, str(path))
    assert descriptors() == before


def test_what_is_no_path() -> None:
    with pytest.raises(OSError, match="not a path"):
        read_file("a\0b")
