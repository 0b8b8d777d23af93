"""What grows with the cache, and what must not: `python -m bench.growth`.

Caches of 10^3, 10^5 and 10^6 sparse blobs are made, with their rows; then the same work is measured on each.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.figures import Figure
from bench.servers import Process, free_port
from regproxy.cache import layout
from regproxy.cache.eviction import INACTIVE, CacheLimits, Evictor
from regproxy.cache.index.index import Index, ObjectRow
from regproxy.cache.reconcile import DIRECTORIES, Reconciler

WORK = Path(__file__).parent.parent / "build" / "bench" / "growth"
SIZES = "1000,100000,1000000"
BLOB = 1 << 20  # bytes of each blob; it is a hole
DAY = 86_400.0
EVICTED = 1000  # objects of one eviction pass
STARTS = 5
LOOKUPS = 10_000
LOOKUP_ROUNDS = 5
BULK = 20_000  # rows in a transaction

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on a cache of `objects` blobs; seconds, where the name says nothing else."""

    objects: int
    made: float
    ready: tuple[float, ...]
    lookup_us: tuple[float, ...]
    open_us: tuple[float, ...]
    evict: float
    longest_step_ms: float
    reconcile: float
    longest_piece_ms: float
    rebuild: float
    memory_mb: float


def main(
    sizes: Annotated[str, typer.Option(help="numbers of blobs, comma separated")] = SIZES,
    work: Annotated[Path, typer.Option(help="where the caches are made")] = WORK,
    keep: Annotated[bool, typer.Option(help="leave the caches there, for the next run")] = False,
) -> None:
    """Measure start, look-up, eviction and reconciliation on caches of several sizes."""
    measured = []
    for size in map(int, sizes.split(",")):
        place = work.absolute() / str(size)
        try:
            measured.append(measure(place, size))
        except BenchError as error:
            console.print(f"{size}: FAILED: {error}", markup=False)
            raise typer.Exit(1) from None
        finally:
            if not keep:
                shutil.rmtree(place, ignore_errors=True)
        console.print(f"{size:,} blobs: made in {measured[-1].made:.1f} s, measured")
    console.print(table(measured))


def measure(place: Path, size: int) -> Figures:
    """All figures of one cache."""
    root = place / "cache"
    digests = names(size)
    made = timed(lambda: make(root, digests))
    ready = tuple(start(place) for _ in range(STARTS))
    before = forget_peak()
    with closing(Index.open(layout.index(root))) as index:
        lookup, opened = lookups(root, index, digests)
        evict, longest_step = evict_some(root, index, digests)
        reconcile, longest_piece = reconcile_all(root, index)
    memory = memory_mb("VmHWM") - before
    for path in root.glob("index.sqlite3*"):
        path.unlink()
    with closing(Index.open(layout.index(root))) as index:
        rebuild, _ = reconcile_all(root, index)
        held = index.totals().objects
    if held != size:
        raise BenchError(f"the rebuilt index has {held} objects, not {size}")
    return Figures(
        size,
        made,
        ready,
        lookup,
        opened,
        evict,
        longest_step * 1e3,
        reconcile,
        longest_piece * 1e3,
        rebuild,
        memory,
    )


def table(measured: list[Figures]) -> Table:
    """A column for each size of cache."""
    shown = Table("", *(f"{each.objects:,} blobs" for each in measured), box=None, header_style="bold")
    rows = {
        "exec to ready, s": lambda each: f"{median(each.ready):.3f}",
        "look-up of a row, us": lambda each: f"{median(each.lookup_us):.1f}",
        "open of its file, us": lambda each: f"{median(each.open_us):.1f}",
        f"eviction of {EVICTED:,} objects, s": lambda each: f"{each.evict:.3f}",
        "its longest step, ms": lambda each: f"{each.longest_step_ms:.1f}",
        "reconcile pass without pauses, s": lambda each: f"{each.reconcile:.2f}",
        "its longest piece, ms": lambda each: f"{each.longest_piece_ms:.1f}",
        "index made anew without pauses, s": lambda each: f"{each.rebuild:.2f}",
        "memory that these took, MB": lambda each: f"{each.memory_mb:.0f}",
    }
    for name, cell in rows.items():
        shown.add_row(name, *map(cell, measured))
    return shown


def figures(place: Path, size: int) -> list[Figure]:
    """The same as points of growth curves, as reports have them; the cache is removed."""
    try:
        found = measure(place, size)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    values = {
        ("from exec to ready", "s"): found.ready,
        ("look-up of a row, CPU", "us"): found.lookup_us,
        ("opening its file, CPU", "us"): found.open_us,
        (f"evicting {EVICTED:,} blobs", "s"): (found.evict,),
        ("longest step of that", "ms"): (found.longest_step_ms,),
        ("comparing index and disk, without pauses", "s"): (found.reconcile,),
        ("longest piece of that", "ms"): (found.longest_piece_ms,),
        ("making the index anew, without pauses", "s"): (found.rebuild,),
        ("memory of the janitor's work", "MB"): (found.memory_mb,),
    }
    return [
        Figure("G3", name, unit, series, axis="blobs in the cache", at=size)
        for (name, unit), series in values.items()
    ]


# --- a cache ---------------------------------------------------------------------------------------------


def names(size: int) -> list[str]:
    """The digests of a cache, in their order."""
    return sorted(f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(size))


def make(root: Path, digests: list[str]) -> None:
    """Make the files that are missing, and an index of them that is complete."""
    for number in range(DIRECTORIES):
        (root / "blobs" / "sha256" / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    for digest in digests:
        make_blob(root, digest)
    with closing(Index.open(layout.index(root))) as index:
        now, left = time.time(), iter(digests)
        while rows := [row(digest, now - DAY) for digest in islice(left, BULK)]:
            index.adopt(rows)
        index.set_complete()


def make_blob(root: Path, digest: str) -> None:
    fd = os.open(layout.blob(root, digest), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.ftruncate(fd, BLOB)
    os.close(fd)


def row(digest: str, last_used: float) -> ObjectRow:
    return ObjectRow(digest, size=BLOB, disk=BLOB, media_type=None, last_used=last_used, stored_at=last_used)


# --- what is measured ------------------------------------------------------------------------------------


def start(place: Path) -> float:
    """Seconds from the exec of `regproxy serve` to /readyz saying 200."""
    port, admin = free_port(), free_port()
    environ = {
        "REGPROXY_LISTEN": f"127.0.0.1:{port}",
        "REGPROXY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "REGPROXY_CACHE_DIR": str(place / "cache"),
        "REGPROXY_CA_DIR": str(place / "ca"),
        "REGPROXY_ACCESS_LOG": "off",
        "CACHE_MAX_SIZE": "0",
        "REGPROXY_MIN_FREE": "0",
    }
    (place / "ca").mkdir(exist_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "regproxy", "serve"]
    process = Process(command, place / "output.log", lambda: answers(admin), environ)
    took = time.monotonic() - began
    process.stop()
    return took


def answers(admin: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def lookups(root: Path, index: Index, digests: list[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """CPU us of a look-up in the index, and of opening a file, round by round; both at random."""
    in_index, opened = [], []
    for seed in range(LOOKUP_ROUNDS):
        some = random.Random(seed).choices(digests, k=LOOKUPS)
        in_index.append(cpu_seconds(partial(find_all, index, some)) / LOOKUPS * 1e6)
        opened.append(cpu_seconds(partial(open_all, root, some)) / LOOKUPS * 1e6)
    return tuple(in_index), tuple(opened)


def find_all(index: Index, digests: list[str]) -> None:
    for digest in digests:
        index.object(digest)


def open_all(root: Path, digests: list[str]) -> None:
    for digest in digests:
        os.close(os.open(layout.blob(root, digest), os.O_RDONLY))


def evict_some(root: Path, index: Index, digests: list[str]) -> tuple[float, float]:
    """Seconds that evicting EVICTED unused objects takes, and those of its longest step; they come back."""
    chosen = random.Random(2).sample(digests, min(EVICTED, len(digests)))
    age(root, chosen, time.time() - 100 * DAY)
    evictor = Evictor(root, index, CacheLimits(max_size=0, inactive=60 * DAY, min_free=0))
    steps, removed = [], 0
    while True:
        began = time.monotonic()
        freed = evictor.step()
        steps.append(time.monotonic() - began)
        removed += freed.objects
        if not freed.more:
            break
    evictor.close()
    if removed != len(chosen) or freed.reason not in ("", INACTIVE):
        raise BenchError(f"{removed} objects were evicted, not {len(chosen)}")
    for digest in chosen:
        make_blob(root, digest)
    index.adopt([row(digest, time.time()) for digest in chosen])
    return sum(steps), max(steps)


def age(root: Path, digests: list[str], last_used: float) -> None:
    """As if these had not been used since."""
    with closing(sqlite3.connect(layout.index(root), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE objects SET last_used = ? WHERE digest = ?", ((last_used, digest) for digest in digests)
        )
        connection.execute("COMMIT")


def reconcile_all(root: Path, index: Index) -> tuple[float, float]:
    """Seconds of a pass over everything, and those of its longest piece."""
    reconciler = Reconciler(root, index)
    pieces = list(durations(reconciler.steps()))
    if not reconciler.done:
        raise BenchError("the comparison did not go through")
    return sum(pieces), max(pieces)


def durations(steps: Iterator[float]) -> Iterator[float]:
    while True:
        began = time.monotonic()
        if next(steps, None) is None:
            return
        yield time.monotonic() - began


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process: what others do meanwhile does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def forget_peak() -> float:
    """Begin to measure the peak of memory anew (proc(5), clear_refs); megabytes that are in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def memory_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    typer.run(main)
