"""A log read from its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regproxy.admin.endpoints.audit_tail import READ_MAX, read_back


def pages(path: Path, limit: int) -> list[dict[str, object]]:
    """Return all lines, as pages have them one after the other."""
    found: list[dict[str, object]] = []
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            items, before = read_back(file, end, limit)
            assert before < end
            found += items
            end = before
    return found


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
@pytest.mark.parametrize("count", [0, 1, 5, 3000])
def test_lines(limit: int, count: int, tmp_path: Path) -> None:
    if limit == 1 and count > 100:
        count = 50
    lines = [{"n": n, "text": "x" * (n % 300)} for n in range(count)]
    path = tmp_path / "log"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pages(path, limit) == lines[::-1]


@pytest.mark.parametrize(
    "text",
    [
        b'{"n": 1}\nnonsense\n\n[1]\n{"n": 2}\n',
        b'{"n": 1}\n{"n": 2}\n{"n": 3',
        b'{"n": 1}\n' + b"x" * (READ_MAX + 200_000) + b'\n{"n": 2}\n',
        b"x" * (READ_MAX + 5) + b'\n{"n": 1}\n' + b"y" * (3 * READ_MAX) + b'\n{"n": 2}\n',
    ],
)
def test_what_is_no_line(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(text)
    assert pages(path, 2) == [{"n": 2}, {"n": 1}]
