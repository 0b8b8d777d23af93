"""The questions that figures answer: the order of every page, and what each table is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.figures import Figure


@dataclass(frozen=True, slots=True)
class Question:
    """`key` names a table in the documents, `scenarios` whose figures it has."""

    key: str
    title: str
    scenarios: tuple[str, ...]


QUESTIONS = (
    Question("hit", "What does a cached pull cost?", ("S1", "S2")),
    Question("connection", "What does a new connection cost?", ("S3",)),
    Question("cold", "How long does the first pull take?", ("S4",)),
    Question("waiters", "What happens when eight nodes ask at once?", ("S5",)),
    Question("rollout", "What happens when a deployment rolls?", ("S13",)),
    Question("beside", "Does a small request wait behind large ones?", ("S8",)),
    Question("connections", "How many connections?", ("S9", "S10", "G1")),
    Question("sizes", "What does a blob cost by its size?", ("G2",)),
    Question("cache", "Does it slow down as the cache grows?", ("G3",)),
    Question("streams", "What do parallel streams gain and cost?", ("S11",)),
    Question("access", "What does verified access cost?", ("S12",)),
    Question("mirror", "What does mirror mode cost?", ("S6",)),
    Question("tunnel", "What does a tunnel cost?", ("S7",)),
)
OTHERS = Question("others", "Other figures", ())


def answers(figures: Iterable[Figure], question: Question) -> list[Figure]:
    """The figures that answer a question; those that answer none belong to OTHERS."""
    if question == OTHERS:
        known = {name for each in QUESTIONS for name in each.scenarios}
        return [figure for figure in figures if figure.scenario not in known]
    return [figure for figure in figures if figure.scenario in question.scenarios]


def curves(figures: Sequence[Figure]) -> list[list[Figure]]:
    """The growth curves among these, each in the order of its axis."""
    found: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        if figure.axis:
            found.setdefault((figure.scenario, figure.title, figure.axis), []).append(figure)
    return [sorted(points, key=lambda point: point.at) for points in found.values()]


def single(figures: Sequence[Figure]) -> list[Figure]:
    """Those that are no point of a curve."""
    return [figure for figure in figures if not figure.axis]
