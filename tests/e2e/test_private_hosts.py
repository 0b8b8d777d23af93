"""Registries that lead to hosts inside, end to end, in a network of its own: nothing can leave it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support import netem
from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.netem import Namespace
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said

pytestmark = pytest.mark.skipif(netem.missing() is not None, reason=str(netem.missing()))

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

INSIDE = "10.255.255.1"
SECRET = b"internal secret " * 65536
DIGEST = digest_of(b"what the registry claims")
PATH = f"/v2/app/blobs/{DIGEST}"


@pytest.fixture(autouse=True)
def network(stack: ExitStack) -> Iterator[None]:
    """A network with an address of a private range, which is this machine's own."""
    space = Namespace()
    try:
        with space.entered():
            subprocess.run(["ip", "addr", "add", f"{INSIDE}/32", "dev", "lo"], check=True)
            yield
            stack.close()
    finally:
        space.close()


@pytest.fixture
def inside(start_origin: StartOrigin) -> Origin:
    """A server at a private address."""
    inside = start_origin("inside.test", address=(INSIDE, 8443))
    inside.on("/secret", Answer(SECRET))
    inside.on("/token", Answer(b'{"token":"t"}'))
    return inside


@pytest.fixture
def registry(start_origin: StartOrigin) -> Origin:
    return start_origin("reg.test")


def message(reply: Reply) -> str:
    text: str = json.loads(reply.body)["errors"][0]["message"]
    return text


@pytest.mark.parametrize("host", ["10.255.255.1", "0xaffff01", "10.16776961", "[::ffff:10.255.255.1]"])
def test_a_redirect_to_a_private_address(
    start_proxy: StartProxy, registry: Origin, inside: Origin, talk: Talk, host: str
) -> None:
    registry.on(PATH, redirect(f"https://{host}:{inside.port}/secret"))
    proxy = start_proxy(registry)
    for method in ("GET", "HEAD"):
        client = talk(proxy, registry)
        reply = client.request(method, PATH)
        assert reply.status == 502
        if method == "GET":
            assert "reg.test leads to" in message(reply)
            assert f"{INSIDE}, a private address" in message(reply)
            assert "REGPROXY_ALLOW_TARGETS" in message(reply)
    assert inside.requests == []
    assert proxy.metric("regproxy_targets_refused_total", by="answer") >= 2
    assert proxy.log().count("not connected: reg.test leads to") == 1


def test_a_host_that_is_allowed(
    start_proxy: StartProxy, registry: Origin, inside: Origin, talk: Talk
) -> None:
    body = b"of a registry in here"
    digest = digest_of(body)
    inside.on("/blob", blob_answer(digest, body))
    registry.on(f"/v2/app/blobs/{digest}", redirect(f"{inside.url}/blob"))
    assert talk(start_proxy(registry, inside), registry).get(f"/v2/app/blobs/{digest}").body == body


def test_what_is_held_is_served(
    start_proxy: StartProxy, registry: Origin, inside: Origin, talk: Talk
) -> None:
    """A registry that begins to lead to a private address is as one that is in trouble."""
    path, kind = "/v2/app/manifests/1", "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind}).encode()
    registry.on(path, Answer(manifest, headers={"Content-Type": kind}))
    proxy = start_proxy(registry)
    accept = {"Accept": kind}
    assert talk(proxy, registry).get(path, accept).body == manifest
    registry.on(path, redirect(f"https://{INSIDE}:{inside.port}/secret"))
    reply = talk(proxy, registry).get(path, accept)
    assert (reply.status, reply.body, said(reply)[0]) == (200, manifest, "STALE")
    assert inside.requests == []


def test_a_realm_at_a_private_address(
    start_proxy: StartProxy, registry: Origin, inside: Origin, talk: Talk
) -> None:
    realm = f'Bearer realm="https://{INSIDE}:{inside.port}/token",service="reg.test"'
    registry.on(PATH, Answer(b"{}", 401, {"WWW-Authenticate": realm}))
    proxy = start_proxy(registry, AUTH_REGISTRIES=f"{registry.authority}:u:p")
    reply = talk(proxy, registry).get(PATH)
    assert inside.requests == []
    assert reply.status == 502
    assert f"reg.test leads to {INSIDE}" in message(reply)


@pytest.mark.parametrize("private", ["true", "false"])
def test_tunnels(start_proxy: StartProxy, registry: Origin, inside: Origin, talk: Talk, private: str) -> None:
    ports = f"443 {inside.port}"
    proxy = start_proxy(registry, REGPROXY_PRIVATE_TARGETS=private, REGPROXY_CONNECT_PORTS=ports)
    for _ in range(2):
        with Client.connect(proxy.address) as client:
            reply = client.connect_to(f"{INSIDE}:{inside.port}")
            if private == "true":
                assert reply.status == 200
            else:
                assert reply.status == 403
                assert b"REGPROXY_PRIVATE_TARGETS is false" in reply.body
    if private == "true":
        told = "private addresses can be reached through this proxy"
        wait_until(lambda: told in proxy.log(), "it is said")
        assert proxy.log().count(told) == 1
