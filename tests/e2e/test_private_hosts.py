"""Registries that lead to hosts inside, end to end, in a network of its own: nothing can leave it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import netem
from tests.support.client import Client, Reply
from tests.support.fake_dns import MISSING, SimulatedNames
from tests.support.images import digest_of
from tests.support.netem import Namespace
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy, said

pytestmark = pytest.mark.skipif(netem.missing() is not None, reason=str(netem.missing()))

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

INSIDE = "10.255.255.1"
SPELLINGS = [INSIDE, "0xaffff01", "10.16776961", f"[::ffff:{INSIDE}]"]
OUTSIDE = "8.8.8.8"  # this machine's own too, in that network
SECRET = b"internal secret " * 65536
DIGEST = digest_of(b"what the registry claims")
PATH = f"/v2/app/blobs/{DIGEST}"


@pytest.fixture(autouse=True)
def network(stack: ExitStack) -> Iterator[None]:
    """A network with addresses of a private and a public range, which are this machine's own."""
    space = Namespace()
    try:
        with space.entered():
            for address in (INSIDE, OUTSIDE):
                subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
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


@pytest.mark.parametrize("host", SPELLINGS)
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


@pytest.mark.parametrize("private", ["allow", None, "registries", "deny"])
def test_tunnels(start_proxy: StartProxy, registry: Origin, inside: Origin, private: str | None) -> None:
    ports = f"443 {inside.port}"
    proxy = start_proxy(registry, REGPROXY_PRIVATE_TARGETS=private, REGPROXY_CONNECT_PORTS=ports)
    for spelling in SPELLINGS * 2:
        with Client.connect(proxy.address) as client:
            reply = client.connect_to(f"{spelling}:{inside.port}")
            assert reply.status == (200 if private == "allow" else 403), spelling
            if private != "allow":
                want = f"REGPROXY_PRIVATE_TARGETS is {private or 'registries'}"
                assert want in reply.body.decode(), spelling
    if private == "allow":
        told = "private addresses can be reached through this proxy"
        wait_until(lambda: told in proxy.log(), "it is said")
        assert proxy.log().count(told) == 1
    else:
        assert inside.connections == 0
        assert proxy.metric("regproxy_targets_refused_total", by="client") == 2 * len(SPELLINGS)


# How a client says which registry it wants, and what comes of it: the client, and the path.
def _by_connect(proxy: Proxy, host: str, transparent: tuple[str, int]) -> tuple[Client, str]:
    return proxy.client(f"{host}:443"), PATH


def _by_ns(proxy: Proxy, host: str, transparent: tuple[str, int]) -> tuple[Client, str]:
    return Client.connect(proxy.address), f"{PATH}?ns={host}"


def _by_prefix(proxy: Proxy, host: str, transparent: tuple[str, int]) -> tuple[Client, str]:
    return Client.connect(proxy.address), PATH.replace("/v2/", f"/v2/{host}/")


def _by_absolute(proxy: Proxy, host: str, transparent: tuple[str, int]) -> tuple[Client, str]:
    return Client.connect(proxy.address), f"http://{host}{PATH}"


def _by_dns(proxy: Proxy, host: str, transparent: tuple[str, int]) -> tuple[Client, str]:
    client = Client.connect(transparent, authority=host)
    client.start_tls(host, proxy.ca_pem)
    return client, PATH


def _by_plain_dns(proxy: Proxy, host: str, transparent: tuple[str, int]) -> tuple[Client, str]:
    return Client.connect(transparent, authority=host), PATH


WAYS = [_by_connect, _by_ns, _by_prefix, _by_absolute, _by_dns, _by_plain_dns]
REGISTRY = "wide.inside.test"
# REGPROXY_PRIVATE_TARGETS, what is intercepted besides, whether the registry there is reached
RULES = [
    ("allow", "wide.*", True),
    ("registries", "wide.*", False),  # anybody can have such a name
    ("registries", "*.inside.test", True),
    ("registries", REGISTRY, True),
    ("deny", "*.inside.test", False),
    ("deny", REGISTRY, False),
]


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("private, rule, reached", RULES, ids=str)
def test_registries_by_every_way(
    start_proxy: StartProxy,
    start_origin: StartOrigin,
    tmp_path: Path,
    private: str,
    rule: str,
    reached: bool,
) -> None:
    """A name that stands for a private address, by CONNECT, as a mirror, by HTTP_PROXY and by DNS."""
    inside = start_origin(REGISTRY, address=(INSIDE, 443))
    inside.on(PATH, Answer(b"{}", 404))
    names, transparent = SimulatedNames(tmp_path / "names"), free_address()
    names.tell(REGISTRY, INSIDE)
    proxy = start_proxy(
        registries=(rule,),
        REGPROXY_PRIVATE_TARGETS=private,
        REGPROXY_TRANSPARENT_LISTEN="{}:{}".format(*transparent),
        **names.env,
    )
    for way in WAYS:
        for method in ("GET", "HEAD"):
            client, path = way(proxy, REGISTRY, transparent)
            with client:
                reply = client.request(method, path)
                assert reply.status == (404 if reached else 403), way
                if not reached and method == "GET":
                    assert f"REGPROXY_PRIVATE_TARGETS is {private}" in message(reply)
    # Of all that was asked, nothing has left: the connections that came are those that were to.
    assert bool(inside.connections) is reached
    assert bool(inside.requests) is reached


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_name_that_is_rebound(
    start_proxy: StartProxy, start_origin: StartOrigin, tmp_path: Path, inside: Origin
) -> None:
    """Tunnels to a name that is public when it is first asked for, and private later."""
    outside = start_origin("app.test", address=(OUTSIDE, inside.port))
    outside.on("/x", Answer(b"outside"))
    names = SimulatedNames(tmp_path / "names")
    names.tell("app.test", OUTSIDE)
    proxy = start_proxy(registries=("reg.test",), REGPROXY_CONNECT_PORTS=str(inside.port), **names.env)

    def status() -> int:
        with Client.connect(proxy.address) as client:
            return client.connect_to(f"app.test:{inside.port}").status

    assert status() == 200
    names.tell("app.test", INSIDE)
    # What is remembered is used until it is known that the name has moved.
    wait_until(lambda: status() == 403, "the new address is known")
    assert outside.connections > 0
    assert inside.connections == 0
