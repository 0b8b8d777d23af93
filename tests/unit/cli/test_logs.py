"""`regproxy logs`: chosen lines, and what they look like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regproxy.cli import logs
from regproxy.cli.main import app

DIGEST = "sha256:" + "ab" * 32


def entry(**changed: Any) -> str:
    """Return a line as the access log has it."""
    fields = {
        "access_time": "2026-01-31T10:00:00.123Z",
        "upstream_cache_status": "HIT",
        "method": "GET",
        "uri": f"/v2/app/blobs/{DIGEST}",
        "status": "200",
        "bytes_sent": "1572864",
        "host": "ghcr.io",
        "remote_addr": "10.0.0.1",
        "request_time": "0.250",
    }
    return json.dumps(fields | changed) + "\n"


def shown(tmp_path: Path, text: str, *options: str) -> list[str]:
    """Return what the command prints of a log."""
    path = tmp_path / "access.log"
    path.write_text(text)
    result = CliRunner().invoke(app, ["logs", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_a_request(tmp_path: Path) -> None:
    (line,) = shown(tmp_path, entry())
    assert line.split() == [
        *("10:00:00.123", "10.0.0.1", "200", "HIT", "1.5", "MiB", "0.250", "s", "GET"),
        "ghcr.io/v2/app/blobs/sha256:abababababab",  # no more of a digest than people read
    ]


def test_the_other_format(tmp_path: Path) -> None:
    """docker-registry-proxy's: without the client and the duration."""
    text = entry(access_time="31/Jan/2026:10:00:00 +0000", upstream_cache_status="")
    told = json.loads(text)
    del told["remote_addr"], told["request_time"]
    (line,) = shown(tmp_path, json.dumps(told) + "\n")
    assert line.split()[:3] == ["10:00:00", "200", "-"]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--registry", "ghcr.io"], "02"),
        (["--registry", "*.io"], "012"),
        (["--client", "10.0.0.*"], "01"),
        (["--status", "5xx"], "2"),
        (["--status", "200"], "01"),
        (["--cache", "miss"], "1"),
        (["-n", "2"], "12"),
        (["-n", "1", "--status", "200"], "1"),
        ([], "012"),
    ],
)
def test_choosing(tmp_path: Path, options: list[str], numbers: str) -> None:
    lines = [
        entry(uri="/0"),
        entry(uri="/1", host="quay.io", upstream_cache_status="MISS"),
        entry(uri="/2", status="502", remote_addr="10.1.0.1"),
    ]
    assert [line[-1] for line in shown(tmp_path, "".join(lines), *options)] == list(numbers)
    raw = shown(tmp_path, "".join(lines), "--json", *options)
    assert raw == [lines[int(number)].rstrip() for number in numbers]


def test_other_lines_are_left_out(tmp_path: Path) -> None:
    others = ["INFO a worker is ready\n", "{}\n", '{"access_time": \n', "[1]\n", '{"time": "x"}\n', "\n"]
    assert len(shown(tmp_path, "".join([*others, entry()]))) == 1


def test_a_terminal_obeys_nothing_of_it(tmp_path: Path) -> None:
    """Neither escapes nor rich's own markup, nor what is no string."""
    text = entry(uri="/\x1b[2J[red]\n/x", host="\x9bevil", bytes_sent="many", status=200)
    (line,) = shown(tmp_path, text)
    assert line.isprintable()
    assert "[red]" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--status", "9xx"], "--status 9xx: three digits"),
        (["/nonexistent/log"], "/nonexistent/log can't be read: no such file"),
    ],
)
def test_what_is_wrong(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["logs", *arguments])
    assert result.exit_code == 2
    assert told in result.output


@contextmanager
def running(*arguments: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run `regproxy logs --json`."""
    command = [sys.executable, "-m", "regproxy", "logs", "--json", *arguments]
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_standard_input() -> None:
    """The last lines of a pipe that stays open, as of `docker logs -f`, and then what comes."""
    with running("-n", "2", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("".join(entry(uri=f"/{number}") for number in range(4)))
        process.stdin.flush()
        assert [json.loads(process.stdout.readline())["uri"] for _ in range(2)] == ["/2", "/3"]
        process.stdin.write(entry(uri="/4").rstrip())  # the end ends a line, too
        process.stdin.close()
        assert json.loads(process.stdout.read())["uri"] == "/4"
        assert process.wait() == 0


def test_the_file_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(entry())
    result = CliRunner().invoke(app, ["logs"], env={"REGPROXY_ACCESS_LOG": str(path)})
    assert result.stdout.count("\n") == 1


def test_following(tmp_path: Path) -> None:
    """What is appended, in pieces too, and the file that takes its place."""
    path = tmp_path / "access.log"
    path.write_text(entry(uri="/0"))
    with running("--follow", str(path)) as process:
        assert (lines := process.stdout) is not None
        assert '"/0"' in lines.readline()
        with path.open("a") as log:
            text = entry(uri="/1")
            log.write(text[:20])
            log.flush()
            log.write(text[20:])
        assert '"/1"' in lines.readline()
        path.rename(tmp_path / "access.log.1")
        path.write_text(entry(uri="/2"))
        assert '"/2"' in lines.readline()
        os.truncate(path, 0)
        with path.open("a") as log:
            log.write(entry(uri="/3", host="a"))
        assert '"/3"' in lines.readline()


def test_a_file_that_was_moved_away_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_PAUSE", 0.001)
    path = tmp_path / "access.log"
    path.write_text("0\n")
    lines = filter(None, logs._read(path, follow=True))
    assert next(lines) == "0\n"
    for number in range(1, 4):
        with path.open("a") as log:
            log.write("late\n")
        path.rename(tmp_path / f"access.log.{number}")
        path.write_text(f"{number}\n")
        assert (next(lines), next(lines)) == ("late\n", f"{number}\n")
        held = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert [each for each in held if each.parent == tmp_path] == [path]
