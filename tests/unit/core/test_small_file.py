"""What is read whole, and what is refused instead of being waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regproxy.core.small_file import FILE_MAX, read_small


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * FILE_MAX)
    assert read_small(path) == b"x" * FILE_MAX
    (tmp_path / "link").symlink_to(path)
    assert read_small(str(tmp_path / "link")) == b"x" * FILE_MAX


def test_what_is_refused(tmp_path: Path) -> None:
    (long := tmp_path / "long").write_bytes(b"x" * (FILE_MAX + 1))
    os.mkfifo(pipe := tmp_path / "pipe")
    refused: list[tuple[str | Path, str]] = [
        (long, f"more than {FILE_MAX} bytes"),
        (pipe, "not a file"),
        (tmp_path, "Is a directory"),
        (Path("/dev/zero"), "not a file"),
        (tmp_path / "none", "No such file or directory"),
        ("nul\0", "not a path"),
    ]
    for path, why in refused:
        with pytest.raises(OSError) as caught:
            read_small(path)
        assert (caught.value.strerror, str(caught.value.filename)) == (why, str(path))
