"""The latest events."""

from __future__ import annotations

from regproxy.telemetry.live_events import LATEST, LiveEvents


def test_the_latest_are_kept() -> None:
    events = LiveEvents(lambda: 5.0)
    for number in range(LATEST + 10):
        events.note("refused", text=str(number))
    latest = events.latest()
    assert len(latest) == LATEST
    assert (latest[-1].number, latest[-1].at, latest[-1].fields) == (LATEST + 10, 5.0, {"text": "209"})
    assert latest[0].number == 11


def test_they_are_short() -> None:
    events = LiveEvents()
    events.note("refused", text="x" * 10_000)
    assert len(events.latest()[0].fields["text"]) == 300


def test_tags() -> None:
    events = LiveEvents()
    events.tag_moved("reg.test", 443, "a", "v1", "sha256:1", "sha256:2")
    events.tag_moved("reg.test", 5000, "a", "v1", "sha256:1", "sha256:2")
    events.tag_moved("::1", 5000, "a", "v1", "sha256:1", "sha256:2")
    assert [each.fields["registry"] for each in events.latest()] == [
        *("reg.test", "reg.test:5000", "[::1]:5000"),
    ]
