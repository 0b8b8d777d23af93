"""Whom registries have let in, and what is signed: for all processes, and no longer than it should be."""

from __future__ import annotations

from pathlib import Path

from regproxy.cache.index.attestations import Attestations
from regproxy.cache.index.index import Index
from tests.support.index_processes import MANIFEST, NGINX, Clock, digest, reopened


def test_a_signature_is_remembered_with_its_image(index: Index, path: Path, clock: Clock) -> None:
    """For one key in one repository, in all processes; forgotten when the image is evicted."""
    place = (*NGINX[:3], digest(1))
    index.put_object(digest(1), 5, MANIFEST)
    assert not Attestations(index, clock).signed(*place, "key")
    Attestations(index, clock).put_signed(*place, "key")
    other = reopened(index, path, clock)
    for each in (Attestations(index, clock), Attestations(other, clock)):
        assert each.signed(*place, "key")
        assert not each.signed(*place, "another")
        assert not each.signed(*NGINX[:2], "library/redis", digest(1), "key")
        assert not each.signed(*NGINX[:3], digest(2), "key")
    index.remove([digest(1)])
    other.sync()
    assert not Attestations(other, clock).signed(*place, "key")
    other.close()


def test_who_was_let_in(index: Index, path: Path, clock: Clock) -> None:
    place = ("reg.example", 443, "app")
    said = Attestations(index, clock)
    assert said.accessed_at(*place, "someone") == 0
    said.put_access(*place, "someone")
    assert said.accessed_at(*place, "someone") == clock()
    assert said.accessed_at(*place, "other") == said.accessed_at(*place[:2], "app2", "someone") == 0
    # It is no tag, and none that anybody may ask for.
    assert index.tag(*place, "someone") == ()
    assert index.flush()
    other = Index.open(path, clock=clock)
    assert Attestations(other, clock).accessed_at(*place, "someone") == clock()
    other.close()
    # The sweep takes it with what is as old and not stored.
    assert index.sweep_tags(clock() + 1) == 1
    assert said.accessed_at(*place, "someone") == 0
