"""What is made of results: `python -m bench.report figures.json` writes report.md and the plots beside it.

`python -m bench.report --docs figures.json` writes the tables and plots of docs/ anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import capacity, docs, pages
from bench.errors import BenchError
from bench.figures import Figure
from bench.questions import QUESTIONS, answers
from bench.results import Results

PAGE = "report.md"
DOCS = Path(__file__).parent.parent / "docs"
PLOTS = "performance"  # below docs/
DOCUMENTS = ("performance.md", "capacity.md")
console = Console(highlight=False, soft_wrap=True)


def main(
    raw: Annotated[list[Path], typer.Argument(help="figures.json of a run, and of later ones beside it")],
    docs_too: Annotated[bool, typer.Option("--docs", help="write the documents' tables and plots")] = False,
) -> None:
    """Make the report of a run again, or the documents' tables.

    A scenario that several runs have is taken from the last one.
    """
    try:
        results = Results.load(raw[0])
        for later in raw[1:]:
            results.take(Results.load(later))
        made = write_documents(results, DOCS) if docs_too else [write(results, raw[0].parent)]
    except BenchError as error:
        console.print(f"FAILED: {error}", markup=False)
        raise typer.Exit(1) from None
    for path in made:
        console.print(f"written: {path}")


def write(results: Results, directory: Path) -> Path:
    """Report and plots; returns the path of the page."""
    plots = drawn(results, directory)
    path = directory / PAGE
    path.write_text(pages.page(results, lambda key: plots.get(key, [])))
    return path


def drawn(results: Results, directory: Path) -> dict[str, list[str]]:
    """The plots' names by question; BenchError where matplotlib is missing."""
    try:
        from bench.plots import draw
    except ImportError as error:
        raise BenchError(f"no plots without matplotlib ({error}): pip install 'regproxy[bench]'") from error
    return draw(results, directory)


def write_documents(results: Results, directory: Path) -> list[Path]:
    """The blocks of the documents and all of their plots."""
    for old in (directory / PLOTS).glob("*.svg"):
        old.unlink()
    plots = drawn(results, directory / PLOTS)
    made = makers(results, plots)
    written = []
    for path in (directory / name for name in DOCUMENTS):
        path.write_text(docs.fill(path.read_text(), made))
        written.append(path)
    return written


def makers(results: Results, plots: Mapping[str, list[str]]) -> dict[str, Callable[[], str]]:
    """What makes each block."""

    def illustrated(key: str, text: str) -> str:
        shown = pages.images([f"{PLOTS}/{name}" for name in plots.get(key, [])])
        return "\n".join([text, *shown])

    def answer(key: str, figures: list[Figure]) -> Callable[[], str]:
        return lambda: illustrated(key, pages.table(results, figures))

    found = {it.key: answer(it.key, answers(results.figures, it)) for it in QUESTIONS}
    found["targets"] = lambda: illustrated("targets", pages.verdict_table(results))
    found["conditions"] = lambda: pages.conditions(results)
    return {**found, **capacity.makers(results)}


if __name__ == "__main__":
    typer.run(main)
