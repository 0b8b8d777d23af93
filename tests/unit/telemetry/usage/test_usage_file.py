"""The file in which workers add up what they have counted."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from regproxy.core.errors import StoreError
from regproxy.telemetry.usage import usage_file as module
from regproxy.telemetry.usage.records import (
    DAY,
    HOUR,
    WINDOWS,
    Batch,
    ClientUse,
    Image,
    ImageUse,
    Refusal,
    TagMove,
)
from regproxy.telemetry.usage.usage_file import EVENTS_MAX, SLOTS, UsageFile

NOW = 1_800_000_000.0
HUB, QUAY = "registry-1.docker.io", "quay.io"
NGINX: Image = (HUB, 443, "library/nginx", "1.27")
LAYERS: Image = (HUB, 443, "library/nginx", "")
ETCD: Image = (QUAY, 443, "coreos/etcd", "v3")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "usage.sqlite3"


@pytest.fixture
def file(path: Path) -> UsageFile:
    return UsageFile(path)


def pulls(*images: Image, times: int = 1, now: float = NOW) -> Batch:
    return Batch(now, images=dict.fromkeys(images, (times, 10 * times, times)))


def rows(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("images", "clients", "floors", "moves", "refusals")
        }


# --- counts ----------------------------------------------------------------------------------------------


def test_there_is_nothing_without_a_file(file: UsageFile, path: Path) -> None:
    assert file.top_images("24h", 10, NOW) == []
    assert file.top_clients("all", 10, NOW) == []
    assert file.usage_of(*NGINX[:3], "7d", NOW) == []
    assert file.tag_moves() == []
    assert file.refusals() == []
    assert not path.exists()


def test_it_is_not_for_everybody(file: UsageFile, path: Path) -> None:
    before = os.umask(0)
    try:
        file.add(pulls(NGINX))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_batches_are_added_up(file: UsageFile) -> None:
    file.add(pulls(NGINX, times=2))
    UsageFile(file._path).add(pulls(NGINX, ETCD, now=NOW + 5))  # as another worker does
    assert file.top_images("24h", 10, NOW + 6) == [
        ImageUse(*NGINX, 3, 30, 3, NOW + 5),
        ImageUse(*ETCD, 1, 10, 1, NOW + 5),
    ]
    assert file.top_images("24h", 1, NOW + 6) == [ImageUse(*NGINX, 3, 30, 3, NOW + 5)]


def test_layers_are_bytes_and_no_pulls(file: UsageFile) -> None:
    file.add(Batch(NOW, images={NGINX: (1, 10, 0), LAYERS: (500, 7000, 6000), ETCD: (2, 1, 1)}))
    assert [use.reference for use in file.top_images("7d", 10, NOW)] == ["v3", "1.27"]
    nginx = ImageUse(HUB, 443, "library/nginx", "", 1, 7010, 6000, NOW)
    assert file.top_repositories("7d", 10, NOW)[1:] == [nginx]
    assert set(file.usage_of(*NGINX[:3], "7d", NOW)) == {
        ImageUse(*LAYERS, 0, 7000, 6000, NOW),
        ImageUse(*NGINX, 1, 10, 0, NOW),
    }


def test_clients(file: UsageFile) -> None:
    file.add(Batch(NOW, clients={("user", "ci"): (5, 50, 5), ("anonymous", "10.0.0.1"): (7, 70, 7)}))
    file.add(Batch(NOW + 1, clients={("user", "ci"): (5, 50, 5)}))
    assert file.top_clients("all", 10, NOW) == [
        ClientUse("user", "ci", 10, 100, 10, NOW + 1),
        ClientUse("anonymous", "10.0.0.1", 7, 70, 7, NOW),
    ]


def test_windows_end(file: UsageFile) -> None:
    file.add(pulls(NGINX))
    for later, windows in (
        (0, {"24h", "7d", "30d", "all"}),
        (23 * HOUR, {"24h", "7d", "30d", "all"}),
        (24 * HOUR, {"7d", "30d", "all"}),
        (6 * DAY, {"7d", "30d", "all"}),
        (7 * DAY, {"30d", "all"}),
        (30 * DAY, {"all"}),
    ):
        now = NOW + later
        assert {name for name in WINDOWS if file.top_images(name, 9, now)} == windows
    assert file.top_images("24h", 9, NOW - DAY) == []  # the clock was set back: it is not yet


def test_what_no_window_has_any_more_is_removed(file: UsageFile, path: Path) -> None:
    for day in range(100):
        file.add(pulls(NGINX, now=NOW + day * DAY))
    kept = rows(path)["images"]
    assert kept <= 1 + SLOTS[HOUR][0] + SLOTS[DAY][0]
    assert file.top_images("all", 9, NOW)[0].pulls == 100
    assert file.top_images("30d", 9, NOW + 99 * DAY)[0].pulls == 30
    file.add(pulls(NGINX, now=NOW))  # the clock was set back by months
    assert rows(path)["images"] == 3


def test_a_full_slot_keeps_what_is_used_most(
    file: UsageFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOTS", {HOUR: (25, 20), DAY: (31, 20), 0: (1, 20)})
    file.add(pulls(NGINX, times=1000))  # more than the rest, by 20 names
    for number in range(200):
        made_up: list[Image] = [("x.test", 443, f"made/up{number}-{each}", "v1") for each in range(30)]
        file.add(pulls(*made_up))
        if number % 2:
            file.add(pulls(ETCD))  # seldom, compared to these, and again and again
    assert rows(path)["images"] == 60
    best = file.top_images("24h", 100, NOW)
    assert next(use.pulls for use in best if use.repository == "library/nginx") == 1000
    # It gets in again each time, at the rank of what it displaces, and is never shown to be more than it is.
    assert all(use.pulls <= 100 for use in best if use.repository == "coreos/etcd")
    file.add(pulls(ETCD, times=2000))
    assert file.top_images("24h", 100, NOW)[0].repository == "coreos/etcd"


def test_a_hundred_thousand_names_leave_a_small_file(file: UsageFile, path: Path) -> None:
    name = "n" * 255
    for number in range(100):
        images: dict[Image, tuple[int, int, int]] = {
            ("x.test", 443, f"{name[:240]}/{number}x{each}", "t" * 128): (1, 1, 1) for each in range(1000)
        }
        clients = {("user", f"{number}-{each}" + "u" * 10_000): (1, 1, 1) for each in range(1000)}
        file.add(Batch(NOW + number, images=images, clients=clients))
    counted = rows(path)
    assert counted["images"] == counted["clients"] == sum(limit for _, limit in SLOTS.values())
    assert path.stat().st_size < 16 * 2**20


# --- events ----------------------------------------------------------------------------------------------


def move(new: str, tag: str = "latest", at: float = NOW) -> TagMove:
    return TagMove(at, HUB, 443, "library/nginx", tag, "sha256:old", new)


def refusal(number: int) -> Refusal:
    where = (HUB, 443, "library/nginx", "latest")
    return Refusal(NOW + number, "user", "ci", "10.0.0.1", *where, "rule", "no latest", f"refused {number}")


def test_events(file: UsageFile) -> None:
    file.add(Batch(NOW, moves=[move("sha256:1"), move("sha256:2")], refusals=[refusal(1), refusal(2)]))
    assert file.tag_moves() == [move("sha256:2"), move("sha256:1")]
    assert file.refusals(1) == [refusal(2)]


def test_a_move_that_two_workers_see_is_one(file: UsageFile) -> None:
    file.add(Batch(NOW, moves=[move("sha256:1")]))
    file.add(Batch(NOW, moves=[move("sha256:1", at=NOW + 1), move("sha256:1", "other")]))
    file.add(Batch(NOW, moves=[move("sha256:2"), move("sha256:1")]))  # and back
    seen = [(each.tag, each.new) for each in reversed(file.tag_moves())]
    assert seen == [
        ("latest", "sha256:1"),
        ("other", "sha256:1"),
        ("latest", "sha256:2"),
        ("latest", "sha256:1"),
    ]


def test_events_are_bounded(file: UsageFile, path: Path) -> None:
    for start in range(0, 3 * EVENTS_MAX, EVENTS_MAX):
        numbers = range(start, start + EVENTS_MAX)
        moves = [move(f"sha256:{number}") for number in numbers]
        file.add(Batch(NOW, moves=moves, refusals=[refusal(number) for number in numbers]))
    assert rows(path)["moves"] == rows(path)["refusals"] == EVENTS_MAX
    assert file.refusals()[0] == refusal(3 * EVENTS_MAX - 1)
    assert file.tag_moves()[-1].new == f"sha256:{2 * EVENTS_MAX}"


# --- the file --------------------------------------------------------------------------------------------


def no_database(path: Path) -> None:
    path.write_bytes(b"<html>no space</html>" * 100)


def later_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def table_is_gone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE floors")


@pytest.mark.parametrize("damage", [no_database, later_version, table_is_gone])
def test_a_file_that_is_no_use_is_moved_aside(file: UsageFile, path: Path, damage: object) -> None:
    file.add(pulls(NGINX))
    damage(path)  # type: ignore[operator]
    file.add(pulls(ETCD))
    assert [use.repository for use in file.top_images("all", 9, NOW)] == ["coreos/etcd"]
    assert path.with_name("usage.sqlite3.aside").exists()


def test_two_workers_that_meet_a_damaged_file(
    file: UsageFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one finds the new file of the first, and leaves it."""
    file.add(pulls(NGINX))
    no_database(path)
    slow, add = UsageFile(path), UsageFile._add

    def meets_it_too(self: UsageFile, batch: Batch) -> None:
        if self is slow and not path.with_name("usage.sqlite3.aside").exists():
            file.add(pulls(ETCD))
            raise damage()
        add(self, batch)

    def damage() -> sqlite3.DatabaseError:
        error = sqlite3.DatabaseError("file is not a database")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        return error

    monkeypatch.setattr(UsageFile, "_add", meets_it_too)
    slow.add(pulls(NGINX))
    assert {use.repository for use in file.top_images("all", 9, NOW)} == {"coreos/etcd", "library/nginx"}
    assert path.with_name("usage.sqlite3.aside").read_bytes().startswith(b"<html>")


def test_an_error_is_no_damage(file: UsageFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a statement that SQLite does not understand."""
    file.add(pulls(NGINX))
    monkeypatch.setattr(module, "_MOVE", "INSERT INTO nowhere VALUES (?, ?, ?, ?, ?, ?, ?)")
    with pytest.raises(StoreError, match="no such table: nowhere"):
        file.add(Batch(NOW, moves=[move("sha256:1")]))
    assert not path.with_name("usage.sqlite3.aside").exists()
    assert [use.repository for use in file.top_images("all", 9, NOW)] == ["library/nginx"]


def test_a_damaged_file_is_an_error_to_who_asks(file: UsageFile, path: Path) -> None:
    file.add(pulls(NGINX))
    no_database(path)
    with pytest.raises(StoreError, match=r"usage\.sqlite3: file is not a database"):
        file.top_images("all", 9, NOW)


def test_a_removed_file_is_made_anew(file: UsageFile, path: Path) -> None:
    file.add(pulls(NGINX))
    path.unlink()
    file.add(pulls(ETCD))
    assert [use.repository for use in file.top_images("all", 9, NOW)] == ["coreos/etcd"]


def test_a_file_that_is_about_to_be_made_is_empty(file: UsageFile, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    path.touch()
    assert file.tag_moves() == []
    assert file.top_clients("24h", 10, NOW) == []


def test_what_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="usage"):
        UsageFile(tmp_path / "file" / "usage.sqlite3").add(pulls(NGINX))


WRITER = """
import sys
from pathlib import Path
from regproxy.telemetry.usage.records import Batch
from regproxy.telemetry.usage.usage_file import UsageFile
for number in range(20):
    batch = Batch(1.8e9, images={("r.test", 443, "app", "v1"): (1, 2, 3)})
    UsageFile(Path(sys.argv[1])).add(batch)
"""


def test_processes_add_at_once(file: UsageFile, path: Path) -> None:
    command = [sys.executable, "-c", WRITER, os.fspath(path)]
    started = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert file.top_images("all", 9, NOW) == [ImageUse("r.test", 443, "app", "v1", 60, 120, 180, NOW)]
