"""Results as SVG: the same bytes for the same results, readable on white and on black.

The only module that needs matplotlib, which is in the package's extra `bench`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.figures import Figure, Spread, Verdict
from bench.pages import place
from bench.questions import OTHERS, QUESTIONS, answers, curves
from bench.results import Results

# Each has a contrast of 3 and more with both backgrounds (WCAG 2.1, 1.4.11), text 4.1 and more.
TEXT = "#767676"
OWN = "#2f7fd6"
PEERS = ("#d0671e", "#2c945f", "#9a64c8", "#a07a1a", "#c9527a")
MARKERS = "osD^vP"
STYLE: Any = {  # its keys are literals to matplotlib
    "svg.hashsalt": "regproxy",
    "svg.fonttype": "none",  # text as text: small, and in the reader's font
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT),
    "grid.color": TEXT,
    "axes.titlecolor": TEXT,
}
WIDTH = 7.2  # inches


def draw(results: Results, directory: Path) -> dict[str, list[str]]:
    """Write all plots of a run; returns the file names for each question's key, and for "targets"."""
    directory.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[str]] = {}
    with mpl.rc_context(STYLE):
        if compared := [figure for figure in results.figures if figure.peers and not figure.axis]:
            made["targets"] = [save(ratios(results, compared), directory, "ratios")]
        for question in (*QUESTIONS, OTHERS):
            for points in curves(answers(results.figures, question)):
                name = f"{question.key}-{slug(points[0].title)}"
                made.setdefault(question.key, []).append(save(growth(results, points), directory, name))
    return made


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def save(canvas: Canvas, directory: Path, name: str) -> str:
    file = f"{name}.svg"
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas.savefig(directory / file, format="svg", transparent=True, metadata=metadata, bbox_inches="tight")
    return file


def ratios(results: Results, figures: Sequence[Figure]) -> Canvas:
    """A line for each figure: its ratio to each peer, with the range; targets as ticks of its colour."""
    canvas = Canvas(figsize=(WIDTH, 0.9 + 0.26 * len(figures)))
    axes = canvas.subplots()
    names = list(dict.fromkeys(side.name for figure in figures for side in figure.peers))
    for row, figure in enumerate(figures):
        for target, verdict in figure.verdicts(results.openssl):
            if target.of == "ratio" and verdict not in (Verdict.OTHER, Verdict.ALONE):
                color = PEERS[names.index(target.peer or figure.peers[0].name) % len(PEERS)]
                axes.plot([target.limit], [row], marker="|", markersize=12, markeredgewidth=1.5, color=color)
        for side in figure.peers:
            if ratio := figure.ratio(side.name):
                number = names.index(side.name)
                color = PEERS[number % len(PEERS)]
                axes.plot([ratio.low, ratio.high], [row, row], color=color, linewidth=1)
                axes.plot([ratio.median], [row], marker=MARKERS[number % len(MARKERS)], color=color)
    for number, name in enumerate(names):
        marker, color = MARKERS[number % len(MARKERS)], PEERS[number % len(PEERS)]
        axes.plot([], [], marker=marker, color=color, linestyle="", label=f"to {name}")
    axes.plot([], [], marker="|", markersize=9, color=TEXT, linestyle="", label="target")
    axes.axvline(1, color=TEXT, linewidth=0.8)
    axes.set_xscale("log")
    _plain_ticks(axes)
    axes.set_yticks(range(len(figures)), [f"{figure.scenario}  {figure.title}" for figure in figures])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_title(f"{results.subject} as a multiple of each peer")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.04 - 0.6 / len(figures)), ncols=len(names) + 1)
    return canvas


def _plain_ticks(axes: Axes) -> None:
    """Ratios as 0.5 and 2, not as powers of ten."""
    axes.xaxis.set_major_locator(FixedLocator([0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def growth(results: Results, points: Sequence[Figure]) -> Canvas:
    """Medians along the axis, the range as a band; both scales begin where they have to."""
    canvas = Canvas(figsize=(WIDTH, 2.6))
    axes = canvas.subplots()
    places = [point.at for point in points]
    _line(axes, places, [point.values for point in points], results.subject, OWN, MARKERS[0])
    names = dict.fromkeys(side.name for point in points for side in point.peers)
    for number, name in enumerate(names):
        held = [(point.at, side.values) for point in points for side in point.peers if side.name == name]
        color, marker = PEERS[number % len(PEERS)], MARKERS[(number + 1) % len(MARKERS)]
        _line(axes, [at for at, _ in held], [values for _, values in held], name, color, marker)
    axis = points[0].axis
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: place(axis, at)))
    if steep(points):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("size" if axis == "bytes" else axis)
    axes.set_title(points[0].title)
    axes.grid(axis="y")
    if names:
        axes.legend()
    return canvas


def steep(points: Sequence[Figure]) -> bool:
    """Whether the values span so much that the small ones would lie on the axis."""
    medians = [point.own.median for point in points]
    return min(medians) > 0 and max(medians) / min(medians) > 20


def _line(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[Sequence[float]],
    name: str,
    color: str,
    marker: str,
) -> None:
    spreads = [Spread.of(each) for each in values]
    axes.plot(places, [it.median for it in spreads], color=color, marker=marker, label=name)
    low, high = [it.low for it in spreads], [it.high for it in spreads]
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
