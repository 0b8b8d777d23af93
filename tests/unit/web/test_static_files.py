"""The palette's contrast (WCAG 2.2, 1.4.3 and 1.4.11), and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from regproxy.admin.replies import Problem
from regproxy.web.static_files import StaticFiles
from tests.support import ROOT

WEB = ROOT / "regproxy" / "web"
FILES = StaticFiles()


def file_of(name: str) -> str:
    call: Any = SimpleNamespace(path={"file": name})
    return FILES.static_file(call).body.decode()


SHEET = file_of("page.css")
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", each)) for each in SHEET.split("@media")[:2])
TEXTS = ("text", "muted", "link", "bad", "warn", "ok")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_and_white() -> None:
    assert round(contrast("#000000", "#ffffff"), 3) == 21.0


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(palette: dict[str, str]) -> None:
    for name in TEXTS:
        for ground in ("page", "panel"):
            assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)
    for name in ("link", "bad"):
        assert contrast(palette["on-accent"], palette[name]) >= 4.5, name
    for name in ("control", "focus"):
        assert contrast(palette[name], palette["page"]) >= 3, name


def test_nothing_is_inline_or_from_elsewhere() -> None:
    for path in sorted((WEB / "templates").iterdir()):
        text = path.read_text()
        assert not re.search(
            r"<style|style=|<script(?! src=\"/static/)|\son\w+=|https?://|\|\s*safe", text
        ), path
    assert not re.search(r"https?://|@import|url\(", SHEET)
    assert "innerHTML =" not in file_of("page.js").replace("innerHTML ===", "")


def test_other_files_are_not_there() -> None:
    for name in ("page", "../page.css", "__init__.py"):
        with pytest.raises(Problem):
            file_of(name)
