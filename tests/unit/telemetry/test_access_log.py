"""The access log: what a line says, and that a slow or full target costs lines and nothing else."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regproxy.http.hops import Hop
from regproxy.telemetry.access_log import AccessLog, extra_fields
from tests.support import ROOT

LINE: dict[str, Any] = {
    "now": 1_800_000_000.25,
    "remote_addr": "10.0.0.7",
    "method": "GET",
    "uri": "/v2/library/nginx/manifests/1.27",
    "host": "registry-1.docker.io",
    "status": 200,
    "bytes_sent": 2711,
    "request_time": 0.0123,
    "request_type": "manifest-primary",
    "upstream_cache_status": "MISS",
    "upstream_response_time": 0.1,
    "proxy_host": "registry-1.docker.io:443",
    "upstream": "52.1.2.3:443",
    "request_id": "cafe",
}
WRITTEN = {
    "access_time": "2027-01-15T08:00:00.250Z",
    "upstream_cache_status": "MISS",
    "method": "GET",
    "uri": "/v2/library/nginx/manifests/1.27",
    "request_type": "manifest-primary",
    "status": "200",
    "bytes_sent": "2711",
    "upstream_response_time": "0.100",
    "host": "registry-1.docker.io",
    "proxy_host": "registry-1.docker.io:443",
    "upstream": "52.1.2.3:443",
    "remote_addr": "10.0.0.7",
    "request_time": "0.012",
    "request_id": "cafe",
}


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(directory: Path, **changes: Any) -> dict[str, str]:
    """Write one line to a new file and read it back."""
    path = directory / "access.log"
    path.unlink(missing_ok=True)
    log = AccessLog.open(str(path))
    log.line(**LINE | changes)
    log.close()
    (line,) = lines_of(path)
    return line


# --- one line --------------------------------------------------------------------------------------------


def test_a_line(tmp_path: Path) -> None:
    line = written(tmp_path)
    assert line == WRITTEN
    assert list(line) == list(WRITTEN)  # docker-registry-proxy's order, ours after it


@pytest.mark.parametrize(
    "changes, field, want",
    [
        ({"upstream_response_time": None}, "upstream_response_time", ""),
        ({"upstream_response_time": 0.0}, "upstream_response_time", "0.000"),
        ({"now": 1_800_000_059.9996}, "access_time", "2027-01-15T08:00:59.999Z"),
        ({"now": 1_800_000_060.0}, "access_time", "2027-01-15T08:01:00.000Z"),
        ({"uri": "/v2/a/blobs/uploads/1?_state=secret"}, "uri", "/v2/a/blobs/uploads/1"),
        ({"uri": '/"\\\n\u2028\udcff'}, "uri", '/"\\\n\u2028\udcff'),
        ({"host": 'x","status":"200'}, "host", 'x","status":"200'),
        ({"method": "M\x00"}, "method", "M\x00"),
        ({"bytes_sent": 2**40}, "bytes_sent", str(2**40)),
    ],
    ids=str,
)
def test_fields(tmp_path: Path, changes: dict[str, Any], field: str, want: str) -> None:
    assert written(tmp_path, **changes) == WRITTEN | {field: want}


def test_the_docs_name_the_fields(tmp_path: Path) -> None:
    more = extra_fields(client_request_id="c", trace_id="t", fill_request_id="f")
    log = (ROOT / "docs" / "logging.md").read_text().partition("## The access log")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", log, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(
        written(tmp_path, more=more)
    )


def test_fields_that_few_lines_have(tmp_path: Path) -> None:
    more = extra_fields(client_request_id='"\n', trace_id="", fill_request_id="f")
    line = written(tmp_path, more=more)
    assert line == WRITTEN | {"client_request_id": '"\n', "fill_request_id": "f"}
    assert list(line)[-1] == "request_id"  # where the data plane writes that of the next request


def test_optional_fields_are_empty_strings(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(str(path))
    required = ("now", "remote_addr", "method", "uri", "host", "status", "bytes_sent", "request_time")
    log.line(**{name: LINE[name] for name in required})
    log.close()
    empty = (
        "request_type",
        "upstream_cache_status",
        "upstream_response_time",
        "proxy_host",
        "upstream",
        "request_id",
    )
    assert lines_of(path) == [WRITTEN | dict.fromkeys(empty, "")]


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=1, max_size=5))
def test_no_client_can_forge_a_line(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "access.log"
    log = AccessLog.open(str(path))
    for method, uri, host in seen:
        log.line(**LINE | {"method": method, "uri": uri, "host": host})
    log.close()
    raw = path.read_bytes()
    assert re.fullmatch(rb"[ -~\n]*", raw)
    assert raw.count(b"\n") == len(seen)
    assert [(x["method"], x["uri"], x["host"]) for x in lines_of(path)] == [
        (method, uri.partition("?")[0], host) for method, uri, host in seen
    ]


# --- where lines go --------------------------------------------------------------------------------------


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_off() -> None:
    before = threads()
    log = AccessLog.open("off")
    log.line(**LINE)
    log.flush()
    assert threads() == before
    assert log.dropped == 0
    log.close()


def test_a_file_is_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for status in (200, 404):
        log = AccessLog.open(str(path))
        log.line(**LINE | {"status": status})
        log.close()
    assert [line["status"] for line in lines_of(path)] == ["200", "404"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_a_path_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    before = threads()
    with pytest.raises(FileNotFoundError):
        AccessLog.open(str(tmp_path / "no" / "access.log"))
    assert threads() == before


def test_nothing_is_written_before_a_flush_and_order_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(str(path))
    for number in range(2000):
        log.line(**LINE | {"bytes_sent": number})
    assert path.read_bytes().count(b"\n") <= 2000 - 2000 % 512
    log.flush()
    log.close()
    assert [int(line["bytes_sent"]) for line in lines_of(path)] == list(range(2000))
    assert log.dropped == 0


def test_close_ends_the_thread_and_may_be_called_twice(tmp_path: Path) -> None:
    before = threads()
    log = AccessLog.open(str(tmp_path / "access.log"))
    assert len(threads() - before) == 1
    log.close()
    log.close()
    log.line(**LINE)
    log.flush()
    assert threads() == before
    assert (tmp_path / "access.log").read_bytes() == b""


def test_a_rotated_file_is_left(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog.open(str(path))
    log.line(**LINE | {"status": 200})
    log.flush()
    with path.open("rb") as file:
        while not file.readline():
            pass
    path.rename(old)
    log.line(**LINE | {"status": 404})
    log.close()
    assert [line["status"] for line in lines_of(old)] == ["200"]
    assert [line["status"] for line in lines_of(path)] == ["404"]


STDOUT = """
import sys
from regproxy.http.hops import Hop
from regproxy.telemetry.access_log import AccessLog

log = AccessLog.open("-")
for number in range(int(sys.argv[2])):
    log.line(now=0.0, remote_addr=sys.argv[1], method="GET", uri="/" + "x" * (number % 3000), host="h",
             status=200, bytes_sent=number, request_time=0.0)
log.close(60)
"""


def test_processes_share_standard_output_without_mixing_lines() -> None:
    """More than a pipe holds, read slowly: each line arrives whole, and each process's lines in order."""
    read, write = os.pipe()
    names = ["a", "b", "c"]
    writers = [subprocess.Popen([sys.executable, "-c", STDOUT, name, "1000"], stdout=write) for name in names]
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    for name in names:
        mine = [int(line["bytes_sent"]) for line in lines if line["remote_addr"] == name]
        assert mine == list(range(1000))


# --- when they can't go anywhere -------------------------------------------------------------------------


def dropped_for(why: str, caplog: pytest.LogCaptureFixture) -> list[int]:
    return [int(m[1]) for m in re.finditer(rf"(\d+) lines dropped: {why}", caplog.text)]


def open_pipe(directory: Path) -> tuple[AccessLog, int]:
    """A log whose target is a pipe, and the pipe's other end."""
    path = directory / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog.open(str(path))
    os.set_blocking(reader, True)
    return log, reader


def test_a_pipe_that_nobody_reads_costs_lines_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, reader = open_pipe(tmp_path)
    count = 200_000
    for number in range(count):
        log.line(**LINE | {"bytes_sent": number})
    log.flush()
    assert log.dropped > 0
    received: list[bytes] = []

    def read_all() -> None:
        with os.fdopen(reader, "rb") as pipe:
            received.extend(pipe)

    thread = threading.Thread(target=read_all)
    thread.start()
    with caplog.at_level(logging.WARNING):
        log.close(60)
    thread.join()
    assert len(received) + log.dropped == count
    numbers = [int(json.loads(line)["bytes_sent"]) for line in received]
    assert numbers == sorted(numbers) and numbers[0] == 0
    assert sum(dropped_for("it is read too slowly", caplog)) == log.dropped


def test_close_does_not_wait_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, reader = open_pipe(tmp_path)
    for _ in range(5000):
        log.line(**LINE)
    before = threads()
    with caplog.at_level(logging.WARNING):
        log.close(timeout=0.01)
    assert len(before - threads()) == 1
    kept = os.read(reader, 1 << 20).count(b"\n")
    assert sum(dropped_for("it is not read", caplog)) == 5000 - kept == log.dropped
    os.close(reader)


def test_a_reader_that_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, reader = open_pipe(tmp_path)
    os.close(reader)
    log.line(**LINE)
    with caplog.at_level(logging.WARNING):
        log.close()
    assert "1 lines dropped: Broken pipe" in caplog.text


def test_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog.open("/dev/full")
    for _ in range(1500):
        log.line(**LINE)
    with caplog.at_level(logging.WARNING):
        log.close()
    said = dropped_for("No space left on device", caplog)
    assert sum(said) == 1500
    assert len(said) <= 2  # at once, then not for every batch


def cut_after(limit: int) -> Callable[[int, Any], int]:
    """An os.write that takes `limit` bytes, then fails once, then works."""
    real, answers = os.write, ["cut", "fail"]

    def write(fd: int, data: Any) -> int:
        answer = answers.pop(0) if answers else "work"
        if answer == "fail":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:limit] if answer == "cut" else data)

    return write


def test_half_a_line_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(str(path))
    monkeypatch.setattr(os, "write", cut_after(40))
    log.line(**LINE)
    log.flush()
    log.line(**LINE | {"status": 404})
    log.close()
    torn, whole = path.read_text().splitlines()
    assert len(torn) == 40
    assert json.loads(whole)["status"] == "404"


# --- docker-registry-proxy's lines ------------------------------------------------------------------------

RP: dict[str, Any] = {
    "now": 1_624_701_600.9,
    "method": "GET",
    "uri": "/v2/library/nginx/manifests/1.27?ns=docker.io",
    "host": "registry-1.docker.io",
    "status": 200,
    "bytes_sent": 2711,
    "request_type": "manifest-primary",
    "upstream_cache_status": "MISS",
    "hops": [Hop("registry-1.docker.io", "52.1.2.3", 443, "0.100")],
}
RP_LINE = (
    '{"access_time":"26/Jun/2021:10:00:00 +0000","upstream_cache_status":"MISS","method":"GET",'
    '"uri":"/v2/library/nginx/manifests/1.27","request_type":"manifest-primary","status":"200",'
    '"bytes_sent":"2711","upstream_response_time":"0.100","host":"registry-1.docker.io",'
    '"proxy_host":"registry-1.docker.io","upstream":"52.1.2.3:443"}\n'
)
TWO = [Hop("reg.test", "192.0.2.1", 443, "0.100"), Hop("cdn.test", "2001:db8::1", 8443, "0.200")]


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(
    "changes, want",
    [
        ({}, {}),
        ({"uri": "/v2/a/tags/list%3f%20%C3%A9?x=%41"}, {"uri": "/v2/a/tags/list? é"}),
        ({"uri": "/v2/%ff%0a%22%5c%00"}, {"uri": '/v2/\ufffd\n"\\\0'}),
        # What ends a line for some readers, and what a terminal obeys.
        (
            {"uri": "/v2/%c2%85%e2%80%a8%e2%80%a9%c2%9b2J%7f%1c"},
            {"uri": "/v2/\x85\u2028\u2029\x9b2J\x7f\x1c"},
        ),
        ({"hops": []}, {"upstream_response_time": "", "proxy_host": "", "upstream": ""}),
        (
            {"hops": TWO},
            {
                "upstream_response_time": "0.100 : 0.200",
                "proxy_host": "cdn.test:8443",
                "upstream": "192.0.2.1:443 : [2001:db8::1]:8443",
            },
        ),
        (
            {"upstream_cache_status": "UPDATING"},
            {"upstream_cache_status": "HIT", "upstream_response_time": "", "proxy_host": "", "upstream": ""},
        ),
        (
            {"request_type": "token", "upstream_cache_status": "BYPASS"},
            {"request_type": "unknown", "upstream_cache_status": ""},
        ),
        ({"upstream_cache_status": "STALE"}, {"upstream_cache_status": "STALE"}),
        ({"now": 1_625_000_000.0}, {"access_time": "29/Jun/2021:20:53:20 +0000"}),
    ],
    ids=str,
)
def test_docker_registry_proxys_lines(tmp_path: Path, changes: dict[str, Any], want: dict[str, str]) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(str(path), rp=True)
    log.rp_line(**RP | changes)
    log.close()
    text = path.read_text()
    assert json.loads(text) == json.loads(RP_LINE) | want
    assert changes or text == RP_LINE
    assert len(text.splitlines()) == 1 and all(char.isprintable() for char in text[:-1])
