"""The door to what is held: which content a request may have, by what type it goes, how old it may be."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from regproxy.cache import layout
from regproxy.cache.blobs import Store
from regproxy.cache.index.index import Index, TagRow
from regproxy.config.sources.assembly import load
from regproxy.fill.fill import NO_TYPE
from regproxy.fill.tag_request import Held
from regproxy.http.origin import Origin
from regproxy.policy.plans import Policy
from regproxy.server.lookup import Copy, Lookup
from regproxy.server.routes import Route, Routes

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
ORIGIN = Origin("https", "reg.test", 443)
TAG = "/v2/lib/app/manifests/v1"
HOUR = 3600.0


class Shelf:
    """A cache directory with its index, and a lookup on it. `stretch`: of every registry."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.store = Store(root, loop)
        self.index = Index.open(layout.index(root))
        self.stretch = 1.0
        self.lookup = Lookup(self.store, self.index, lambda host: self.stretch)
        self.routes = Routes(Policy(load({"ENABLE_MANIFEST_CACHE": "true"})), ())

    def put(self, body: bytes) -> str:
        """Store content without a word in the index; return its digest."""
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        path = Path(self.store.path(digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return digest

    def tag(self, digest: str, media_type: str = OCI, age: float = 0.0, variant: str = "a") -> None:
        row = TagRow(variant, digest, media_type, 1, time.time() - age, 0b1111)
        self.index.put_tag(ORIGIN.host, ORIGIN.port, "lib/app", "v1", row)

    def route(self, path: str, accept: str = OCI, method: str = "GET") -> Route:
        return self.routes.of(
            f"{method} {path} HTTP/1.1\r\nHost: reg.test\r\nAccept: {accept}\r\n\r\n".encode()
        )

    def content(self, path: str) -> Held | None:
        route = self.route(path)
        return self.lookup.content(ORIGIN, route.target, route)

    def copy(self, accept: str = OCI) -> Copy | None:
        route = self.route(TAG, accept)
        assert route.lifetime is not None
        return self.lookup.copy(ORIGIN, route.target, route, route.lifetime)

    def fresh(self) -> Held | None:
        route = self.route(TAG)
        assert route.lifetime is not None
        return self.lookup.fresh(ORIGIN, route.target, route, route.lifetime)


def manifest(media_type: str | None, note: str = "") -> bytes:
    stated = {"mediaType": media_type} if media_type else {}
    return json.dumps({"schemaVersion": 2, **stated, "config": {}, "layers": [], "note": note}).encode()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    loop = asyncio.new_event_loop()
    shelf = Shelf(tmp_path, loop)
    yield shelf
    shelf.store.close()
    shelf.index.close()
    loop.close()


class TestContent:
    def test_a_blob_has_no_type_even_where_it_is_a_manifest(self, shelf: Shelf) -> None:
        held = shelf.content(f"/v2/lib/app/blobs/{shelf.put(manifest(OCI))}")
        assert held is not None
        assert held[1] == NO_TYPE

    def test_the_bytes_go_before_what_was_told(self, shelf: Shelf) -> None:
        digest = shelf.put(manifest(DOCKER))
        shelf.index.put_told(ORIGIN.host, ORIGIN.port, "lib/app", digest, OCI, 1)
        for _ in range(2):  # read, and remembered
            held = shelf.content(f"/v2/lib/app/manifests/{digest}")
            assert held is not None
            assert held[1] == DOCKER

    def test_what_is_told_holds_in_its_repository(self, shelf: Shelf) -> None:
        digest = shelf.put(manifest(None))
        shelf.index.put_told(ORIGIN.host, ORIGIN.port, "lib/app", digest, DOCKER, 1)
        held, other = (shelf.content(f"/v2/lib/{name}/manifests/{digest}") for name in ("app", "other"))
        assert held is not None
        assert other is not None
        assert (held[1], other[1]) == (DOCKER, OCI)

    def test_what_is_no_manifest_is_not_held_as_one(self, shelf: Shelf) -> None:
        assert shelf.content(f"/v2/lib/app/manifests/{shelf.put(b'layer')}") is None

    def test_content_of_another_size_than_was_stored_is_dropped(self, shelf: Shelf) -> None:
        digest = shelf.put(b"layer")
        shelf.index.put_object(digest, 6, None)
        assert shelf.content(f"/v2/lib/app/blobs/{digest}") is None
        assert not Path(shelf.store.path(digest)).exists()
        assert shelf.index.object(digest) is None

    def test_what_a_fill_brought(self, shelf: Shelf) -> None:
        digest = shelf.put(manifest(None))
        blob = shelf.store.lookup(digest)
        assert blob is not None
        for path, want in (
            (f"/v2/lib/app/blobs/{digest}", NO_TYPE),
            (f"/v2/lib/app/manifests/{digest}", DOCKER),
            (TAG, DOCKER),
        ):
            route = shelf.route(path)
            assert shelf.lookup.brought(ORIGIN, route.target, route, blob, DOCKER) == (blob, want)


class TestCopies:
    @pytest.mark.parametrize(
        "age, stretch, fresh, now, usable",
        [
            (10.0, 1.0, True, True, True),
            (HOUR + 10, 1.0, False, False, True),
            (HOUR + 10, 2.0, False, True, True),  # the policy's plan says so, the first look does not
            (-10.0, 1.0, False, False, True),  # the clock was put back
            (400 * 24 * HOUR, 1.0, False, False, False),
        ],
    )
    def test_age(
        self, shelf: Shelf, age: float, stretch: float, fresh: bool, now: bool, usable: bool
    ) -> None:
        shelf.stretch = stretch
        shelf.tag(shelf.put(manifest(OCI)), age=age)
        copy = shelf.copy()
        assert copy is not None
        assert (copy.current, copy.fresh, copy.usable_if_error) == (True, fresh, usable)
        assert (shelf.fresh() is not None) is now

    def test_what_is_not_held_any_more(self, shelf: Shelf) -> None:
        old = shelf.put(manifest(OCI, "old"))
        shelf.tag(old, age=20.0, variant="former a")
        shelf.tag("sha256:" + "0" * 64)
        copy = shelf.copy()
        assert copy is not None
        assert (copy.row.digest, copy.held[0].digest, copy.current, copy.fresh) == (old, old, False, False)
        assert shelf.fresh() is None

    def test_a_type_that_the_bytes_contradict(self, shelf: Shelf) -> None:
        """The registry's own answer goes on as it comes, whatever is accepted."""
        shelf.tag(shelf.put(manifest(DOCKER)))  # entered as OCI, the bytes say something else
        assert shelf.copy(accept=OCI) is None
        assert shelf.copy(accept=f"{OCI}, {DOCKER}") is None

    def test_nothing_is_known(self, shelf: Shelf) -> None:
        assert shelf.copy() is None
        assert shelf.fresh() is None


@pytest.mark.parametrize("method, query", [("PUT", ""), ("DELETE", ""), ("GET", "?key=1")])
def test_who_is_not_answered_from_the_cache(shelf: Shelf, method: str, query: str) -> None:
    assert shelf.route(TAG + query, method=method).lifetime is None
