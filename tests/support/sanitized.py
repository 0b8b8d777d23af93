"""Builds the data plane with AddressSanitizer and UndefinedBehaviorSanitizer, and runs tests on it.

    python -m tests.support.sanitized                              those of the data plane, and the fuzzer
    python -m tests.support.sanitized -m tests.load.fuzzing --seconds 600
    python -m tests.support.sanitized -m pytest tests/wire/test_x.py

The modules are in build/asan, beside links to everything else, so that the usual ones stay what they are. All
processes there run with the sanitizers' libraries, the proxies that tests start too (see `environment`). Each
report is a file, and fails the run: a worker that ends by one would only be replaced.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TREE: Final = ROOT / "build" / "asan"
REPORTS: Final = TREE / "reports"
LINKED: Final = (
    *("tests", "pyproject.toml", "docs", "bench", "ext", "deploy"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
)
TESTS: Final = (
    "unit/dataplane/test_growing_file",
    "unit/dataplane/test_sources",
    "unit/dataplane/test_sinks",
    "unit/dataplane/test_splice",
    "unit/dataplane/test_block_map",
    "unit/dataplane/test_growing_file_lengths",
    "unit/dataplane/test_block_map_lengths",
    "unit/cache/test_parts_lengths",
    "unit/fill/test_origin_bodies",
    "unit/dataplane/test_sinks_chunks",
    "unit/dataplane/test_answers",
    "unit/dataplane/test_peer_records",
    "unit/dataplane/test_http1",
    "unit/dataplane/test_stream_states",
    "unit/upstream/test_connection",
    "wire/test_origin_answers_twice",
    "unit/dataplane/test_stream_refusals",
    "unit/dataplane/test_growing_file_spill",
    "unit/fill/test_range_leases",
    "wire/test_tls_records",
    "load/test_fuzzing",
    "wire/test_proxy_port",
    "wire/test_request_bodies",
    "wire/test_messages",
    "wire/test_repeated_answers",
)
# What sanitized modules need, of whoever starts a process: they can't be loaded without their library.
_PASSED_ON: Final = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONMALLOC")

SANITIZED: Final = os.environ.get("REGPROXY_SANITIZE") == "1"
"""Whether this process runs with them."""


def environment() -> dict[str, str]:
    """What a process started from here has to have in its environment; nothing where this is a usual run."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} if SANITIZED else {}


def build() -> None:
    """Make the modules, and the tree that they are imported from."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "REGPROXY_SANITIZE": "1"}, check=True)
    ours, theirs = ROOT / "regproxy", TREE / "regproxy"
    _link(ours, theirs, *(path.name for path in ours.iterdir() if path.name != "dataplane"))
    _link(
        ours / "dataplane", theirs / "dataplane", *(path.name for path in (ours / "dataplane").glob("*.py*"))
    )
    _link(ROOT, TREE, *LINKED)


def _link(source: Path, target: Path, *names: str) -> None:
    for old in target.iterdir():
        if old.is_symlink():
            old.unlink()
    for name in names:
        if name != "__pycache__":
            (target / name).symlink_to(source / name)


def _library(name: str) -> str:
    """Of the compiler that Python's modules are built with."""
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return str(Path(found.stdout.strip()).resolve(strict=True))


def run(*arguments: str) -> int:
    """Run a Python on the sanitized tree; its status, or 1 where there are reports, which are shown."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    options = f"log_path={REPORTS}/report:halt_on_error=1:print_stacktrace=1"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "REGPROXY_SANITIZE": "1",
        "REGPROXY_DEBUG": "1",
        "LD_PRELOAD": f"{_library('libasan.so')} {_library('libubsan.so')}",
        # Python itself keeps memory to its end; freed memory has to be the allocator's to be seen as such.
        "ASAN_OPTIONS": f"{options}:detect_leaks=0:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": options,
        "PYTHONMALLOC": "malloc",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    status = subprocess.run([sys.executable, *arguments], cwd=TREE, env=env).returncode
    reports = sorted(REPORTS.iterdir())
    for report in reports:
        print(f"--- {report.name}", report.read_text(errors="replace"), sep="\n")
    return status or int(bool(reports))


def main() -> int:
    started = time.monotonic()
    build()
    arguments = sys.argv[1:]
    if not arguments:
        tests = [f"tests/{name}.py" for name in TESTS]
        arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=300", *tests]
    status = run(*arguments)
    print(f"{time.monotonic() - started:.0f} s, status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
