"""Whose word counts for content that is stored."""

from __future__ import annotations

import pytest

from regproxy.fill.provenance import OPEN, Provenance
from regproxy.http.origin import Origin

DIGEST = "sha256:" + "a" * 64
SHARED, OTHER, PRIVATE = ("shared.test", 443), ("other.test", 443), ("private.test", 443)


class Index:
    """What is known of where content is."""

    def __init__(self, *registries: tuple[str, int]) -> None:
        self.registries = set(registries)
        self.entered: list[tuple[object, ...]] = []

    def registries_of(self, digest: str) -> set[tuple[str, int]]:
        assert digest == DIGEST
        return self.registries

    def put_presence(
        self, host: str, port: int, repository: str, digest: str, size: int, asked: float | None = None
    ) -> None:
        self.entered.append((host, port, repository, digest, size, asked))


# (registries that are known to have it, who says so now, whether that counts)
ROWS = [
    ([], SHARED, False),
    ([], PRIVATE, False),
    ([SHARED], SHARED, True),
    ([SHARED], OTHER, True),
    ([SHARED], PRIVATE, True),
    ([PRIVATE], PRIVATE, True),
    ([PRIVATE], SHARED, False),
    ([PRIVATE], ("private.test", 8443), False),
    ([SHARED, PRIVATE], OTHER, False),
    ([SHARED, PRIVATE], SHARED, True),
    ([SHARED, OTHER], PRIVATE, True),
]


@pytest.mark.parametrize(("known", "who", "counts"), ROWS)
def test_a_registrys_word(known: list[tuple[str, int]], who: tuple[str, int], counts: bool) -> None:
    index, origin = Index(*known), Origin("https", *who)
    provenance = Provenance(index, lambda host, port: (host, port) != PRIVATE, guarded=True)
    assert provenance.covers(origin, DIGEST) is counts
    assert provenance.named(origin, "app", DIGEST, 5, 1.5) is counts
    assert index.entered == ([(*who, "app", DIGEST, 5, 1.5)] if counts else [])


def test_where_nothing_is_kept_from_anybody() -> None:
    index, origin = Index(), Origin("https", *SHARED)
    for provenance in (OPEN, Provenance(index, lambda host, port: True, guarded=False)):
        assert not provenance.guarded
        assert provenance.covers(origin, DIGEST)
        assert provenance.named(origin, "app", DIGEST, 5, 1.5)
    assert index.entered == []
