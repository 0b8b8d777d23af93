"""REGPROXY_OFFLINE: what is held is served, whatever its age; nobody is asked for what is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import INDEX, MANIFEST, Image, make_image
from tests.support.origin import Origin
from tests.support.proxy import Proxy, said
from tests.support.simulated_clock import MISSING, SimulatedClock
from tests.support.trust import Trust

StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

BOTH = [("Accept", MANIFEST), ("Accept", INDEX)]
TAG = "/v2/app/manifests/latest"
HELD, OTHER = make_image(seed=31), make_image(seed=32)
DAY = 86_400.0


def pull(client: Client, image: Image) -> None:
    """As a client does: the tag, what it names, and what that names."""
    assert client.get(TAG, BOTH).digest == image.digest
    for digest in image.blobs:
        assert client.get(f"/v2/app/blobs/{digest}").digest == digest


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        origin.publish("app", HELD, "latest")
        yield origin


@pytest.fixture(scope="module", params=["true", "false"], ids=["kept", "not kept"])
def offline(
    request: pytest.FixtureRequest, origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """One that has pulled HELD, and was told then that it is offline. The origin is there."""
    place = tmp_path_factory.mktemp("proxy")
    env = {"ENABLE_MANIFEST_CACHE": request.param, "MANIFEST_CACHE_DEFAULT_TIME": "0"}
    before: Any = {"registries": (origin.authority,), "resolve": origin.resolve, "ca": trust.path}
    with Proxy(place, env, **before) as proxy, proxy.client(origin.authority) as client:
        pull(client, HELD)
        proxy.wait_kept(HELD.digest, *HELD.blobs)
    with Proxy(place, {**env, "REGPROXY_OFFLINE": "true"}, **before) as proxy:
        yield proxy


@pytest.fixture
def client(offline: Proxy, origin: Origin, talk: Talk) -> Client:
    origin.requests.clear()
    return talk(offline, origin)


def test_what_is_held(client: Client, origin: Origin) -> None:
    pull(client, HELD)
    for method in ("GET", "HEAD"):
        reply = client.request(method, TAG, BOTH)
        assert (reply.status, said(reply)[0]) == (200, "STALE")
        assert reply.get("Docker-Content-Digest") == HELD.digest
        reply = client.request(method, f"/v2/app/manifests/{HELD.digest}", BOTH)
        assert (reply.status, said(reply)[0]) == (200, "HIT")
    assert origin.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_ping(method: str, client: Client, origin: Origin) -> None:
    reply = client.request(method, "/v2/")
    assert (reply.status, reply.body) == (200, b"{}" if method == "GET" else b"")
    assert reply.get("Docker-Distribution-Api-Version") == "registry/2.0"
    assert origin.requests == []


NOT_HELD = [
    f"/v2/app/blobs/{OTHER.digest}",
    f"/v2/app/manifests/{OTHER.digest}",
    "/v2/app/manifests/other",
    "/v2/app/tags/list",
    f"/v2/app/referrers/{HELD.digest}",
    "/v2/app/blobs/uploads/1",
    "/token?service=reg.test&scope=repository:app:pull",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", NOT_HELD)
def test_what_is_not(path: str, method: str, client: Client, origin: Origin) -> None:
    reply = client.request(method, path, BOTH)
    assert reply.status == 503
    if method == "GET":
        (error,) = json.loads(reply.body)["errors"]
        assert error["code"] == "UNAVAILABLE"
        assert "offline" in error["message"] and "reg.test" in error["message"]
    assert origin.requests == []


def test_another_variant(client: Client, origin: Origin) -> None:
    assert client.get(TAG, [("Accept", "application/vnd.example")]).status == 503
    assert client.request("POST", "/token", body=b"grant_type=password").status == 503
    assert origin.requests == []


@pytest.mark.skipif(MISSING is not None, reason=f"no simulated clock: {MISSING}")
def test_after_a_day_without_a_registry(
    start_registry: Callable[..., Registry],
    start_proxy: StartProxy,
    talk: Talk,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clock = SimulatedClock(tmp_path_factory.mktemp("clock"))
    registry = start_registry("reg.test")
    registry.push("app", "latest", HELD)
    proxy = start_proxy(registry, **clock.env, ENABLE_MANIFEST_CACHE="true")
    pull(talk(proxy, registry), HELD)
    proxy.wait_kept(HELD.digest, *HELD.blobs)
    assert proxy.stop() == 0, proxy.log()
    registry.stop()
    clock.advance(DAY)
    env = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_OFFLINE": "1"}
    proxy = start_proxy(registry, at=proxy.directory, **clock.env, **env)
    client = talk(proxy, registry)
    assert client.get("/v2/").status == 200
    pull(client, HELD)
    assert said(client.request("HEAD", TAG, BOTH))[0] == "STALE"
