"""Read what the suite reports, and compare two runs test by test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a test: `passed`, `skipped`, `failure` or `error`; `said` is why."""

    status: str
    said: str = ""


Results = Mapping[str, Result]


def read(report: Path) -> Results:
    """Return the tests of a junit.xml, by name.

    Tests of one name come in no certain order (that of a Go map): they are numbered, "name #2", those that
    passed first.
    """
    namesakes: defaultdict[str, list[Result]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        result = Result(case.get("status", ""), (case.findtext("system-out") or "").strip())
        namesakes[case.get("name", "")].append(result)
    return {
        f"{name} #{number}" if number > 1 else name: result
        for name, results in namesakes.items()
        for number, result in enumerate(sorted(results, key=lambda result: result.status != PASSED), 1)
    }


def passed(results: Results) -> int:
    """Return how many tests passed."""
    return sum(result.status == PASSED for result in results.values())


def lost(direct: Results, through: Results) -> dict[str, Result]:
    """Return the tests that pass directly and not through the proxy, as they are there."""
    gone = Result("missing", "the suite did not run it")
    return {
        name: through.get(name, gone)
        for name, result in direct.items()
        if result.status == PASSED and through.get(name, gone).status != PASSED
    }


def gained(direct: Results, through: Results) -> list[str]:
    """Return the tests that pass through the proxy alone."""
    return [
        name
        for name, result in through.items()
        if result.status == PASSED and (name not in direct or direct[name].status != PASSED)
    ]
