"""Where a log can be written, and pipes that nobody reads yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from regproxy.core.errors import ConfigError
from regproxy.telemetry.log_sink import LineSink, check_log


def large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 36)


PLACES: list[tuple[str, Callable[[Path], object], str]] = [
    ("nothing", lambda path: None, ""),
    ("file", lambda path: path.write_text("lines\n"), ""),
    ("large", large, ""),
    ("pipe", os.mkfifo, ""),
    ("device", lambda path: path.symlink_to("/dev/null"), ""),
    ("directory", Path.mkdir, "Is a directory"),
    ("nowhere", lambda path: path.symlink_to("none/at/all"), "No such file or directory"),
    ("loop", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
]


@pytest.mark.parametrize("make, why", [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_places(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    path = tmp_path / "log"
    make(path)
    before = sorted(tmp_path.iterdir())
    if not why:
        check_log("A_LOG", str(path))
    else:
        with pytest.raises(ConfigError) as caught:
            check_log("A_LOG", str(path))
        assert str(caught.value) == (
            f"A_LOG='{path}': can't be written: {why}; a path in a directory that exists, - or off"
        )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("folder", ["none", "file"])
def test_a_directory_that_is_none(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"A_LOG=.*directory"):
        check_log("A_LOG", str(tmp_path / folder / "log"))


def test_a_directory_that_is_read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # root may write anywhere, whatever the mode says
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match="can't be written: Permission denied"):
        check_log("A_LOG", str(tmp_path / "log"))


def test_a_log_that_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LineSink.make(path)
    assert path.read_text() == ""
    path.write_text("a line\n")
    LineSink.make(path)
    assert path.read_text() == "a line\n"
    with pytest.raises(OSError, match="No such file"):
        LineSink.make(tmp_path / "none" / "log")


@pytest.mark.parametrize("where", ["-", "off"])
def test_words(where: str) -> None:
    check_log("A_LOG", where)


def test_a_pipe_that_is_read_later(tmp_path: Path) -> None:
    """Opening it waits for nobody, and what was written until then is not lost."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = LineSink(path, "some log")
    sink.put(["one\n"])
    sink.put(b"two\n")
    with path.open("rb") as reader:
        assert (reader.readline(), reader.readline()) == (b"one\n", b"two\n")
        check_log("A_LOG", str(path))
        sink.put(["three\n"])
        assert reader.readline() == b"three\n"
    sink.close(5.0)
    assert sink.dropped == 0


LINES = ["x" * 1000 + "\n"] * 200  # more than a pipe holds


@pytest.mark.parametrize("lines", [LINES, "".join(LINES).encode()], ids=["lines", "text"])
def test_a_pipe_that_nobody_reads(lines: list[str] | bytes, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = LineSink(path, "some log")
    sink.put(lines)
    sink.close(0.1)
    assert 0 < sink.dropped < 200


@pytest.mark.parametrize("as_text", [False, True], ids=["lines", "text"])
def test_what_waits_is_bounded_in_bytes(as_text: bool, tmp_path: Path) -> None:
    """A line may be as long as the URI that a client has made up."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = LineSink(path, "some log")
    line = "x" * (1 << 20) + "\n"
    for _ in range(40):
        sink.put(line.encode() if as_text else [line])
    # One of them is being written.
    assert 7 <= sink.dropped <= 9
    sink.close(0.1)


@pytest.mark.parametrize(
    "lines",
    [
        *([], ["one\n"], ["é" * 40_000 + "\n", "two\n", "three\n"]),
        *([f"{number}\n" * 9 for number in range(30_000)], ["x" * 200_000 + "\n", "y\n"]),
    ],
    ids=["none", "one", "two bytes each", "many", "long"],
)
@pytest.mark.parametrize("as_text", [False, True], ids=["lines", "text"])
def test_all_lines_are_written(lines: list[str], as_text: bool, tmp_path: Path) -> None:
    """Whichever way they come, and however they are cut into writes."""
    path = tmp_path / "log"
    sink = LineSink(path, "some log")
    sink.put("".join(lines).encode() if as_text else lines)
    sink.close(5.0)
    assert (path.read_text(), sink.dropped) == ("".join(lines), 0)
