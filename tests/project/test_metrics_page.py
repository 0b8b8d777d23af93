"""docs/metrics.md has every metric as it is declared.

`python -m tests.project.test_metrics_page` writes its tables anew.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from regproxy.telemetry.metrics import Metrics
from tests.support import ROOT

PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: python -m tests.project.test_metrics_page -->\n", "<!-- end of metrics -->\n"
HEAD = "| name | type | labels | meaning |\n|---|---|---|---|\n"
SUFFIXES = {"counter": "_total"}


def tables() -> str:
    """Return a table for each subject, in the order in which they are declared."""
    parts = []
    for subject in Metrics.__bases__:
        registry = CollectorRegistry()
        subject(registry)
        rows = sorted(row(metric) for metric in registry._collector_to_names)
        title = str(subject.__doc__).removeprefix("The metrics of ").rstrip(".")
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n\n{HEAD}{''.join(rows)}")
    return "".join(parts) + "\n"


def row(metric: object) -> str:
    """Return a metric's row: prometheus_client has no public way to ask for its labels."""
    kind, labels = metric._type, metric._labelnames  # type: ignore[attr-defined]
    name = f"{metric._name}{SUFFIXES.get(kind, '')}"  # type: ignore[attr-defined]
    shown = ", ".join(f"`{label}`" for label in labels)
    meaning = metric._documentation  # type: ignore[attr-defined]
    return f"| `{name}` | {kind} | {shown} | {meaning} |\n"


def parts_of(text: str) -> tuple[str, str, str]:
    """Return what is before, within and after the marks."""
    before, _, rest = text.partition(BEGIN)
    within, _, after = rest.partition(END)
    return before, within, after


def test_every_metric_is_in_the_page() -> None:
    within = parts_of(PAGE.read_text())[1]
    assert within == tables(), "run: python -m tests.project.test_metrics_page"
    assert len(within.splitlines()) > 50


def main() -> None:
    """Write the tables anew."""
    before, _, after = parts_of(PAGE.read_text())
    PAGE.write_text(before + BEGIN + tables() + END + after)


if __name__ == "__main__":
    main()
