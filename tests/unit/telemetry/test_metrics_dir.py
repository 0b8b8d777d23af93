"""The directory of the metrics of several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from regproxy.core.errors import StoreError
from regproxy.telemetry.metrics_dir import Shelf


class TestShelf:
    """The directory itself."""

    def test_is_made_and_removed(self, tmp_path: Path) -> None:
        shelf = Shelf.make([tmp_path])
        assert list(tmp_path.iterdir()) == [shelf.path]
        assert shelf.path.stat().st_mode & 0o777 == 0o700
        (shelf.path / "counter_0.db").touch()
        shelf.remove()
        assert list(tmp_path.iterdir()) == []

    def test_the_first_place_that_will_do(self, tmp_path: Path) -> None:
        missing, file, good = tmp_path / "missing", tmp_path / "file", tmp_path / "good"
        file.touch()
        good.mkdir()
        shelf = Shelf.make([missing, file, good, tmp_path])
        assert shelf.path.parent == good
        shelf.remove()
        with pytest.raises(StoreError, match=r"missing: No such file or directory; .*file: Not a directory"):
            Shelf.make([missing, file])

    def test_a_slot_is_forgotten(self, tmp_path: Path) -> None:
        shelf = Shelf.make([tmp_path])
        names = [
            f"{kind}_{slot}.db" for kind in ("counter", "gauge_livesum", "gauge_livemin") for slot in (1, 11)
        ]
        for name in names:
            (shelf.path / name).touch()
        shelf.forget("1")
        left = {path.name for path in shelf.path.iterdir()}
        assert left == {"counter_1.db", "counter_11.db", "gauge_livesum_11.db", "gauge_livemin_11.db"}
        shelf.remove()

    def test_only_what_nobody_uses_is_cleared(self, tmp_path: Path) -> None:
        living = Shelf.make([tmp_path])
        (left := tmp_path / "regproxy-metrics-1-left").mkdir()
        (left / "counter_0.db").touch()
        (strange := tmp_path / "regproxy-metrics-1-strange").mkdir()
        (strange / "letter.txt").touch()
        (linked := tmp_path / "regproxy-metrics-1-link").symlink_to(strange)
        newest = Shelf.make([tmp_path])
        assert set(tmp_path.iterdir()) == {living.path, strange, linked, newest.path}
        for shelf in (living, newest):
            shelf.remove()
