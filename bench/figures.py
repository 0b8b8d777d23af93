"""Figures and their targets: values of paired runs, medians, spread, met or missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Literal

MIN_ROUNDS = 5  # fewer values than this judge no target


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
class Side:
    """What another server gave: values[i] was measured next to the figure's own values[i]."""

    name: str
    values: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values)


@dataclass(frozen=True, slots=True)
class Target:
    """What a median has to reach: the subject's own, or that of its ratios to a peer, pair by pair.

    `peer` is the one that the ratio is to, the figure's first one where it is empty. `openssl` is the
    beginning of the version that the target is for ("3.5"), empty for all.
    """

    of: Literal["value", "ratio"]
    sign: Literal["<=", ">="]
    limit: float
    peer: str = ""
    openssl: str = ""

    def met(self, reached: float) -> bool:
        return reached <= self.limit if self.sign == "<=" else reached >= self.limit

    def __str__(self) -> str:
        of = f"{self.limit:g} x {self.peer}".strip() if self.of == "ratio" else f"{self.limit:g}"
        where = f" with OpenSSL {self.openssl}" if self.openssl else ""
        return f"{self.sign} {of}{where}"


class Verdict(StrEnum):
    """What became of a target."""

    MET = "met"
    MISSED = "MISSED"
    FEW = "not judged: too few rounds"
    OTHER = "not judged: another OpenSSL"
    ALONE = "not judged: no such peer"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity, beside what any number of peers gave in the same rounds.

    A figure of a growth curve is its value `at` one place of an `axis` ("connections", "bytes"); figures of
    the same scenario, name and axis are one curve.
    """

    scenario: str
    name: str
    unit: str
    values: tuple[float, ...]
    peers: tuple[Side, ...] = ()
    targets: tuple[Target, ...] = ()
    axis: str = ""
    at: float = 0.0

    @property
    def own(self) -> Spread:
        return Spread.of(self.values)

    @property
    def title(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def ratio(self, peer: str = "") -> Spread | None:
        """Of own values to those of `peer`, else of the first one; None where there is none."""
        side = next((side for side in self.peers if not peer or side.name == peer), None)
        pairs = zip(self.values, side.values, strict=True) if side else ()
        ratios = [value / beside for value, beside in pairs if beside]
        return Spread.of(ratios) if ratios else None

    def verdict(self, target: Target, openssl: str = "") -> Verdict:
        """`openssl` is the version that this was measured with, as in "3.0.19"."""
        if not openssl.startswith(target.openssl):
            return Verdict.OTHER
        spread = self.own if target.of == "value" else self.ratio(target.peer)
        if spread is None:
            return Verdict.ALONE
        if len(self.values) < MIN_ROUNDS:
            return Verdict.FEW
        return Verdict.MET if target.met(spread.median) else Verdict.MISSED

    def verdicts(self, openssl: str = "") -> list[tuple[Target, Verdict]]:
        """Each target, and what became of it."""
        return [(target, self.verdict(target, openssl)) for target in self.targets]
