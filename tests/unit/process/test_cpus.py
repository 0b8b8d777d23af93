"""How many workers there are where nothing says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regproxy.process import cpus


class TestCores:
    """REGPROXY_WORKERS=auto."""

    @pytest.mark.parametrize(
        "files, group, want",
        [
            ({}, "0::/", 8),
            ({"cpu.max": "max 100000"}, "0::/", 8),
            ({"cpu.max": "200000 100000"}, "0::/", 2),
            ({"cpu.max": "150000 100000"}, "0::/", 2),
            ({"cpu.max": "10000 100000"}, "0::/", 1),
            ({"cpu.max": "1000000 100000"}, "0::/", 8),
            ({"cpu.max": "nonsense"}, "0::/", 8),
            ({"a/b/cpu.max": "300000 100000"}, "0::/a/b", 3),
            ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b", 3),
            ({"a/cpu.max": "100000 100000"}, "0::/b", 8),
            ({"a/cpu.max": "100000 100000"}, "4:memory:/a", 8),
        ],
        ids=str,
    )
    def test_quotas(self, files: dict[str, str], group: str, want: int, tmp_path: Path) -> None:
        for name, text in files.items():
            file = tmp_path / "mount" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        (tmp_path / "groups").write_text(group + "\n")
        assert cpus.cores(tmp_path / "groups", tmp_path / "mount", affinity=8) == want

    def test_without_any(self, tmp_path: Path) -> None:
        assert cpus.cores(tmp_path / "none") == len(os.sched_getaffinity(0))
