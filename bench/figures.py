"""Figures and their targets: values of paired runs, medians, spread, met or missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a series."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"


@dataclass(frozen=True, slots=True)
class Target:
    """What a median has to reach: the subject's own, or that of its ratios to the peer, pair by pair."""

    of: Literal["value", "ratio"]
    sign: Literal["<=", ">="]
    limit: float

    def met(self, reached: float) -> bool:
        return reached <= self.limit if self.sign == "<=" else reached >= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity. `peer` is empty, or peer[i] was measured next to values[i] for each i."""

    scenario: str
    name: str
    unit: str
    values: tuple[float, ...]
    peer: tuple[float, ...] = ()
    peer_name: str = ""
    targets: tuple[Target, ...] = ()

    @property
    def own(self) -> Spread:
        return Spread.of(self.values)

    @property
    def others(self) -> Spread | None:
        return Spread.of(self.peer) if self.peer else None

    @property
    def ratio(self) -> Spread | None:
        pairs = zip(self.values, self.peer, strict=True) if self.peer else ()
        ratios = [value / beside for value, beside in pairs if beside]
        return Spread.of(ratios) if ratios else None

    def verdicts(self) -> list[tuple[Target, bool]]:
        """Each target, and whether it was met."""
        found = []
        for target in self.targets:
            spread = self.own if target.of == "value" else self.ratio
            found.append((target, spread is not None and target.met(spread.median)))
        return found
