"""A wall clock that a test moves, for a process tree: hours pass in no time, and nothing waits longer.

    clock = SimulatedClock(tmp_path)
    with Proxy(place, clock.env, ...) as proxy:
        clock.advance(3600)

The processes have `simulated_clock.c` preloaded and read the offset from a mapped file, so a step is seen by
all of them at once. Monotonic time, timeouts and sleeps stay as they are. A file is as old as it would be had
its time been written by this clock.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
SIZE: Final = 1 << 20
_COUNT: Final = struct.Struct("=Q")
_STEP: Final = struct.Struct("=qq")
_COARSE: Final = 5  # CLOCK_REALTIME_COARSE, clock_gettime(2): what the kernel writes into files

MISSING: Final = None if shutil.which("cc") else "no C compiler (cc)"
"""Why there is no simulated clock here; None: there is."""


class SimulatedClock:
    """Time that is ahead of the kernel's by what `advance` was told. Its files are below `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        library, steps = directory / "clock.so", directory / "clock"
        command = [
            "cc",
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            f"-DSIZE={SIZE}",
        ]
        subprocess.run([*command, "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
        with steps.open("w+b") as file:
            file.truncate(SIZE)
            self._steps = mmap.mmap(file.fileno(), SIZE)
        self.env: Final = {"LD_PRELOAD": str(library), "SIMULATED_CLOCK": str(steps)}
        self._lock = threading.Lock()
        self._offset = 0  # nanoseconds
        self._count = 0

    def time(self) -> float:
        """Return what the processes' time.time() is."""
        return time.time() + self._offset / 1e9

    def advance(self, seconds: float) -> None:
        """Move on: at once, and for all processes."""
        if seconds < 0:
            raise ValueError("this clock does not go back")
        with self._lock:
            self._offset += int(seconds * 1e9)
            step = time.clock_gettime_ns(_COARSE), self._offset
            _STEP.pack_into(self._steps, _COUNT.size + self._count * _STEP.size, *step)
            self._count += 1
            _COUNT.pack_into(self._steps, 0, self._count)  # last: who reads the count finds the step
