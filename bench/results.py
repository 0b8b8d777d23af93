"""All that a run gave, and the file that keeps it: figures.json."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bench.errors import BenchError
from bench.figures import Figure, Side, Target
from bench.lab import Sample
from bench.machine import machine, speeds, versions

FORMAT = 1
RAW = "figures.json"


@dataclass(slots=True)
class Results:
    """A run's figures and what they were made with.

    `failed` has the scenarios that gave no figures, with the reason: an error voids all of a scenario.
    `samples` are plain values, as JSON has them: scenario, server, the number of the load in `loads`, ...
    """

    mode: str
    subject: str
    workers: int
    started: str  # ISO 8601, UTC
    command: str  # of the run
    machine: dict[str, str]
    versions: dict[str, str]
    speeds: dict[str, float]  # GB/s of one core, by cipher
    servers: list[str] = field(default_factory=list)  # their commands
    loads: list[str] = field(default_factory=list)  # commands of the load generator
    notes: list[str] = field(default_factory=list)  # what a reader has to know of this run
    figures: list[Figure] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, mode: str, subject: str, workers: int, command: str) -> Self:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(mode, subject, workers, now, command, machine(), versions(), speeds())

    @property
    def openssl(self) -> str:
        """The version's number, "3.0.19"."""
        found = re.search(r"OpenSSL (\S+)", self.versions.get("OpenSSL", ""))
        return found[1] if found else ""

    def add(self, scenario: str, figures: Sequence[Figure], samples: Sequence[Sample]) -> None:
        self.figures += figures
        numbers = {command: number for number, command in enumerate(self.loads)}
        for sample in samples:
            if sample.command not in numbers:
                numbers[sample.command] = len(self.loads)
                self.loads.append(sample.command)
            self.samples.append(_plain(scenario, sample, numbers[sample.command]))

    def take(self, other: Self) -> None:
        """Take the scenarios of another run on the same machine in place of those here.

        BenchError where CPU, kernel, OpenSSL or workers differ: those figures can't stand side by side.
        """
        for name, ours, theirs in (
            ("CPU", self.machine.get("CPU"), other.machine.get("CPU")),
            ("kernel", self.machine.get("kernel"), other.machine.get("kernel")),
            ("OpenSSL", self.openssl, other.openssl),
            ("subject", self.subject, other.subject),
            ("workers", self.workers, other.workers),
        ):
            if ours != theirs:
                raise BenchError(f"can't be one run: {name} is {ours} in one and {theirs} in the other")
        taken = {figure.scenario for figure in other.figures} | set(other.failed)
        self.figures = [it for it in self.figures if it.scenario not in taken] + other.figures
        self.failed = {name: why for name, why in self.failed.items() if name not in taken} | other.failed
        offset = len(self.loads)
        self.loads += other.loads
        self.samples = [it for it in self.samples if it["scenario"] not in taken]
        self.samples += [{**it, "load": it["load"] + offset} for it in other.samples]
        self.notes += [f"{', '.join(sorted(taken))}: from {other.started}, `{other.command}`", *other.notes]

    def save(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / RAW
        path.write_text(self.dumps())
        return path

    def dumps(self) -> str:
        """JSON. Medians, ratios and verdicts are there for other readers; `load` makes them again."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        document["figures"] = [{**dataclasses.asdict(it), **self._summary(it)} for it in self.figures]
        return json.dumps(document, indent=1) + "\n"

    def _summary(self, figure: Figure) -> dict[str, Any]:
        ratios = {side.name: figure.ratio(side.name) for side in figure.peers}
        return {
            "median": figure.own.median,
            "ratios": {name: dataclasses.asdict(ratio) for name, ratio in ratios.items() if ratio},
            "verdicts": {str(target): verdict for target, verdict in figure.verdicts(self.openssl)},
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """BenchError if `path` is not such a file."""
        try:
            document = json.loads(path.read_text())
            if (found := document.pop("format")) != FORMAT:
                raise BenchError(f"{path} has format {found}, not {FORMAT}: measure again")
            figures = [_figure(raw) for raw in document.pop("figures")]
            return cls(**document, figures=figures)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{path} is not a {RAW} of `python -m bench.run`: {error!r}") from error


def _figure(raw: dict[str, Any]) -> Figure:
    return Figure(
        scenario=raw["scenario"],
        name=raw["name"],
        unit=raw["unit"],
        values=tuple(raw["values"]),
        peers=tuple(Side(side["name"], tuple(side["values"])) for side in raw["peers"]),
        targets=tuple(Target(**target) for target in raw["targets"]),
        axis=raw["axis"],
        at=raw["at"],
    )


def _plain(scenario: str, sample: Sample, load: int) -> dict[str, Any]:
    """A sample's numbers without its command and without what each of its connections saw."""
    raw = dataclasses.asdict(sample)
    for result in (raw["result"], raw["beside"]):
        if result:
            result.pop("clients", None)
    del raw["command"]
    return {"scenario": scenario, "load": load, **raw}
