"""Parts that a killed filler has left: whatever is in them and the origin says, nothing wrong comes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regproxy.cache.blobs import Store
from regproxy.cache.parts import OPEN, VERIFIED, Meta, boot_id
from regproxy.fill.download import Stored
from regproxy.fill.fills import CacheRequest, Fills
from regproxy.http.messages import parse_request
from regproxy.http.origin import Origin as At
from regproxy.registry.targets import parse_target
from tests.support.client import Reply
from tests.support.images import MANIFEST, digest_of, make_image
from tests.support.origin import Answer, Origin, Seen, blob_answer, manifest_answer
from tests.support.plane import Plane, Run, plane, run
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust

__all__ = ["plane", "run"]  # fixtures

SIZE, THERE = 300_000, 100_000


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(
        tmp_path_factory.mktemp("proxy"),
        {"REGPROXY_RESUME_TIME": "500ms"},
        registries=(origin.authority,),
        resolve=origin.resolve,
        ca=trust.path,
    ) as proxy:
        yield proxy


def blob(seed: object) -> tuple[str, str, bytes]:
    """A path, digest and bytes."""
    body = random.Random(f"takeover-{seed}").randbytes(SIZE)
    digest = digest_of(body)
    return f"/v2/app/blobs/{digest}", digest, body


def leave(proxy: Proxy, digest: str, data: bytes, **meta: Any) -> None:
    """What a killed filler leaves: the part, and what it had said."""
    part = proxy.cache_dir / "parts" / f"{digest[7:]}.part"
    part.write_bytes(data)
    status = part.stat()
    fields = {"state": OPEN, "boot": boot_id(), "part": [status.st_dev, status.st_ino], **meta}
    part.with_suffix(".meta").write_text(json.dumps(fields))


def get(proxy: Proxy, origin: Origin, path: str) -> Reply:
    with proxy.client(origin.authority) as client:
        return client.get(path, [("Accept", MANIFEST)])


def test_only_the_rest_is_asked_for(proxy: Proxy, origin: Origin) -> None:
    path, digest, body = blob("rest")
    origin.on(path, blob_answer(digest, body))
    leave(proxy, digest, body[:THERE], total=SIZE)
    assert get(proxy, origin, path).body == body
    assert [seen.get("range") for seen in origin.requests if seen.path == path] == [f"bytes={THERE}-"]


@pytest.mark.parametrize("status", [400, 403, 501])
def test_an_origin_that_refuses_ranges_is_asked_for_all(status: int, proxy: Proxy, origin: Origin) -> None:
    path, digest, body = blob(status)

    def script(seen: Seen) -> Answer:
        return Answer(b"no", status, ranges=False) if seen.get("range") else blob_answer(digest, body)

    origin.on(path, script)
    leave(proxy, digest, body[:THERE], total=SIZE)
    assert get(proxy, origin, path).body == body
    proxy.wait_kept(digest)


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_refusal_of_the_content_is_the_clients(status: int, proxy: Proxy, origin: Origin) -> None:
    """And what is there stays for who may have the rest."""
    path, digest, body = blob(status)
    no = Answer(b"no", status, ranges=False)
    # 503 is often over in a moment, and is asked about again before a client hears of it; after a 404 to a
    # range all of it is asked for.
    origin.on(path, *[no] * {404: 2, 503: 4}.get(status, 1), blob_answer(digest, body))
    leave(proxy, digest, body[:THERE], total=SIZE)
    assert get(proxy, origin, path).status == status
    # 429 is remembered for a moment.
    wait_until(lambda: get(proxy, origin, path).body == body, "it is to be had")
    assert origin.requests[-1].get("range") == f"bytes={THERE}-"


RESTS = {
    "another total": lambda digest, body: blob_answer(digest, body),
    "a shorter one": lambda digest, body: Answer(b"x" * 1000, ranges=False),
    "another range": lambda digest, body: Answer(
        body[5:], 206, {"Content-Range": f"bytes 5-{SIZE - 1}/{SIZE}"}
    ),
}


@pytest.mark.parametrize("rest", RESTS)
def test_a_rest_that_does_not_fit_costs_nobody_a_pull(rest: str, proxy: Proxy, origin: Origin) -> None:
    """Nobody has seen anything of it: all of it is fetched."""
    path, digest, body = blob(rest)
    origin.on(path, RESTS[rest](digest, body), blob_answer(digest, body))
    leave(proxy, digest, body[:THERE], total=SIZE + 1 if rest == "another total" else SIZE)
    assert get(proxy, origin, path).body == body
    proxy.wait_kept(digest)


def test_all_of_it_is_there_and_a_shorter_answer(proxy: Proxy, origin: Origin) -> None:
    """Its length was not known: the shorter one is not given out as all of it."""
    path, digest, body = blob("short")
    origin.on(path, Answer(b"x" * THERE, ranges=False), blob_answer(digest, body))
    leave(proxy, digest, body, total=-1)
    assert get(proxy, origin, path).body == body


@pytest.mark.parametrize(
    "meta",
    [
        {"state": VERIFIED},
        {"state": VERIFIED, "media_type": MANIFEST},
        {"total": -1},
        {"total": -1, "media_type": MANIFEST},
        {"total": None},
    ],
    ids=str,
)
def test_a_manifest_keeps_its_type(meta: dict[str, Any], proxy: Proxy, origin: Origin) -> None:
    """Killed behind its last byte; an origin's word for "nothing is left" is no type."""
    image = make_image(seed=hash(str(meta)) % 1000, size=1000)
    path, size = f"/v2/app/manifests/{image.digest}", len(image.manifest)

    def script(seen: Seen) -> Answer:
        if seen.get("range"):
            return Answer(b"<html>", 416, {"Content-Type": "text/html"}, ranges=False)
        return manifest_answer(image)

    origin.on(path, script)
    known = {"size": size} if meta.get("state") == VERIFIED else {}
    total = {"total": size} if meta.get("total", -1) is None else {}
    leave(proxy, image.digest, image.manifest, **{**meta, **known, **total})
    for _ in range(2):
        reply = get(proxy, origin, path)
        assert (reply.body, reply.get("Content-Type")) == (image.manifest, MANIFEST)


class Nothing:
    """An index, and counters, to which nothing matters; an upstream that is never asked."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def test_who_wants_to_know_is_told_what_was_stored(plane: Plane, run: Run, tmp_path: Path) -> None:
    """All of it was left verified, so no origin is asked; it is there when they are told, and entered."""
    store = Store(tmp_path / "cache", plane.loop)
    _, digest, body = blob("stored")
    told: list[tuple[str, bytes | None, list[str]]] = []
    entered: list[str] = []

    class Index(Nothing):
        def put_object(self, digest: str, *args: object) -> None:
            entered.append(digest)

    def hear(stored: Stored) -> None:
        told.append((stored.wanted.repository, stored.blob.small, list(entered)))

    async def test() -> None:
        part = store.claim(digest)
        assert part.path is not None
        part.write(Meta(VERIFIED, host="mirror.test:443", total=len(body), size=len(body)))
        part.path.write_bytes(body)
        store.leave(part)
        fills = Fills(store, Nothing(), Index(), Nothing(), plane.loop)  # type: ignore[arg-type]
        fills.downloads.on_stored.append(hear)
        path = f"/v2/app/blobs/{digest}"
        request = parse_request(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wanted = CacheRequest(At("https", "mirror.test", 443), request, parse_target(path))
        _, _, found = await fills.whole(wanted)
        assert (found.digest, found.size) == (digest, len(body))
        assert told == [("app", found.small, [digest])]
        assert await fills.finish(0) == []

    run(test())
