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
from bench.lab import Lab, SubjectName
from bench.report import Report, cells
from bench.scenarios import PLANS, SCENARIOS

BUILD = Path(__file__).parent.parent / "build" / "bench"


class Mode(StrEnum):
    """The keys of PLANS, as the command line wants them."""

    SHORT = "short"
    FULL = "full"


console = Console(highlight=False, soft_wrap=True)


def main(
    mode: Annotated[Mode, typer.Argument(help="short: about 3 minutes. full: the figures that count.")],
    only: Annotated[str, typer.Option(help="scenarios, comma separated")] = ",".join(SCENARIOS),
    subject: Annotated[SubjectName, typer.Option(help="the proxy that is measured")] = SubjectName.REGPROXY,
    workers: Annotated[int, typer.Option(help="processes of the proxy and of nginx beside it")] = 1,
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
    report = Report.begin(mode.value, subject.value)
    try:
        lab = Lab(work.absolute(), subject, workers)
    except BenchError as error:
        console.print(f"FAILED: {error}", markup=False)
        raise typer.Exit(1) from None
    try:
        report.commands = lab.commands()
        for name in names:
            measure(name, lab, report)
    finally:
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
        scenario, title, own, peer, ratio, targets = cells(figure)
        beside = f"  {peer}  ratio {ratio}" if peer else ""
        console.print(f"{scenario}  {title}: {own}{beside}  {targets}", markup=False)


if __name__ == "__main__":
    typer.run(main)
