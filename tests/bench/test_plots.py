"""Plots are well-formed SVG, the same each time, small, and readable on white and on black."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import plots
from tests.bench.results import curve, small_run

BACKGROUNDS = ("#ffffff", "#0d1117")
SMALL = 40_000  # bytes
NAMES = {
    "targets": ["ratios.svg"],
    "connections": [
        "connections-cached-manifest-cpu-us-request.svg",
        "connections-handshakes-s.svg",
    ],
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plots")
    assert plots.draw(small_run(), directory) == NAMES
    return directory


@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
class TestFiles:
    def test_is_well_formed(self, drawn: Path, name: str) -> None:
        root = ElementTree.fromstring((drawn / name).read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert any("regproxy" in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))

    def test_is_the_same_again(self, drawn: Path, name: str, tmp_path: Path) -> None:
        plots.draw(small_run(), tmp_path)
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes()

    def test_is_small_and_has_no_date(self, drawn: Path, name: str) -> None:
        text = (drawn / name).read_text()
        assert len(text) < SMALL
        assert not re.search(r"20\d\d-\d\d-\d\d|<image|<script", text)

    def test_has_no_background(self, drawn: Path, name: str) -> None:
        assert "fill: #ffffff" not in (drawn / name).read_text()


def luminance(color: str) -> float:
    """WCAG 2.1, relative luminance."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color, least", [(plots.TEXT, 4.1), *((it, 3) for it in (plots.OWN, *plots.PEERS))])
def test_contrast(color: str, least: float, background: str) -> None:
    assert contrast(color, background) >= least


@pytest.mark.parametrize(
    "medians, log", [((1, 1, 1, 19), False), ((1, 1, 1, 21), True), ((0, 1, 1, 21), False)]
)
def test_scale(medians: tuple[float, ...], log: bool) -> None:
    assert plots.steep(curve("x", "s", *(value / 1.05 for value in medians))) is log
