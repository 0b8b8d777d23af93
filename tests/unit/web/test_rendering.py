"""What templates are given, and colours that people can read."""

from __future__ import annotations

import re
from itertools import product

import pytest

from regproxy.web import rendering
from regproxy.web.rendering import share_text, short_digest, size_text, span_text, when_text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (size_text(None), "?"),
        (size_text(999), "999 B"),
        (size_text(1500), "1.5 kB"),
        (size_text(2.5e12), "2.5 TB"),
        (share_text(None), "-"),
        (share_text(0.123), "12.3 %"),
        (when_text(0), "-"),
        (when_text(86_400), "1970-01-02 00:00:00 UTC"),
        (span_text(-1), "0 s"),
        (span_text(119), "119 s"),
        (span_text(600), "10 min"),
        (span_text(7200), "2 h"),
        (span_text(864_000), "10 days"),
        (short_digest("sha256:" + "a" * 64), "sha256:" + "a" * 12 + "…"),
        (short_digest("1.0"), "1.0"),
    ],
)
def test_values_for_people(shown: str, text: str) -> None:
    assert shown == text


def test_files() -> None:
    assert rendering.static_file("style.css")[0].startswith(b"text/css")
    with pytest.raises(KeyError):
        rendering.static_file("../views.py")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


STYLE = rendering.static_file("style.css")[1].decode()
PALETTES = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in STYLE.split("@media")]


@pytest.mark.parametrize("palette", PALETTES, ids=["light", "dark"])
def test_text_can_be_read(palette: dict[str, str]) -> None:
    """4.5 at least on each background that it stands on (WCAG 2.2, 1.4.3, level AA)."""
    on = {"back": ("text", "dim", "link", "good"), "note-back": ("text",), "bad-back": ("text", "bad")}
    pairs = [pair for back, texts in on.items() for pair in product((back,), texts)]
    worst = min((contrast(palette[back], palette[text]), back, text) for back, text in pairs)
    assert worst[0] >= 4.5, worst
