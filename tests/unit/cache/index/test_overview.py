"""Figures of an index, read beside it."""

from __future__ import annotations

from pathlib import Path

from regproxy.cache import layout
from regproxy.cache.index.index import Index
from regproxy.cache.index.overview import Overview, overview

DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]


def test_figures(tmp_path: Path) -> None:
    index = Index.open(layout.index(tmp_path))
    try:
        assert overview(layout.index(tmp_path)) == Overview(0, None)
        for digest in DIGESTS:
            index.put_object(digest, 10, None)
        index.pin("one", DIGESTS)
        index.pin("other", DIGESTS[:1])
        assert index.flush()
        found = overview(layout.index(tmp_path))
    finally:
        index.close()
    assert found is not None
    assert found.pins == 2
    assert found.oldest_use is not None


def test_none(tmp_path: Path) -> None:
    assert overview(tmp_path / "none") is None
    (tmp_path / "text").write_text("x" * 10_000)
    assert overview(tmp_path / "text") is None
    assert not (tmp_path / "none").exists()
