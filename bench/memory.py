"""Memory and page faults of process trees, in bytes and counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import members, stat

KB = re.compile(r"^(Rss|Pss|VmHWM):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Faults:
    """Of living processes, and of those that they have waited for, since each began."""

    minor: int  # answered from memory
    major: int  # read from the disk

    @classmethod
    def of(cls, root: int) -> Faults:
        counts = [stat(pid) for pid in members(root)]
        minor = sum(int(fields[7]) + int(fields[8]) for fields in counts)
        return cls(minor, sum(int(fields[9]) + int(fields[10]) for fields in counts))


@dataclass(frozen=True, slots=True)
class Memory:
    """What a tree has at the end of a load, and its page faults meanwhile."""

    processes: int
    rss: int  # bytes; pages that several of them have count for each
    pss: int  # bytes; such a page counts once, in shares
    peak: int  # bytes; each one's greatest RSS, which need not have been at one time
    minor_faults: int
    major_faults: int


class Watch:
    """Begins with a load; `memory` is called at its end."""

    def __init__(self, root: int) -> None:
        self._root = root
        for pid in members(root):
            # Begins to measure the peak anew: proc(5), clear_refs.
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = Faults.of(root)

    def memory(self) -> Memory:
        faults, pids = Faults.of(self._root), members(self._root)
        sizes = [_sizes(pid) for pid in pids]
        return Memory(
            len(pids),
            sum(size["Rss"] for size in sizes),
            sum(size["Pss"] for size in sizes),
            sum(size["VmHWM"] for size in sizes),
            faults.minor - self._before.minor,
            faults.major - self._before.major,
        )


def _sizes(pid: int) -> dict[str, int]:
    place = Path(f"/proc/{pid}")
    text = (place / "smaps_rollup").read_text() + (place / "status").read_text()
    return {name: int(size) * 1024 for name, size in KB.findall(text)}
