"""Run the scenarios: `python -m bench.run short`, `python -m bench.run full --only S1,S3`."""

from __future__ import annotations

import fcntl
import shlex
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from bench.curves import CURVES
from bench.errors import BenchError
from bench.lab import Lab
from bench.pages import beside, judged
from bench.peers import table
from bench.report import write
from bench.results import Results
from bench.scenarios import PLANS, SCENARIOS
from bench.servers import Regproxy

BUILD = Path(__file__).parent.parent / "build" / "bench"
MEASURED = {**SCENARIOS, **CURVES}


class Mode(StrEnum):
    """The keys of PLANS, as the command line wants them."""

    SHORT = "short"
    FULL = "full"


console = Console(highlight=False, soft_wrap=True)


def main(
    mode: Annotated[Mode, typer.Argument(help="short: about 10 minutes. full: the figures that count.")],
    only: Annotated[str, typer.Option(help="scenarios, comma separated")] = ",".join(MEASURED),
    peers: Annotated[str, typer.Option(help="what it is compared with, comma separated")] = ",".join(
        table.USUAL
    ),
    workers: Annotated[
        int, typer.Option(help="processes of the proxy and of its peers that let one choose")
    ] = 1,
    work: Annotated[Path, typer.Option(help="where servers keep their files and caches")] = BUILD / "work",
    out: Annotated[Path, typer.Option(help="where figures.json, report.md and its plots go")] = BUILD,
) -> None:
    """Measure the proxy against its peers and judge it by its targets.

    Exit status 1 means that a scenario failed: a wrong answer, or a server that did not start. A target
    that was missed is reported as MISSED and does not change the exit status.
    """
    names = only.split(",")
    if unknown := set(names) - set(MEASURED):
        raise typer.BadParameter(f"no such scenario: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C: the servers are stopped on the way out
    lock = hold(work)
    command = shlex.join(["python", "-m", "bench.run", *sys.argv[1:]])
    results = Results.begin(mode.value, Regproxy.name, workers, command)
    try:
        lab = Lab(work.absolute(), workers, peers.split(","))
    except BenchError as error:
        console.print(f"FAILED: {error}", markup=False)
        raise typer.Exit(1) from None
    try:
        for name in names:
            measure(name, lab, results)
            results.servers, results.notes = lab.commands(), lab.notes
            results.save(out)  # a run that is cut short leaves what it has
    finally:
        lab.close()
        lock.close()
        console.print(f"figures: {results.save(out)}")
    console.print(f"report: {write(results, out)}")
    raise typer.Exit(1 if results.failed else 0)


def hold(work: Path) -> TextIO:
    """Lock the directory of the servers; ends the run where another one has it: both would be void."""
    work.mkdir(parents=True, exist_ok=True)
    lock = (work / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        console.print(f"FAILED: another run has its servers in {work}: give --work", markup=False)
        raise typer.Exit(1) from None
    return lock


def measure(name: str, lab: Lab, results: Results) -> None:
    """One scenario; its figures are printed as they come, a failure does not stop the others."""
    before, began = len(lab.samples), time.monotonic()
    try:
        figures = MEASURED[name](lab, PLANS[results.mode])
    except BenchError as error:
        results.failed[name] = str(error)
        console.print(f"{name}  FAILED: {error}", markup=False)
        return
    results.add(name, figures, lab.samples[before:])
    for figure in figures:
        where = f" at {figure.at:,.0f} {figure.axis}" if figure.axis else ""
        peers = "".join(f"  {side.name} {beside(figure, side.name)}" for side in figure.peers)
        targets = "; ".join(judged(figure, *pair) for pair in figure.verdicts(results.openssl))
        console.print(f"{name}  {figure.title}{where}: {figure.own}{peers}  {targets}", markup=False)
    console.print(f"{name}  took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    typer.run(main)
