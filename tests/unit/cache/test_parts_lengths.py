"""Lengths that a part's meta and map say: refused, or held to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from regproxy.cache.parts import MAPPED_MAX, Meta, boot_id, open_part
from regproxy.dataplane.block_map import Extents
from tests.support.plane import Plane, plane
from tests.support.scattered_growths import DATA, TOTAL, identity, open_map

__all__ = ["plane"]  # a fixture
MAX = 2**63 - 1
Fields = dict[str, str | int]


# --- what other processes say ------------------------------------------------------------------------------


@pytest.fixture
def part_path(tmp_path: Path) -> Path:
    return tmp_path / f"{'0' * 64}.part"


class TestWhatAFillerSays:
    """A part's meta and map are files: whatever is in them, nobody takes it for more than it can be."""

    @pytest.mark.parametrize(
        "lie",
        [
            {"total": 2**63},
            {"total": 10**30},
            {"total": -2},
            {"total": "900"},
            {"total": 9.5},
            {"total": True},
            {"size": 2**63},
            {"size": None},
            {"state": 1},
            {"media_type": ["x"]},
            {"reason": None},
            {"seconds": "soon"},
            {"mapped": "yes"},
        ],
        ids=str,
    )
    def test_no_meta(self, lie: Fields, plane: Plane, part_path: Path) -> None:
        part = open_part(part_path, 0, plane.loop)
        status = os.fstat(part.fd)
        fields = {"state": "open", "total": 900, "boot": boot_id(), "part": [status.st_dev, status.st_ino]}
        place = part_path.with_suffix(".meta")
        place.write_text(json.dumps(fields))
        assert part.read() == Meta("open", 900)
        place.write_text(json.dumps({**fields, **lie}))
        assert part.read() is None
        part.close()

    @pytest.mark.parametrize("total", [TOTAL - 1, TOTAL + 1, 0, -1, MAPPED_MAX + 1, MAX])
    def test_another_total_than_the_maps(self, total: int, plane: Plane, part_path: Path) -> None:
        part = open_part(part_path, 0, plane.loop)
        Extents(TOTAL, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 0)
        assert not part.take_map(total)
        assert part.take_map(TOTAL)
        assert not part.take_map(total)
        part.close()

    def test_a_map_of_more_than_the_file_has(self, plane: Plane, part_path: Path) -> None:
        part_path.write_bytes(DATA[:1000])
        part = open_part(part_path, 0, plane.loop)
        Extents(TOTAL, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 1001)
        assert not part.take_map(TOTAL)
        assert part.growth.extents is None
        part.close()

    def test_a_map_of_less_than_is_there(self, plane: Plane, part_path: Path) -> None:
        part_path.write_bytes(DATA)
        part = open_part(part_path, 0, plane.loop)
        Extents(1000, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 0)
        part.growth.follow(TOTAL)
        assert not part.take_map(1000)
        part.close()


def test_a_map_that_can_not_be_is_closed(
    plane: Plane, part_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = open_part(part_path, 0, plane.loop)
    Extents(TOTAL, open_map(part_path.with_suffix(".map"))).start(*identity(part.growth), 0)

    def fail(total: int, fd: int) -> Extents:
        raise MemoryError

    monkeypatch.setattr("regproxy.cache.parts.Extents", fail)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MemoryError):
        part.take_map(TOTAL)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    part.close()
