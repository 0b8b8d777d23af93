"""What a worker counts, and hands to the file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.telemetry.usage.recorder import EVERY, Recorder
from regproxy.telemetry.usage.records import Image, Refusal, TagMove
from regproxy.telemetry.usage.usage_file import EVENTS_MAX, UsageFile

NOW = 1_800_000_000.0
NGINX: Image = ("reg.test", 443, "library/nginx", "1.27")


class Counters:
    def __init__(self) -> None:
        self.moved: list[str] = []

    def tag_moved(self, registry: str) -> None:
        self.moved.append(registry)


@pytest.fixture
def file(tmp_path: Path) -> UsageFile:
    return UsageFile(tmp_path / "usage.sqlite3")


@pytest.fixture
def recorder(file: UsageFile) -> Iterator[Recorder]:
    recorder = Recorder(file, Counters(), lambda: NOW)
    yield recorder
    recorder.close()


def written(recorder: Recorder) -> None:
    """Wait until the batch that is being written is on disk, or has failed."""
    assert recorder._writing is not None
    recorder._writing.exception()


def pulls(file: UsageFile) -> int:
    return sum(use.pulls for use in file.top_images("all", 99, NOW))


def test_a_batch_now_and_then(recorder: Recorder, file: UsageFile) -> None:
    recorder.images.of(NGINX).add(1, 10, 0)
    recorder.tick(100.0)
    written(recorder)
    assert pulls(file) == 1
    recorder.images.of(NGINX).add(1, 10, 0)
    recorder.tick(100.0 + EVERY - 0.1)
    written(recorder)
    assert pulls(file) == 1
    recorder.tick(100.0 + EVERY)
    written(recorder)
    assert pulls(file) == 2
    recorder.tick(100.0 + 2 * EVERY)
    assert recorder._writing is None  # there is nothing to write


def test_the_end_writes_what_is_left(recorder: Recorder, file: UsageFile) -> None:
    recorder.images.of(NGINX).add(1, 10, 0)
    recorder.tick(100.0)
    recorder.images.of(NGINX).add(1, 10, 0)
    recorder.close()
    assert pulls(file) == 2


def test_what_can_not_be_written_is_kept(
    recorder: Recorder, file: UsageFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = tmp_path / "usage.sqlite3"
    obstacle.mkdir()
    for turn in range(3):
        recorder.images.of(NGINX).add(1, 10, 0)
        recorder.clients.of(("user", "ci")).add(2, 10, 0)
        recorder.tag_moved(*NGINX, "sha256:1", f"sha256:{turn + 2}")
        recorder.tick(turn * EVERY)
        written(recorder)
    obstacle.rmdir()
    recorder.tick(10 * EVERY)
    written(recorder)
    assert pulls(file) == 3
    assert file.top_clients("all", 9, NOW)[0].requests == 6
    assert len(file.tag_moves()) == 3
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1  # once for one fault


def test_a_tag_that_moves(recorder: Recorder, file: UsageFile) -> None:
    recorder.tag_moved(*NGINX, "sha256:1", "sha256:2")
    recorder.close()
    assert file.tag_moves() == [TagMove(NOW, *NGINX, "sha256:1", "sha256:2")]
    assert recorder._counters.moved == ["reg.test"]  # type: ignore[attr-defined]


def test_a_refusal(recorder: Recorder, file: UsageFile) -> None:
    recorder.refused("rule", ("user", "ci", "10.0.0.1"), NGINX, "no latest", "not here")
    recorder.refused(
        "access", ("anonymous", "", "10.0.0.2"), ("reg.test", 443, "r" * 9999, ""), "", "m" * 9999
    )
    recorder.close()
    last, first = file.refusals()
    assert first == Refusal(NOW, "user", "ci", "10.0.0.1", *NGINX, "rule", "no latest", "not here")
    assert (last.client_kind, last.client, last.address) == ("anonymous", "10.0.0.2", "10.0.0.2")
    assert len(last.repository) + len(last.message) < 1000


def test_a_flood_of_refusals_is_bounded(recorder: Recorder, file: UsageFile) -> None:
    for number in range(10 * EVENTS_MAX):
        recorder.refused("rule", ("anonymous", "", "10.0.0.1"), NGINX, "", str(number))
    assert len(recorder._refusals) == EVENTS_MAX
    recorder.close()
    assert file.refusals()[0].message == str(10 * EVENTS_MAX - 1)
