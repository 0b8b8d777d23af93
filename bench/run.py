"""Run the scenarios: `python -m bench.run short`, `python -m bench.run full --only S1,S3`."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.errors import BenchError
from bench.lab import Lab
from bench.peers import table
from bench.report import Report, cells
from bench.scenarios import PLANS, SCENARIOS
from bench.servers import Regproxy

BUILD = Path(__file__).parent.parent / "build" / "bench"


class Mode(StrEnum):
    """The keys of PLANS, as the command line wants them."""

    SHORT = "short"
    FULL = "full"


console = Console(highlight=False, soft_wrap=True)


def main(
    mode: Annotated[Mode, typer.Argument(help="short: about 10 minutes. full: the figures that count.")],
    only: Annotated[str, typer.Option(help="scenarios, comma separated")] = ",".join(SCENARIOS),
    peers: Annotated[str, typer.Option(help="what it is compared with, comma separated")] = ",".join(
        table.USUAL
    ),
    workers: Annotated[
        int, typer.Option(help="processes of the proxy and of its peers that let one choose")
    ] = 1,
    work: Annotated[Path, typer.Option(help="where servers keep their files and caches")] = BUILD / "work",
    out: Annotated[Path, typer.Option(help="where the report goes")] = BUILD / "reports",
) -> None:
    """Measure the proxy against its peers and judge it by its targets.

    Exit status 1 means that a scenario failed: a wrong answer, or a server that did not start. A target
    that was missed is reported as MISSED and does not change the exit status.
    """
    names = only.split(",")
    if unknown := set(names) - set(SCENARIOS):
        raise typer.BadParameter(f"no such scenario: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C: the servers are stopped on the way out
    report = Report.begin(mode.value, Regproxy.name)
    try:
        lab = Lab(work.absolute(), workers, peers.split(","))
    except BenchError as error:
        console.print(f"FAILED: {error}", markup=False)
        raise typer.Exit(1) from None
    try:
        for name in names:
            measure(name, lab, report)
    finally:
        report.commands, report.notes = lab.commands(), lab.notes
        lab.close()
        report.samples = lab.samples
    console.print(f"report: {report.write(out)}")
    raise typer.Exit(1 if report.failed else 0)


def measure(name: str, lab: Lab, report: Report) -> None:
    """One scenario; its figures are printed as they come, a failure does not stop the others."""
    try:
        figures = SCENARIOS[name](lab, PLANS[report.mode])
    except BenchError as error:
        report.failed[name] = str(error)
        console.print(f"{name}  FAILED: {error}", markup=False)
        return
    report.figures += figures
    for figure in figures:
        scenario, title, own, sides, targets = cells(figure)
        console.print(f"{scenario}  {title}: {own}  {sides}  {targets}", markup=False)


if __name__ == "__main__":
    typer.run(main)
