"""CPU, memory and page faults of a process and of all its children, as benchmarks read them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.cpu import process_seconds, tree_seconds
from bench.cpu import tree as processes
from bench.footprint import Faults, Watch

SIZE = 64 << 20  # bytes
SLACK = 1 << 20  # bytes; the kernel counts pages in batches, a batch for each core
# Takes SIZE bytes of anonymous memory in its child, page by page, and gives them back, each when told to.
CHILD = f"""
import mmap, sys
for line in sys.stdin:
    taken = mmap.mmap(-1, {SIZE})
    for at in range(0, {SIZE}, {mmap.PAGESIZE}):
        taken[at] = 1
    print("taken", flush=True)
    sys.stdin.readline()
    taken.close()
    print("given back", flush=True)
"""
PARENT = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {CHILD!r}]))"


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    """A process whose child does the work."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        assert process.stdin
        process.stdin.close()


def tell(process: subprocess.Popen[str]) -> str:
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_children_are_counted(tree: subprocess.Popen[str]) -> None:
    assert tell(tree) == "taken"
    pids = list(processes(tree.pid))
    assert tree.pid in pids and len(pids) == 2
    assert tree_seconds(tree.pid) >= max(map(process_seconds, pids)) > 0


def test_memory_and_faults(tree: subprocess.Popen[str]) -> None:
    assert (tell(tree), tell(tree)) == ("taken", "given back")
    watch = Watch(tree.pid)
    before = watch.memory()
    assert tell(tree) == "taken"
    during = watch.memory()
    assert tell(tree) == "given back"
    after = watch.memory()
    assert during.processes == 2
    for name in ("rss", "pss", "peak"):
        assert getattr(during, name) - getattr(before, name) >= SIZE - SLACK, name
    assert during.pss <= during.rss <= during.peak + SLACK
    # The peak of the load stays when the memory is gone, and an earlier one does not count.
    assert during.rss - after.rss >= SIZE - SLACK and after.peak >= during.peak - SLACK
    assert before.peak < during.peak
    # A page each, or several: the kernel may give 2 MiB at a time (transparent huge pages).
    assert during.minor_faults - before.minor_faults >= SIZE // (2 << 20)


def test_a_process_that_is_gone() -> None:
    """Its faults count with those of who waited for it."""
    before = Faults.of(os.getpid())
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert Faults.of(os.getpid()).minor > before.minor
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert processes(ended.pid) == {}
