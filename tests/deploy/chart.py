"""The Helm chart's parts that are made of others: `make chart` writes them anew, test_chart.py compares.

The README's table of values comes from the lines of values.yaml that begin with "# --"; rules, alerts and
dashboards in files/ are copies, since a chart can't read files above its own directory.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support import ROOT

CHART: Final = ROOT / "deploy" / "helm" / "regproxy"
VALUES: Final = CHART / "values.yaml"
README: Final = CHART / "README.md"
BEGIN, END = "<!-- values: make chart -->\n", "<!-- end of values -->\n"

_KEY: Final = re.compile(r"^( *)([A-Za-z]\w*):")


@dataclass(frozen=True, slots=True)
class Value:
    """A value that an operator can set: its path (a.b.c), its default, its meaning or ""."""

    path: str
    default: Any
    meaning: str


def copies() -> dict[Path, Path]:
    """Return which file of the chart is a copy of which."""
    rules = {CHART / "files" / f"{name}.yaml": ROOT / f"deploy/prometheus/{name}.yaml" for name in _RULES}
    boards = (ROOT / "deploy" / "grafana").glob("*.json")
    return rules | {CHART / "files" / "dashboards" / path.name: path for path in sorted(boards)}


_RULES: Final = ("alerts", "rules")


def values() -> Iterator[Value]:
    """Yield the values of the chart in their order.

    A table is one value where a comment says what it is, else one for each key in it.
    """
    yield from _below("", yaml.safe_load(VALUES.read_text()), meanings())


def _below(prefix: str, table: dict[str, Any], meant: dict[str, str]) -> Iterator[Value]:
    for key, value in table.items():
        path = f"{prefix}{key}"
        if path not in meant and isinstance(value, dict) and value:
            yield from _below(f"{path}.", value, meant)
        else:
            yield Value(path, value, meant.get(path, ""))


def meanings() -> dict[str, str]:
    """Return what the lines "# -- ..." say, by the path of the key below them."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    meaning = ""
    for line in VALUES.read_text().splitlines():
        if line.lstrip().startswith("# -- "):
            meaning = line.lstrip().removeprefix("# -- ")
        elif key := _KEY.match(line):
            depth = len(key[1])
            above = [*((at, name) for at, name in above if at < depth), (depth, key[2])]
            if meaning:
                found[".".join(name for _, name in above)] = meaning
            meaning = ""
    return found


def table() -> str:
    """Return the README's table."""
    head = "| value | default | meaning |\n|---|---|---|\n"
    return head + "".join(f"| `{v.path}` | {_cell(v.default)} | {v.meaning} |\n" for v in values())


def _cell(default: Any) -> str:
    text = default if isinstance(default, str) else json.dumps(default)
    return f"`{text}`" if text else ""


def write() -> None:
    """Write the table and the copies anew."""
    shutil.rmtree(CHART / "files" / "dashboards", ignore_errors=True)
    (CHART / "files" / "dashboards").mkdir()
    for copy, source in copies().items():
        shutil.copyfile(source, copy)
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    write()
