"""Read the metrics of all processes as numbers, for the admin API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Labels = Mapping[str, str]


class Samples:
    """The samples of some metric families, as Metrics.families() returns them."""

    def __init__(self, families: Iterable[Any]) -> None:
        self._found: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._found[sample.name].append((sample.labels, sample.value))

    def sum(self, name: str, **labels: str | tuple[str, ...]) -> float:
        """Return the sum of a metric's samples with these labels; of several values for one, any."""
        wanted = {key: (value,) if isinstance(value, str) else value for key, value in labels.items()}
        return sum(
            value
            for found, value in self._found.get(f"regproxy_{name}", ())
            if all(found.get(key) in values for key, values in wanted.items())
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return a metric's sums for each value of one label."""
        sums: dict[str, float] = defaultdict(float)
        for found, value in self._found.get(f"regproxy_{name}", ()):
            sums[found.get(label, "")] += value
        return dict(sums)
