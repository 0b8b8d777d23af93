"""Which digest has been a tag's for long enough."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.policy.tag_history import NOTED_EVERY, SEEN_MAX, Seen, kept, noted, old_enough_at, settled

DAY = 86_400.0
NOW = 100 * DAY
AGE = 3 * DAY


def seen(digest: str, first: float, last: float | None = None, *, is_first: bool = False) -> Seen:
    """`first`, `last`: days ago."""
    return Seen(digest, NOW - first * DAY, NOW - (first if last is None else last) * DAY, is_first)


OLD, NEW = seen("old", 9), seen("new", 1)
SETTLED: list[tuple[str, list[Seen], str, dict[str, Any], str]] = [
    ("nothing is known", [], "a", {}, ""),
    ("the current one is old", [OLD], "old", {}, "old"),
    ("to the second", [seen("a", 3)], "a", {}, "a"),
    ("the one before", [OLD, NEW], "new", {}, "old"),
    ("it is old by now", [OLD, seen("new", 3.1)], "new", {}, "new"),
    ("rolled back", [seen("a", 9, 2), seen("bad", 5), NEW], "new", {}, "a"),
    ("back to the old one", [OLD, NEW], "old", {}, "old"),
    ("first sight", [seen("a", 0, is_first=True)], "a", {}, "a"),
    ("first sight denied", [seen("a", 0, is_first=True)], "a", {"first_sight": "deny"}, ""),
    ("first, then moved", [seen("a", 0.1, is_first=True), seen("b", 0)], "b", {}, "a"),
    ("listed", [OLD, NEW], "new", {"at_once": ["new"]}, "new"),
    ("listed and unseen", [], "x", {"at_once": ["x"]}, "x"),
    ("a clock that was set back", [seen("a", -1)], "a", {}, ""),
]


@pytest.mark.parametrize(
    "history, current, more, want", [row[1:] for row in SETTLED], ids=[r[0] for r in SETTLED]
)
def test_settled(history: list[Seen], current: str, more: dict[str, Any], want: str) -> None:
    assert settled(history, current, age=AGE, now=NOW, **more) == want


def test_when_it_is_old_enough() -> None:
    assert old_enough_at([NEW], "new", AGE) == NOW + 2 * DAY
    assert old_enough_at([NEW], "other", AGE) == 0


def test_what_is_noted() -> None:
    first = noted([], [], "a", age=AGE, now=NOW)
    assert first == Seen("a", NOW, NOW, True)
    assert noted([first], [], "a", age=AGE, now=NOW + 60) is None
    again = noted([first], [], "a", age=AGE, now=NOW + NOTED_EVERY)
    assert again == Seen("a", NOW, NOW + NOTED_EVERY, True)
    moved = noted([first], [], "b", age=AGE, now=NOW + 60)
    assert moved == Seen("b", NOW + 60, NOW + 60, False)
    back = noted([first, moved], [], "a", age=AGE, now=NOW + 90)
    assert back == Seen("a", NOW, NOW + 90, True)


def test_another_kind_of_client_sees_it_first_unless_it_has_just_moved() -> None:
    calm, moved = seen("index", 1, is_first=True), seen("index 2", 0.5)
    other = noted([], [calm], "single", age=AGE, now=NOW)
    assert other is not None
    assert other.first
    other = noted([], [calm, moved], "single", age=AGE, now=NOW)
    assert other is not None
    assert not other.first


def test_an_attacker_can_not_push_the_good_one_out() -> None:
    history = [seen("good", 50, 2), *(seen(f"bad {n}", 1 - n / 1000) for n in range(200))]
    left = kept(history, age=AGE, now=NOW)
    assert len(left) == SEEN_MAX
    assert settled(left, "bad 199", age=AGE, now=NOW) == "good"
