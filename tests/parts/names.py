"""Names that resolve to what a test says, or do not, for a process tree.

    names = SimulatedNames(tmp_path)
    names.tell("reg.test", None)
    with Proxy(place, names.env, ...) as proxy:
        names.tell("reg.test", "127.0.0.1")

The processes have `names.c` preloaded, which looks into a file with each question. Names that were not told
of are the system's.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")

MISSING: Final = None if shutil.which("cc") else "no C compiler (cc)"
"""Why there are no simulated names here; None: there are."""


class SimulatedNames:
    """What names stand for. Its files are below `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        library, self._file = directory / "names.so", directory / "names"
        command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
        self._file.touch()
        self.env: Final = {"LD_PRELOAD": str(library), "SIMULATED_NAMES": str(self._file)}
        self._names: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def tell(self, name: str, address: str | None) -> None:
        """From now on a name stands for this address; None: there is no such name."""
        with self._lock:
            self._names[name] = address
            new = self._file.with_suffix(".new")
            new.write_text("".join(f"{name} {address or '-'}\n" for name, address in self._names.items()))
            new.replace(self._file)
