"""Memory and page faults of process trees, in bytes and counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.cpu import tree

T = TypeVar("T")
KB = re.compile(r"^(Rss|Pss|VmHWM):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Faults:
    """Of living processes, and of those that they have waited for, since each began."""

    minor: int  # answered from memory
    major: int  # read from the disk

    @classmethod
    def of(cls, root: int) -> Faults:
        counts = list(_of_living(root, _counts))
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
        for _ in _of_living(root, _forget_peak):
            pass
        self._before = Faults.of(root)

    def memory(self) -> Memory:
        faults, sizes = Faults.of(self._root), list(_of_living(self._root, _sizes))
        return Memory(
            len(sizes),
            sum(size["Rss"] for size in sizes),
            sum(size["Pss"] for size in sizes),
            sum(size["VmHWM"] for size in sizes),
            faults.minor - self._before.minor,
            faults.major - self._before.major,
        )


def _of_living(root: int, read: Callable[[int], T]) -> Iterator[T]:
    """What `read` says of each process of a tree; one may end meanwhile."""
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield read(pid)


def _forget_peak(pid: int) -> None:
    """Begin to measure the peak of memory anew: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _counts(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before it may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _sizes(pid: int) -> dict[str, int]:
    place = Path(f"/proc/{pid}")
    text = (place / "smaps_rollup").read_text() + (place / "status").read_text()
    none = dict.fromkeys(("Rss", "Pss", "VmHWM"), 0)  # as one that has ended and is not waited for yet
    return none | {name: int(size) * 1024 for name, size in KB.findall(text)}
