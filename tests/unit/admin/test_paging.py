"""Cursors: what comes back is what was handed out."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from regproxy.admin.paging import Cursors, Position
from regproxy.admin.replies import Problem

POSITIONS = st.lists(st.text() | st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=4)


@hypothesis.given(POSITIONS, st.text())
def test_they_come_back(position: Position, name: str) -> None:
    cursors = Cursors(b"key")
    assert cursors.open(name, cursors.seal(name, position)) == position


@hypothesis.given(st.data())
def test_a_changed_one_is_refused(data: st.DataObject) -> None:
    cursors = Cursors(b"key")
    sealed = cursors.seal("list", ["somewhere", 3])
    at = data.draw(st.integers(0, len(sealed) - 2))  # the last letter has bits that mean nothing
    letter = data.draw(st.sampled_from("ABCabc019-_").filter(lambda each: each != sealed[at]))
    with pytest.raises(Problem) as refused:
        cursors.open("list", sealed[:at] + letter + sealed[at + 1 :])
    assert (refused.value.status, refused.value.field) == (400, "cursor")


@pytest.mark.parametrize("cursor", ["", "x", "\xff", "A" * 2000, "====", "a b"])
def test_others_are_refused(cursor: str) -> None:
    with pytest.raises(Problem):
        Cursors(b"key").open("list", cursor)


def test_of_another_list_or_run() -> None:
    sealed = Cursors(b"key").seal("list", [1])
    for cursors, name in ((Cursors(b"key"), "other"), (Cursors(b"other"), "list")):
        with pytest.raises(Problem):
            cursors.open(name, sealed)
