"""Run all targets for a time, each with its corpus, two side by side, and print the figures of each.

    python -m tests.fuzz                              600 seconds in all
    python -m tests.fuzz --seconds 60 --targets chunks,records
    python -m tests.fuzz --runs 10000000 --targets chunks

What breaks a target is kept in build/fuzz/found, and what its corpus has grown to in build/fuzz/corpus. The
target `handlers` is tests.load.fuzzing: random handlers and peers on the data plane's connections.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.fuzz.build import BUILD, build
from tests.fuzz.targets import HANDLERS, NAMES, command, environment
from tests.support import ROOT

_RUNS = re.compile(r"stat::number_of_executed_units: ([0-9]+)")
_EDGES = re.compile(r"cov: ([0-9]+)")
_WRONG = re.compile(r"^(?:WRONG|SUMMARY|.*Error)\b.*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What one target has done. `runs` and `edges` are 0 where they are not told."""

    name: str
    status: int
    runs: int
    edges: int
    output: str


def run(name: str, seconds: int, runs: int, seed: int) -> Result:
    """Run one target."""
    if name == HANDLERS:
        words = ["-m", "tests.support.sanitized", "-m", "tests.load.fuzzing"]
        call, env = [sys.executable, *words, "--seconds", str(seconds), "--seed", str(seed)], None
    else:
        grown, found = BUILD / "corpus" / name, BUILD / "found"
        for place in (grown, found):
            place.mkdir(parents=True, exist_ok=True)
        limits = [f"-max_total_time={seconds}", f"-runs={runs}", f"-seed={seed}", "-max_len=300"]
        options = [*limits, "-print_final_stats=1", f"-artifact_prefix={found}/{name}-", str(grown)]
        call, env = (
            [*command(name), *options, str(ROOT / "tests" / "fuzz" / "corpus" / name)],
            environment(name),
        )
    done = subprocess.run(call, env=env, cwd=ROOT, capture_output=True, text=True, errors="replace")
    output = done.stdout + done.stderr
    executed, edges = _RUNS.findall(output), _EDGES.findall(output)
    return Result(
        name, done.returncode, int(executed[-1]) if executed else 0, int(edges[-1]) if edges else 0, output
    )


def main() -> int:
    """Run what the command line names; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="all targets together")
    parser.add_argument("--runs", type=int, default=-1, help="at most so many inputs a target")
    parser.add_argument("--targets", default=",".join((*NAMES, HANDLERS)))
    parser.add_argument("--jobs", type=int, default=2, help="targets side by side")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    options = parser.parse_args()
    names = options.targets.split(",")
    if unknown := sorted(set(names) - {*NAMES, HANDLERS}):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join((*NAMES, HANDLERS))}")
    build()
    each = max(1, options.seconds * min(options.jobs, len(names)) // len(names))
    print(f"seed {options.seed}, {each} seconds a target", flush=True)
    status = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda name: run(name, each, options.runs, options.seed), names):
            print(f"{result.name:14} {result.runs:>12,} inputs {result.edges:>6} edges", flush=True)
            if result.status:
                status = 1
                print(*_WRONG.findall(result.output), result.output[-4000:], sep="\n", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
