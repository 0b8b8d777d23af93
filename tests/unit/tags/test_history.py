"""The history of tags in the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.cache.index.index import Index
from regproxy.policy.tag_history import SEEN_MAX, settled
from regproxy.registry.accept import parse_accept
from regproxy.tags.history import TagHistory
from tests.support.images import INDEX, MANIFEST

DAY = 86_400.0
AGE = 3 * DAY
NOW = 1_000 * DAY
PLACE = ("reg.test", 443, "team/app")
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ODD = parse_accept([f"{INDEX}, {LIST}, {MANIFEST}".encode()])
ALL, SINGLE = parse_accept([f"{INDEX}, {MANIFEST}".encode()]), parse_accept([MANIFEST.encode()])


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index.open(tmp_path / "index.sqlite3")
    yield index
    index.close()


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def test_a_move(index: Index) -> None:
    history = TagHistory(index, AGE)
    history.note(PLACE, "main", digest(1), INDEX, ALL, NOW)
    seen = history.note(PLACE, "main", digest(2), INDEX, ALL, NOW + 10 * DAY)
    assert settled(seen, digest(2), age=AGE, now=NOW + 10 * DAY) == digest(1)
    assert history.note(PLACE, "other", digest(2), INDEX, ALL, NOW + 10 * DAY)[0].first
    seen = history.note(PLACE, "main", digest(2), INDEX, ALL, NOW + 14 * DAY)
    assert settled(seen, digest(2), age=AGE, now=NOW + 14 * DAY) == digest(2)


def test_another_process_knows_it(index: Index, tmp_path: Path) -> None:
    TagHistory(index, AGE).note(PLACE, "main", digest(1), INDEX, ALL, NOW)
    index.flush()
    other = Index.open(tmp_path / "index.sqlite3")
    try:
        seen = TagHistory(other, AGE).note(PLACE, "main", digest(1), INDEX, ALL, NOW + 60)
        assert [each.first_at for each in seen] == [NOW]
    finally:
        other.close()


def test_kinds_of_clients(index: Index) -> None:
    """Those who take no index see other digests, which are no answer to those who do."""
    history = TagHistory(index, AGE)
    history.note(PLACE, "main", digest(1), INDEX, ALL, NOW)
    single = history.note(PLACE, "main", digest(9), MANIFEST, SINGLE, NOW)
    assert [seen.digest for seen in single] == [digest(9)]
    seen = history.note(PLACE, "main", digest(2), INDEX, ALL, NOW + 10 * DAY)
    assert settled(seen, digest(2), age=AGE, now=NOW + 10 * DAY) == digest(1)
    # The tag has just moved: what is new to the others is not old to them either.
    single = history.note(PLACE, "main", digest(8), MANIFEST, SINGLE, NOW + 10 * DAY)
    assert settled(single, digest(8), age=AGE, now=NOW + 10 * DAY) == digest(9)


@pytest.mark.parametrize("media_type", [MANIFEST, LIST])
def test_an_unusual_question_makes_nothing_old(index: Index, media_type: str) -> None:
    """Who asks in a way in which nobody has asked yet, just after a move, changes nothing for the others."""
    history = TagHistory(index, AGE)
    history.note(PLACE, "main", digest(1), MANIFEST, SINGLE, NOW)
    moved = NOW + 10 * DAY
    alone = history.note(PLACE, "main", digest(2), media_type, ODD, moved)
    seen = history.note(PLACE, "main", digest(2), media_type, SINGLE, moved + 1)
    assert settled(seen, digest(2), age=AGE, now=moved + 1) == digest(1)
    # Nor for itself, where it is plain that the tag has been moved.
    assert settled(alone, digest(2), age=AGE, now=moved) == ("" if media_type == MANIFEST else digest(2))
    seen = history.note(PLACE, "main", digest(2), media_type, SINGLE, moved + 4 * DAY)
    assert settled(seen, digest(2), age=AGE, now=moved + 4 * DAY) == digest(2)


def test_a_digest_that_all_get_has_one_age(index: Index) -> None:
    history = TagHistory(index, AGE)
    history.note(PLACE, "main", digest(1), MANIFEST, ALL, NOW)
    history.note(PLACE, "main", digest(2), MANIFEST, ALL, NOW + DAY)
    for accept in (SINGLE, ALL, SINGLE, ALL):
        seen = history.note(PLACE, "main", digest(2), MANIFEST, accept, NOW + 6 * DAY)
        assert settled(seen, digest(2), age=AGE, now=NOW + 6 * DAY) == digest(2)
        assert next(each.first_at for each in seen if each.digest == digest(2)) == NOW + DAY


def test_there_is_a_limit(index: Index) -> None:
    history = TagHistory(index, AGE)
    history.note(PLACE, "main", digest(1), INDEX, ALL, NOW)
    history.note(PLACE, "main", digest(1), INDEX, ALL, NOW + 9 * DAY)
    for number in range(2, 4 * SEEN_MAX):
        seen = history.note(PLACE, "main", digest(number), INDEX, ALL, NOW + 10 * DAY + number)
        assert settled(seen, digest(number), age=AGE, now=NOW + 10 * DAY + number) == digest(1)
    assert len(index.tag(*PLACE, "seen:main")) <= SEEN_MAX + 1


def test_the_sweep_leaves_it(index: Index) -> None:
    """It names no stored content; and is gone when nobody has asked for the tag for very long."""
    history = TagHistory(index, AGE)
    history.note(PLACE, "main", digest(1), INDEX, ALL, NOW)
    index.flush()
    index.sweep_tags(NOW + 300 * DAY)
    assert index.tag(*PLACE, "seen:main")
    index.sweep_tags(NOW + 500 * DAY)
    assert not index.tag(*PLACE, "seen:main")
