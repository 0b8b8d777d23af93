"""bench/load/histogram.c: percentiles within a thousandth of the exact ones, whatever the values."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT

SOURCES = ROOT / "bench" / "load"
SIZE = 1 << 20  # bytes; more than one takes
QUANTILES = (0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1)
LONGEST = 1 << 44  # ns; what is longer has one counter
Build = Callable[[list[int]], Callable[[float], int]]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that puts values into a histogram; what it returns reads quantiles from it."""
    made = tmp_path_factory.mktemp("histogram") / "histogram.so"
    source = str(SOURCES / "histogram.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, source, "-lm"], check=True)
    return lambda values: histogram(made, values)


def histogram(path: Path, values: list[int]) -> Callable[[float], int]:
    library, memory = ctypes.CDLL(str(path)), ctypes.create_string_buffer(SIZE)
    library.histogram_quantile.restype = ctypes.c_uint64
    for value in values:
        library.histogram_add(memory, ctypes.c_uint64(value))
    return lambda q: int(library.histogram_quantile(memory, ctypes.c_double(q)))


def exact(values: list[int], q: float) -> int:
    """Return the least value that a share `q` of all does not exceed."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


# As many small ones as large ones: uniform numbers would nearly all be large.
durations = (
    st.integers(0, 43).flatmap(lambda power: st.integers(0, 2 << power)).map(lambda n: min(n, LONGEST - 1))
)


@given(st.lists(durations, min_size=1, max_size=200))
def test_a_percentile_is_at_most_a_thousandth_too_great(build: Build, values: list[int]) -> None:
    quantile = build(values)
    for q in QUANTILES:
        want, found = exact(values, q), quantile(q)
        assert want <= found <= want + want / 1024, (q, want, found)
        assert found <= max(values)
    assert (quantile(0), quantile(1)) == (min(values), max(values))


@pytest.mark.parametrize("value", [0, 1, 2047, 2048, 4095, 4096, (1 << 44) - 1, 1 << 44, (1 << 64) - 1])
def test_edges(build: Build, value: int) -> None:
    quantile = build([value] * 3)
    assert [quantile(q) for q in QUANTILES] == [value] * len(QUANTILES)


def test_nothing_put_in(build: Build) -> None:
    assert build([])(0.5) == 0
