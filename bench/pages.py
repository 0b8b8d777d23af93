"""Results as Markdown: tables, and the page of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench.figures import MIN_ROUNDS, Figure, Side, Spread, Target, Verdict
from bench.loadgen import CIPHERSUITES
from bench.negotiated import listed
from bench.questions import OTHERS, QUESTIONS, answers, curves, single
from bench.results import Results

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
NOTHING = "Not measured in this run.\n"
METHOD = f"""Medians of rounds A B A B after a warm-up, the range in brackets; ratios are of the sides of one
round, and a ratio is the median of these. CPU is user + system of all processes of a server. GB is 10^9
bytes. TLS suites as Go offers them ({CIPHERSUITES.replace(":", ", ")});
no resumption; logs on at all sides. An error voids its scenario. A target wants {MIN_ROUNDS} rounds or more.
"""


def table(results: Results, figures: Sequence[Figure]) -> str:
    """All tables of these figures: one for single ones, one for each growth curve; with what is void."""
    parts = [figure_table(results, one) for one in [single(figures)] if one]
    parts += [curve_table(results, points) for points in curves(figures)]
    return "\n".join(parts) or NOTHING


def figure_table(results: Results, figures: Sequence[Figure]) -> str:
    """A row for each figure, a column for each peer."""
    peers = list(dict.fromkeys(side.name for figure in figures for side in figure.peers))
    head = ["", "figure", results.subject, *peers, "target"]
    rows = [
        [
            figure.scenario,
            figure.title,
            str(figure.own),
            *(beside(figure, peer) for peer in peers),
            "<br>".join(judged(figure, *pair) for pair in figure.verdicts(results.openssl)),
        ]
        for figure in figures
    ]
    return markdown(head, rows)


def curve_table(results: Results, points: Sequence[Figure]) -> str:
    """A row for each place of the axis."""
    peers = list(dict.fromkeys(side.name for figure in points for side in figure.peers))
    first = points[0]
    head = [f"{first.scenario}: {first.axis}", f"{results.subject}: {first.title}", *peers]
    rows = [
        [place(first.axis, figure.at), str(figure.own), *(beside(figure, peer) for peer in peers)]
        for figure in points
    ]
    return markdown(head, rows)


def place(axis: str, at: float) -> str:
    """A place of an axis in words: 1,000 or 4 kB."""
    if axis != "bytes":
        return f"{at:,.0f}"
    scale, unit = next((pair for pair in UNITS if at >= pair[0]), UNITS[-1])
    return f"{at / scale:.3g} {unit}"


def beside(figure: Figure, peer: str) -> str:
    """What a peer gave, and the ratio of ours to it."""
    side = next((side for side in figure.peers if side.name == peer), None)
    if side is None:
        return ""
    ratio = figure.ratio(peer)
    return f"{side.spread}" + (f"; ratio {ratio}" if ratio else "")


def judged(figure: Figure, target: Target, verdict: Verdict) -> str:
    """`<= 0.65 x nginx: met`."""
    if target.of == "ratio" and not target.peer and figure.peers:
        target = dataclasses.replace(target, peer=figure.peers[0].name)
    shown = verdict if verdict != Verdict.MISSED else f"**{verdict}**"
    return f"{target}: {shown}"


def verdict_table(results: Results) -> str:
    """Every target with what was reached, met and missed, and the scenarios that an error voids."""
    rows = []
    for figure in results.figures:
        for target, verdict in figure.verdicts(results.openssl):
            reached = figure.own if target.of == "value" else figure.ratio(target.peer)
            rows.append([figure.scenario, figure.title, judged(figure, target, verdict), str(reached or "")])
    rows += [[name, "", "**VOID**", one_line(reason)] for name, reason in results.failed.items()]
    return markdown(["", "figure", "target", "reached"], rows) if rows else "No targets.\n"


def pairs_table(figures: Sequence[Figure]) -> str:
    """The values of every round, in their order."""
    rows = []
    for figure in figures:
        where = f", {place(figure.axis, figure.at)} {figure.axis}" if figure.axis else ""
        for side in (Side("ours", figure.values), *figure.peers):
            name = f"{figure.title}{where}" if side.name == "ours" else ""
            rows.append(
                [figure.scenario, name, side.name, ", ".join(f"{value:.3g}" for value in side.values)]
            )
    return markdown(["", "figure", "server", "rounds"], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def conditions(results: Results) -> str:
    """The machine, versions and how busy it was, as a table."""
    made = {"run": f"{results.mode}, {results.started}, `{results.command}`", "workers": str(results.workers)}
    speed = {f"{name}, one core": f"{value:.2f} GB/s" for name, value in results.speeds.items()}
    taken = [sample["foreign"] for sample in results.samples]
    others = {}
    if taken:
        value = Spread(median(taken), min(taken), max(taken))
        others["cores taken by other work"] = f"median {value.median:.2f}, at most {value.high:.2f}"
    slow = sum(bool((sample.get("result") or {}).get("bottleneck")) for sample in results.samples)
    if slow:
        others["the generator was the limit"] = (
            f"in {slow} of {len(taken)} loads: their rates are lower bounds, their latencies upper ones"
        )
    agreed = listed(
        (sample["server"], (sample.get("result") or {}).get("tls", "")) for sample in results.samples
    )
    if agreed:
        others["TLS agreed on"] = agreed
    everything = {**made, **results.machine, **speed, **others, **results.versions}
    rows = [[name, value] for name, value in everything.items()]
    return markdown(["", ""], [*rows, *(["note", note] for note in results.notes)])


def page(results: Results, plots: Callable[[str], Sequence[str]]) -> str:
    """The page of a run. `plots` gives the file names of a question's plots."""
    parts = [
        f"# {results.subject}, {results.mode} benchmark, {results.started}\n",
        METHOD,
        "".join(f"- {note}\n" for note in results.notes),
        "## Targets\n",
        verdict_table(results),
        *images(plots("targets")),
    ]
    for question in (*QUESTIONS, OTHERS):
        if found := answers(results.figures, question):
            parts += [f"## {question.title}\n", table(results, found), *images(plots(question.key))]
    parts += ["## Rounds\n", pairs_table(results.figures), "## Machine and versions\n", conditions(results)]
    parts += ["## Commands\n", "Servers:\n", fenced(results.servers), "Loads:\n", fenced(results.loads)]
    return "\n".join(parts)


def images(names: Sequence[str]) -> list[str]:
    return [f"![{Path(name).stem.replace('-', ' ')}]({name})\n" for name in names]


def fenced(lines: Sequence[str]) -> str:
    return "```\n" + "".join(f"{line}\n" for line in lines) + "```\n"
