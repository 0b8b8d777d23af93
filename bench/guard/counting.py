"""The proxy under callgrind: what its reactor executes for a piece of work, by library."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.errors import BenchError
from bench.material import Identity
from bench.servers import ROOT, Process, Regproxy

SHIM = ROOT / "bench" / "guard" / "signals.c"
PATIENCE = 180.0  # s; emulated, and beside other work
COUNTED = "*Reactor*_poll"  # the reactor's turn, whatever number Cython gives it
CRYPTO = "libcrypto"


def missing() -> str | None:
    """Why nothing can be counted here, None where it can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    if not Path("/usr/include/valgrind/callgrind.h").exists():
        return "valgrind's headers are not installed"
    return None


class Counted(Regproxy):
    """The proxy with one worker, whose reactor's instructions are counted: not its ticks, nor its tasks.

    Those depend on how long the work takes. Everything else is as in the other scenarios.
    """

    def __init__(self, directory: Path, identity: Identity, origin_port: int) -> None:
        super().__init__(directory, identity, [origin_port])
        self._shim = directory / "signals.so"
        made = subprocess.run(
            ["gcc", "-O2", "-shared", "-fPIC", "-o", str(self._shim), str(SHIM)],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise BenchError(made.stderr)
        self._dumps = 0
        self.worker = 0

    def start(self, settings: Mapping[str, str]) -> None:
        self._cache.mkdir(exist_ok=True)
        (self._directory / "ca").mkdir(exist_ok=True)
        command = [
            *("valgrind", "--tool=callgrind", "--trace-children=yes"),
            *("--instr-atstart=no", "--collect-atstart=no", f"--toggle-collect={COUNTED}"),
            f"--callgrind-out-file={self._directory}/counts.%p",
            *(sys.executable, "-m", "regproxy", "serve"),
        ]
        environ = {
            **self._environ,
            "LD_PRELOAD": str(self._shim),
            "PYTHONHASHSEED": "0",
            "REGPROXY_HANG_TIMEOUT": "600",
            **settings,
        }
        self._process = Process(command, self._directory / "output.log", self._ready, environ, PATIENCE)
        self.worker = _worker_of(self._process.pid)
        os.kill(self.worker, signal.SIGUSR1)

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self._admin}/metrics"

    def rest(self) -> None:
        """Wait until the worker sleeps: so what comes next finds it in the same state each time."""
        stat = Path(f"/proc/{self.worker}/task/{self.worker}/stat")
        ends = time.monotonic() + PATIENCE
        asleep = 0
        while asleep < 3:
            asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
            if time.monotonic() > ends:
                raise BenchError("the worker does not come to rest")

    def count(self, work: Callable[[], None]) -> Counter[str]:
        """Do it; instructions of the worker's reactor meanwhile, by the name of the library."""
        self._dump()
        work()
        self.rest()
        return instructions(self._dump())

    def _dump(self) -> str:
        self.rest()
        self._dumps += 1
        path = self._directory / f"counts.{self.worker}.{self._dumps}"
        os.kill(self.worker, signal.SIGUSR2)
        ends = time.monotonic() + PATIENCE
        while not (path.exists() and "\ntotals:" in (text := path.read_text())):
            if time.monotonic() > ends:
                raise BenchError(f"no {path.name} from callgrind")
            time.sleep(0.01)
        path.unlink()
        return text


def _worker_of(supervisor: int) -> int:
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text().startswith("worker-"):
            return int(pid)
    raise BenchError("there is no worker")


def instructions(text: str) -> Counter[str]:
    """Read a profile of callgrind: instructions by file, calls not counted to the caller.

    The format: https://valgrind.org/docs/manual/cl-format.html
    """
    found: Counter[str] = Counter()
    names: dict[str, str] = {}
    current, is_call = "", False
    for line in text.splitlines():
        if named := re.match(r"ob=(\(\d+\))(?: (.*))?$", line):
            if named[2]:
                names[named[1]] = Path(named[2]).name
            current = names[named[1]]
        elif named := re.match(r"cob=(\(\d+\)) (.*)$", line):
            names[named[1]] = Path(named[2]).name
        elif line.startswith("calls="):
            is_call = True
        elif re.match(r"[+*-]?\d* ?\d+$|\* \d+$", line):
            if not is_call:
                found[current] += int(line.split()[-1])
            is_call = False
    return found
