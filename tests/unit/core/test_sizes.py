"""Bytes in words."""

from __future__ import annotations

import pytest

from regproxy.config.values.numbers import parse_size
from regproxy.core.sizes import size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 20, "1.5 GiB"),
        (100 << 20, "100 MiB"),
        (99.96 * 1024, "100 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 50, "1.0 PiB"),
        (1 << 62, "4096 PiB"),
    ],
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize("setting", ["32g", "512m", "64k"])
def test_it_says_what_a_setting_says(setting: str) -> None:
    number, unit = setting[:-1], setting[-1].upper()
    value = parse_size(setting)
    assert value is not None
    assert size_text(value).replace(".0 ", " ") == f"{number} {unit}iB"
