"""What belongs to whom: connections that were given back, files that failed, parts of others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy

BODY = bytes(range(251)) * 2000
DIGEST = digest_of(BODY)
PATH = f"/v2/app/blobs/{DIGEST}"


@pytest.fixture
def origin(start_origin: Callable[..., Origin]) -> Origin:
    return start_origin("reg.test")


@pytest.mark.parametrize("size", [400_000, 1_000_000, 2_000_000, 3_000_000])
def test_a_client_that_leaves_late_takes_nobodys_connection(
    origin: Origin, start_proxy: Callable[..., Proxy], talk: Callable[..., Client], size: int
) -> None:
    """Its answer has come whole from the origin, whose connection another request uses by now."""
    proxy = start_proxy(origin, PROXY_READ_TIMEOUT="10s")
    release = threading.Event()
    origin.on("/slow", Answer(b"x" * size))
    origin.on(PATH, blob_answer(DIGEST, BODY, hold_at=-1, hold=release))
    slow = talk(proxy, origin, recv_buffer=4096)
    slow.ask("GET", "/slow")
    origin.wait_idle()
    other = talk(proxy, origin)
    other.ask("GET", PATH)
    origin.wait_for(lambda o: o.count("GET", PATH) == 1)
    slow.reset()
    wait_until(lambda: proxy.metric("regproxy_connections_open") <= 4 or None, "the slow client is gone")
    release.set()
    reply = other.read_reply()
    assert (reply.status, reply.body) == (200, BODY)


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".com"])
def test_a_name_that_is_none_gets_an_answer(start_proxy: Callable[..., Proxy], name: str) -> None:
    proxy = start_proxy()
    with Client.connect(proxy.address) as client:
        reply = client.connect_to(f"{name}:443")
    assert reply.status == 502
    assert b"name" in reply.body


def test_a_failed_download_gives_its_space_back(
    origin: Origin, start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    proxy = start_proxy(origin, REGPROXY_RESUME_TIME="0")
    origin.on(PATH, blob_answer(DIGEST, BODY, cut_at=200_000, ranges=False))
    for _ in range(3):
        with proxy.client(origin.authority) as client:
            assert not client.get(PATH).complete
    held = [str(link.readlink()) for link in Path(f"/proc/{proxy.workers(1)[0]}/fd").iterdir()]
    # What has come is left to the next, but nobody has it open.
    assert not [name for name in held if "/parts/" in name]


def test_parts_of_a_process_that_is_at_work_stay(
    origin: Origin, start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    release = threading.Event()
    origin.on(PATH, blob_answer(DIGEST, BODY, hold_at=300_000, hold=release))
    first = start_proxy(origin)
    client = talk(first, origin)
    client.ask("GET", PATH)
    wait_until(lambda: first.parts() or None, "a part file")
    start_proxy(origin, REGPROXY_CACHE_DIR=str(first.cache_dir))
    assert first.parts()
    release.set()
    assert client.read_reply().body == BODY
    first.wait_kept(DIGEST)


def test_a_push_by_another_spelling_is_refused(
    origin: Origin, start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    client = talk(start_proxy(origin), origin)
    for path in (
        "/v2/App/blobs/uploads/",
        "/v2/a%2Fb/blobs/uploads/",
        "/v2/./app/blobs/uploads/",
        "/%762/x/y",
    ):
        assert client.request("POST", path).status == 403, path
    assert origin.requests == []


def test_a_manifest_that_came_as_a_blob_has_its_type(
    origin: Origin, start_proxy: Callable[..., Proxy], talk: Callable[..., Client]
) -> None:
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2}
    document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}
    manifest = json.dumps(document).encode()
    name = digest_of(manifest)
    origin.on(f"/v2/app/blobs/{name}", blob_answer(name, manifest))
    client = talk(start_proxy(origin), origin)
    assert client.get(f"/v2/app/blobs/{name}").body == manifest
    reply = client.get(f"/v2/app/manifests/{name}")
    assert (reply.body, reply.get("content-type")) == (manifest, kind)
