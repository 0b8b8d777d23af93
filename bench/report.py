"""Figures as text: a line each on the terminal, a markdown page and a JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import ssl
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure
from bench.lab import Sample
from bench.loadgen import CIPHERSUITES
from bench.negotiated import listed

PACKAGES = ("regproxy", "uvloop", "httptools", "cython")


@dataclasses.dataclass(slots=True)
class Report:
    """All of a run. `failed` has the scenarios that gave no figures, with the reason."""

    mode: str
    subject: str
    started: datetime
    machine: dict[str, str]
    versions: dict[str, str]
    commands: list[str] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)
    samples: list[Sample] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def begin(cls, mode: str, subject: str) -> Report:
        return cls(mode, subject, datetime.now(UTC), machine(), versions())

    def write(self, directory: Path) -> Path:
        """Both files; returns the markdown one."""
        directory.mkdir(parents=True, exist_ok=True)
        stem = f"{self.subject}-{self.mode}-{self.started:%Y%m%dT%H%M%SZ}"
        (directory / f"{stem}.json").write_text(json.dumps(self._document(), indent=1) + "\n")
        page = directory / f"{stem}.md"
        page.write_text(self._page())
        return page

    def _document(self) -> dict[str, Any]:
        figures = []
        for figure in self.figures:
            judged = [
                {**dataclasses.asdict(target), "verdict": to} for target, to in figure.verdicts(openssl())
            ]
            ratios = {side.name: figure.ratio(side.name) for side in figure.peers}
            named = {name: dataclasses.asdict(ratio) for name, ratio in ratios.items() if ratio}
            own = dataclasses.asdict(figure.own)
            figures.append({**dataclasses.asdict(figure), "own": own, "ratios": named, "targets": judged})
        return {
            "mode": self.mode,
            "subject": self.subject,
            "started": self.started.isoformat(),
            "machine": self.machine,
            "versions": self.versions,
            "commands": self.commands,
            "failed": self.failed,
            "notes": self.notes,
            "figures": figures,
            "samples": [dataclasses.asdict(sample) for sample in self.samples],
        }

    def _page(self) -> str:
        rows = "\n".join(f"| {' | '.join(cells(figure))} |" for figure in self.figures)
        machine_lines = "\n".join(
            f"- {name}: {value}" for name, value in {**self.machine, **self.versions}.items()
        )
        failures = "".join(f"\n**{name} failed**: {reason}\n" for name, reason in self.failed.items())
        loads = dict.fromkeys(sample.command for sample in self.samples)
        return f"""# {self.subject}, {self.mode} benchmark, {self.started:%Y-%m-%d %H:%M} UTC

Medians of pairs A B A B after a warm-up, the range in brackets; ratios are of the two halves of a pair.
CPU is user + system of all processes of the server. GB is 10^9 bytes. TLS suites as Go offers them
({CIPHERSUITES.replace(":", ", ")}); no resumption; logs on at both sides.
Agreed on: {listed(self.samples)}.
{self._foreign()}
{self._bottlenecks()}

| scenario | figure | {self.subject} | peers; ratios | target |
|---|---|---|---|---|
{rows}
{failures}
{"".join(f"- {note}" + chr(10) for note in self.notes)}
## Machine and versions

{machine_lines}

## Commands

Servers:

```
{chr(10).join(self.commands)}
```

Loads:

```
{chr(10).join(loads)}
```
"""

    def _foreign(self) -> str:
        if not self.samples:
            return ""
        shares = [sample.foreign for sample in self.samples]
        return f"Cores taken by other work meanwhile: {median(shares):.2f}, at most {max(shares):.2f}."

    def _bottlenecks(self) -> str:
        """Loops that are closed say nothing of latency under a load that does not wait for answers."""
        closed = sum(sample.result.loop == "closed" for sample in self.samples)
        slow = sum(bool(sample.result.bottleneck) for sample in self.samples)
        return (
            f"{closed} of {len(self.samples)} loads were closed loops. In {slow} the generator was the limit:"
            " their rates are lower bounds, their latencies upper ones."
        )


def cells(figure: Figure) -> list[str]:
    """Scenario, name, own, peers with ratios, targets with what became of them."""
    sides = [f"{side.name} {side.spread}; ratio {figure.ratio(side.name)}" for side in figure.peers]
    judged = [f"{target}: {verdict}" for target, verdict in figure.verdicts(openssl())]
    return [figure.scenario, figure.title, str(figure.own), "<br>".join(sides), "; ".join(judged)]


def openssl() -> str:
    return ssl.OPENSSL_VERSION.split()[1]


def machine() -> dict[str, str]:
    cpu = next(
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1e6
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GB",
        "kernel": platform.release(),
        "load average at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "OpenSSL": ssl.OPENSSL_VERSION}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["nginx"] = said(["nginx", "-v"])
    found["squid"] = said(["squid", "-v"])
    found["docker-registry"] = said(["docker-registry", "--version"])
    found["trafficserver"] = said(["traffic_server", "-V"])
    found["commit"] = said(["git", "rev-parse", "HEAD"])
    return found


def said(command: list[str]) -> str:
    """The first line a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return "not installed"
    return (done.stdout + done.stderr).split("\n", 1)[0]
