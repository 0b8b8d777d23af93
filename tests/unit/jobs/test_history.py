"""Records of jobs outlive their processes, are bounded, and tell of those that have died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regproxy.core.errors import StoreError
from regproxy.jobs import history as module
from regproxy.jobs.history import History
from regproxy.jobs.records import Job, decode, encode


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "jobs")


def done(history: History, kind: str = "purge") -> Job:
    job, fd = history.begin(kind, "x", {})
    job.move("running", 1.0)
    job.move("done", 2.0)
    history.end(job, fd)
    return job


def test_the_newest_first(history: History) -> None:
    jobs = [done(history) for _ in range(5)]
    newest = sorted((job.id for job in jobs), reverse=True)
    assert [job.id for job in history.listing()] == newest
    assert [job.id for job in history.listing(limit=2)] == newest[:2]
    assert [job.id for job in history.listing(before=newest[1], limit=2)] == newest[2:4]


def test_they_are_bounded(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    runs, fd = history.begin("warm", "x", {})
    for _ in range(6):
        done(history)
    kept = [job.id for job in history.listing()]
    assert runs.id in kept and len(kept) <= 5  # what runs is never forgotten
    os.close(fd)
    names = {path.name.partition(".")[0] for path in (tmp_path / "jobs").iterdir()}
    assert names == set(kept)


def test_a_process_that_has_died(history: History) -> None:
    job, fd = history.begin("purge", "x", {})
    open_job = history.get(job.id)
    assert open_job is not None and open_job.state == "queued"
    os.close(fd)  # as the kernel does it
    for _ in range(2):
        found = history.get(job.id)
        assert found is not None
        assert (found.state, found.error) == ("cut", "the process that had it has died")
        assert found.ended_at > 0


def test_a_full_disk(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a job that can't be recorded."""
    done(history)
    before = set((tmp_path / "jobs").iterdir())
    monkeypatch.setattr(History, "write", lambda self, job: False)
    with pytest.raises(StoreError, match="can't be written"):
        history.begin("purge", "x", {})
    assert set((tmp_path / "jobs").iterdir()) == before


def test_one_that_is_forgotten_meanwhile(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the record and its lock."""
    job, fd = history.begin("purge", "x", {})
    os.close(fd)

    def pruned(self: History, identity: str) -> bool:
        (tmp_path / "jobs" / f"{identity}.json").unlink()
        return False

    monkeypatch.setattr(History, "_is_held", pruned)
    assert history.get(job.id) is None


@pytest.mark.parametrize("identity", ["", "..", "../../index", "0" * 12, "x" * 21, "0123456789AB-01234567"])
def test_ids_lead_nowhere_else(history: History, identity: str) -> None:
    done(history)
    assert history.get(identity) is None


def test_what_is_no_record(history: History, tmp_path: Path) -> None:
    job = done(history)
    path = tmp_path / "jobs" / f"{job.id}.json"
    for text in (b"", b"[]", b"{}", b"\xff", b'{"id": 1'):
        path.write_bytes(text)
        assert history.get(job.id) is None
        assert history.listing() == []


def test_a_later_versions_record(history: History) -> None:
    text = encode(Job("0123456789ab-01234567", "purge", "x")).replace(b"{", b'{"new": 1, ', 1)
    assert decode(text) == Job("0123456789ab-01234567", "purge", "x")


def test_states_follow_each_other() -> None:
    job = Job("0123456789ab-01234567", "purge", "x")
    with pytest.raises(ValueError, match="can't be done"):
        job.move("done", 1.0)
    job.move("running", 1.0)
    job.move("cancelled", 2.0)
    assert (job.started_at, job.ended_at) == (1.0, 2.0)
    with pytest.raises(ValueError, match="can't be failed"):
        job.move("failed", 3.0)
