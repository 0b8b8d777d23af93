"""CPU time of process trees, in seconds, at the scheduler's own resolution."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Moments of the servers' and the machine's clocks; the difference of two is a measurement."""

    server: float  # s of user + system, all processes of the server that is measured
    known: float  # s, every process tree that belongs to the benchmark, that server included
    busy: float  # s, everything on this machine, in ticks
    at: float  # s, monotonic

    @classmethod
    def now(cls, server: int, others: Iterable[int]) -> Usage:
        used = tree_seconds(server)
        return cls(used, used + sum(map(tree_seconds, others)), machine_seconds(), time.monotonic())


def process_seconds(pid: int) -> float:
    """User + system of one process, in nanosecond steps, its threads that have ended included.

    This is the clock that clock_getcpuclockid(3) names. /proc/PID/stat counts in 10 ms ticks and
    /proc/PID/schedstat has the main thread alone. Children that were waited for are added from
    /proc/PID/stat, since nothing finer has them.
    """
    clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of the whole process, kernel/time/posix-timers.h
    fields = _stat(pid)
    return time.clock_gettime(clock) + (int(fields[13]) + int(fields[14])) * TICK


def tree_seconds(root: int) -> float:
    """User + system of a process and all its living descendants."""
    return sum(map(_seconds_so_far, tree(root)))


def _seconds_so_far(pid: int) -> float:
    """The CPU time of a process of a tree, 0 if it has ended since: its parent has it, once it has waited."""
    try:
        return process_seconds(pid)
    except OSError:
        return 0.0


def tree(root: int) -> dict[int, int]:
    """A process and all its living descendants, each with its start in ticks."""
    stats = dict(_all_stats())
    members = {root}
    while grown := {pid for pid, fields in stats.items() if int(fields[1]) in members} - members:
        members |= grown
    return {pid: int(stats[pid][19]) for pid in members if pid in stats}


def remaining(processes: Mapping[int, int]) -> list[int]:
    """Those of an earlier `tree` that still live."""
    now = {pid: int(fields[19]) for pid, fields in _all_stats() if fields[0] != "Z"}
    return [pid for pid, start in processes.items() if now.get(pid) == start]


def machine_seconds() -> float:
    """Busy time of all cores: everything but idle, iowait and what a guest counts twice."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) * TICK


def _all_stats() -> Iterable[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), _stat(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between the listing and the reading


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before it may hold blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
