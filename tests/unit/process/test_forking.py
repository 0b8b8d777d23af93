"""A forked child: what it has of the process that forked it, and what it has not.

Each test forks in a process of its own: pytest's may have threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

PROGRAM = """
import json, os, signal, socket, sys
from pathlib import Path
from regproxy.process import forking
from regproxy.telemetry import metrics

told = {}

def tell(**found):
    told.update(found)
    Path(sys.argv[1]).write_text(json.dumps(told))

def fork(run, *kept):
    pid = forking.start("test-7 of regproxy", kept, run)
    told.update(code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(told | json.loads(Path(sys.argv[1]).read_text() or "{}")))
"""


def run(tmp_path: Path, program: str, stderr: Path | None = None) -> tuple[dict[str, Any], str]:
    """What the child has told, with its exit `code`, and what both wrote to stderr if that is no file."""
    told = tmp_path / "told"
    told.touch()
    command = [sys.executable, "-c", PROGRAM + program, str(told)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with ExitStack() as stack:
        says = subprocess.PIPE if stderr is None else stack.enter_context(stderr.open("w"))
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=says, text=True, timeout=60, check=True
        )
    last = done.stdout.splitlines()[-1]
    return {"out": done.stdout.removesuffix(last + "\n")} | json.loads(last), done.stderr


def test_it_has_the_descriptors_that_it_is_told_of(tmp_path: Path) -> None:
    program = """
kept, other = socket.socketpair()
files = [open("/dev/zero") for _ in range(5)]
def child():
    fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]
    tell(fds=fds, kept=kept.fileno(), stdin=os.readlink("/proc/self/fd/0"))
    return 0
fork(child, kept.fileno())
assert kept.send(b"x") == 1 and [file.read(1) for file in files]  # here all are open
"""
    found, _ = run(tmp_path, program)
    assert found["fds"] == [0, 1, 2, found["kept"]]
    assert found["stdin"] == "/dev/null"


def test_it_has_no_signal_handlers_of_its_parent(tmp_path: Path) -> None:
    program = """
theirs, ours = socket.socketpair()
ours.setblocking(False)
for number in (signal.SIGCHLD, signal.SIGTERM):
    signal.signal(number, lambda *_: print("handled"))
signal.set_wakeup_fd(ours.fileno())
def child():
    tell(
        wakeup=signal.set_wakeup_fd(-1),
        handlers=[int(signal.getsignal(number)) for number in (signal.SIGCHLD, signal.SIGTERM)],
        blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    )
    return 0
fork(child)
assert signal.set_wakeup_fd(-1) == ours.fileno()
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # here they come again
"""
    found, _ = run(tmp_path, program)
    assert found["wakeup"] == -1
    assert found["handlers"] == [signal.SIG_DFL] * 2
    assert found["blocked"] == sorted([signal.SIGINT, signal.SIGHUP, signal.SIGTERM])


def test_its_metrics_are_not_its_parents(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    program = f"""
from prometheus_client import CollectorRegistry, Counter
metrics.share({str(tmp_path / "shelf")!r}, "parent")
counter = Counter("a", "a", registry=CollectorRegistry())
counter.inc()
before = Path({str(tmp_path / "shelf" / "counter_parent.db")!r}).read_bytes()
def child():
    tell(mapped=[line for line in open("/proc/self/maps") if "counter_parent" in line])
    metrics.share({str(tmp_path / "shelf")!r}, "child")
    Counter("a", "a", registry=CollectorRegistry()).inc(5)
    metrics.unshare()
    return 0
fork(child)
assert before == Path({str(tmp_path / "shelf" / "counter_parent.db")!r}).read_bytes()
counter.inc()  # here it is still open
assert before != Path({str(tmp_path / "shelf" / "counter_parent.db")!r}).read_bytes()
"""
    found, _ = run(tmp_path, program)
    assert found["mapped"] == []
    assert {path.name for path in (tmp_path / "shelf").iterdir()} == {"counter_parent.db", "counter_child.db"}


@pytest.mark.parametrize(
    ("ends", "code"), [("return 0", 0), ("return 3", 3), ("os.abort()", -signal.SIGABRT)]
)
def test_its_exit_code(ends: str, code: int, tmp_path: Path) -> None:
    found, _ = run(tmp_path, f"def child():\n    {ends}\nfork(child)")
    assert found["code"] == code


@pytest.mark.parametrize("raised", ["ValueError('of no use')", "SystemExit(0)", "KeyboardInterrupt"])
def test_an_error_ends_it_alone(raised: str, tmp_path: Path) -> None:
    """It must never get to what the parent does next."""
    found, said = run(tmp_path, f"def child():\n    raise {raised}\nfork(child)\nprint(json.dumps(told))")
    assert found["code"] == 1
    assert raised.partition("(")[0] in said
    assert found["out"].count("\n") == 1


def test_what_is_printed_before_is_printed_once(tmp_path: Path) -> None:
    found, _ = run(tmp_path, "print('before')\nfork(lambda: 0)")
    assert found["out"] == "before\n"


def test_what_can_not_be_written_holds_nothing_up(tmp_path: Path) -> None:
    program = """
import logging
logging.basicConfig()
logging.raiseExceptions = False
logging.warning("what stays in the buffer")
fork(lambda: 5)
os._exit(print(end="", flush=True) or 0)  # Python would end with 120
"""
    found, _ = run(tmp_path, program, Path("/dev/full"))
    assert found["code"] == 5


def test_without_proc(tmp_path: Path) -> None:
    program = """
forking.Path = lambda place: Path("/nowhere")
kept, other = socket.socketpair()
def child():
    forking.Path = Path
    fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]
    tell(fds=fds, kept=kept.fileno())
    return 0
fork(child, kept.fileno())
"""
    found, _ = run(tmp_path, program)
    assert found["fds"] == [0, 1, 2, found["kept"]]


def test_ps_tells_them_apart(tmp_path: Path) -> None:
    program = """
mine = Path("/proc/self/cmdline").read_bytes()
def child():
    tell(title=Path("/proc/self/cmdline").read_text().rstrip("\\0"), name=Path("/proc/self/comm").read_text())
    return 0
fork(child)
assert mine == Path("/proc/self/cmdline").read_bytes()
"""
    found, _ = run(tmp_path, program)
    assert found["title"] == "test-7 of regproxy"
    assert found["name"] == "test-7 of regpr\n"  # 15 bytes: `pkill regproxy` does not match


def test_what_can_not_be_used_is_told_in_a_line(tmp_path: Path) -> None:
    program = f"""
from regproxy.config.directories import Directories
from regproxy.config.sources import assembly
from regproxy.core.errors import ConfigError
from regproxy.process import boot
def serve(start):
    raise ConfigError("A_SETTING", "much", "a number")
theirs, ours = socket.socketpair()
record = boot.Record("worker", 0, {str(tmp_path)!r}, 1, "", True, control=ours.detach(), board=-1, commits=-1)
config, places = assembly.load({{}}, None, ""), Directories(*[Path({str(tmp_path)!r})] * 3, ())
fork(lambda: boot.run(record, config, places, serve), *record.descriptors)
"""
    found, said = run(tmp_path, program)
    assert found["code"] == 2
    assert said == "regproxy: A_SETTING='much': a number\n"
