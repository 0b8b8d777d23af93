"""A random key in a file that several processes share."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from regproxy.core.secret_file import KEY_BYTES, shared_key


def test_it_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key"
    key = shared_key(path)
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert shared_key(path) == key
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_all_who_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    path, start, keys = tmp_path / "key", threading.Barrier(8), list[bytes]()

    def make() -> None:
        start.wait()
        keys.append(shared_key(path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(keys) == {path.read_bytes()}


def test_one_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    assert shared_key(path) == path.read_bytes()
    assert len(path.read_bytes()) == KEY_BYTES


def test_where_none_can_be_it_is_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    one, two = (shared_key(tmp_path / "file" / "key") for _ in range(2))
    assert len(one) == len(two) == KEY_BYTES
    assert one != two
    assert "not shared by workers" in caplog.text
