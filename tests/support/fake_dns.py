"""Names that resolve to what a test says, or do not, for a process tree.

    names = SimulatedNames(tmp_path)
    names.tell("reg.test", None)
    with Proxy(place, names.env, ...) as proxy:
        names.tell("reg.test", "127.0.0.1")

The processes have `fake_dns.c` preloaded, which looks into a file with each question. Names that were not
told of are the system's.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")

AWAY: Final = "!"
"""In the place of an address: no name server answers."""
HANGS: Final = "?"
"""In the place of an address: whoever asks waits until something else is told."""

MISSING: Final = None if shutil.which("cc") else "no C compiler (cc)"
"""Why there are no simulated names here; None: there are."""


class SimulatedNames:
    """What names stand for. Its files are below `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        library, self._file, self._asked = (directory / name for name in ("names.so", "names", "asked"))
        command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
        self._file.touch()
        self._asked.touch()
        self.env: Final = {
            "LD_PRELOAD": str(library),
            "SIMULATED_NAMES": str(self._file),
            "SIMULATED_NAMES_ASKED": str(self._asked),
        }
        self._names: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def tell(self, name: str, address: str | None) -> None:
        """From now on a name stands for this address (or AWAY, HANGS); None: there is no such name."""
        self.tell_all({name: address})

    def asked(self) -> list[str]:
        """Return the names that were told of and asked for, one for each question, in their order."""
        return self._asked.read_text().split()

    def release(self) -> None:
        """There are no such names as hang: let those go who ask for them."""
        self.tell_all({name: None for name, address in self._names.items() if address == HANGS})

    def tell_all(self, names: Mapping[str, str | None]) -> None:
        """Tell of several names."""
        with self._lock:
            self._names |= names
            new = self._file.with_suffix(".new")
            new.write_text("".join(f"{name} {address or '-'}\n" for name, address in self._names.items()))
            new.replace(self._file)
