"""Mirrors: who is asked first, what of, with what, and when the registry itself is asked after all."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.processes import free_address
from tests.support.proxy import Proxy

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Pull = Callable[..., Reply]

BODY = random.Random("mirrors").randbytes(300_000)
DIGEST = digest_of(BODY)
BLOB = f"/v2/app/blobs/{DIGEST}"
TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": TYPE, "layers": []}).encode()
TAG = "/v2/app/manifests/latest"
TAGGED = Answer(
    MANIFEST, headers={"Content-Type": TYPE, "Docker-Content-Digest": digest_of(MANIFEST)}, ranges=False
)
PRIVATE = {"Authorization": "Bearer the-clients-own", "Cookie": "a=b", "Accept": TYPE}


@pytest.fixture
def registry(start_origin: StartOrigin) -> Origin:
    return filled(start_origin("reg.test"))


@pytest.fixture
def mirror(start_origin: StartOrigin) -> Origin:
    return start_origin("mirror.test")


@pytest.fixture
def start(start_proxy: StartProxy, registry: Origin, tmp_path: Path) -> StartProxy:
    """Start a proxy whose registry has these mirrors: `start([url, ...], origins..., VAR="value")`."""

    def run(urls: list[str], *known: Origin, more: str = "", **env: str) -> Proxy:
        path = tmp_path / "regproxy.toml"
        path.write_text(f'[origin."{registry.authority}"]\nmirrors = {json.dumps(urls)}\n{more}')
        resolve = " ".join(f"{origin.name}={origin.address[0]}" for origin in known)
        names = f"{registry.name}={registry.address[0]} {resolve}"
        return start_proxy(
            registries=(registry.authority,), REGPROXY_CONFIG=str(path), REGPROXY_RESOLVE=names, **env
        )

    return run


@pytest.fixture
def pull(stack: ExitStack, registry: Origin) -> Pull:
    def ask(proxy: Proxy, path: str = BLOB, method: str = "GET") -> Reply:
        client: Client = stack.enter_context(proxy.client(registry.authority))
        return client.request(method, path, PRIVATE)

    return ask


def filled(origin: Origin, prefix: str = "") -> Origin:
    origin.on(prefix + BLOB, blob_answer(DIGEST, BODY))
    origin.on(prefix + TAG, TAGGED)
    return origin


@pytest.mark.parametrize("prefix", ["", "/hub/docker.io"])
@pytest.mark.parametrize("path, method", [(BLOB, "GET"), (BLOB, "HEAD"), (TAG, "GET"), (TAG, "HEAD")])
def test_a_mirror_has_it(
    path: str, method: str, prefix: str, start: StartProxy, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    filled(mirror, prefix)
    proxy = start([mirror.url + prefix], mirror, AUTH_REGISTRIES="reg.test:u:p")
    assert pull(proxy, path, method).status == 200
    (seen,) = mirror.requests
    assert (seen.method, seen.path, seen.get("host")) == (method, prefix + path, mirror.authority)
    # Neither the client's nor the registry's credentials are any business of a mirror's.
    assert (seen.get("authorization"), seen.get("cookie")) == (None, None)
    assert registry.requests == []


def test_a_mirrors_own_credentials(start: StartProxy, mirror: Origin, pull: Pull) -> None:
    filled(mirror)
    assert pull(start([mirror.url], mirror, AUTH_REGISTRIES="mirror.test:m:q")).status == 200
    assert mirror.requests[0].get("authorization") == "Basic bTpx"


def test_a_plain_mirror(start: StartProxy, start_origin: StartOrigin, registry: Origin, pull: Pull) -> None:
    plain = filled(start_origin("plain.test", tls=False))
    assert pull(start([plain.url], plain)).digest == DIGEST
    assert registry.requests == []


def test_a_mirrors_redirect(
    start: StartProxy, start_origin: StartOrigin, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    cdn = start_origin("cdn.test")
    cdn.on("/kept", blob_answer(DIGEST, BODY))
    mirror.on(BLOB, redirect(f"{cdn.url}/kept", 307))
    assert pull(start([mirror.url], mirror, cdn)).digest == DIGEST
    assert registry.requests == []


OTHERWISE = {
    "404": Answer(b"{}", 404),
    "401": Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="mirror"'}),
    "429": Answer(b"{}", 429, {"Retry-After": "60"}),
    "500": Answer(b"", 500),
    "nothing": Answer(cut_at=-1),
    "a reset": Answer(cut_at=-1, cut=End.RST),
    "nonsense": Answer(raw=b"SSH-2.0-x\r\n\r\n"),
    "a redirect to plain HTTP": redirect("http://mirror.test/x", 307),
    "too many redirects": redirect(BLOB, 307),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_the_registry_has_it(
    name: str, start: StartProxy, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    mirror.on("/v2/app/*", OTHERWISE[name])
    proxy = start([mirror.url], mirror)
    reply = pull(proxy)
    assert (reply.status, reply.digest) == (200, DIGEST)
    assert mirror.requests
    assert registry.requests[0].get("authorization") == PRIVATE["Authorization"]
    assert pull(proxy, TAG).body == MANIFEST


def test_mirrors_in_their_order(
    start: StartProxy, start_origin: StartOrigin, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    host, port = free_address()
    last = filled(start_origin("last.test"))
    proxy = start([f"https://{host}:{port}", mirror.url, last.url], mirror, last)
    assert pull(proxy).digest == DIGEST
    assert (mirror.hits[BLOB], last.hits[BLOB], registry.requests) == (1, 1, [])


def test_a_mirror_that_is_not_trusted(
    start: StartProxy, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    more = f'[origin."{mirror.authority}"]\naddress = "{registry.address[0]}"\nport = {registry.port}\n'
    assert pull(start([mirror.url], more=more)).digest == DIGEST
    assert {seen.get("host") for seen in registry.requests} == {registry.authority}


def test_what_is_the_registrys_alone(
    start: StartProxy, mirror: Origin, registry: Origin, stack: ExitStack
) -> None:
    mirror.on("/*", Answer(b"the mirror's"))
    registry.on("/*", Answer(b"the registry's"))
    proxy = start([mirror.url], mirror, ALLOW_PUSH="true")
    client: Client = stack.enter_context(proxy.client(registry.authority))
    for path in ("/v2/", "/v2/app/tags/list", f"/v2/app/referrers/{DIGEST}", "/token?service=x"):
        assert client.get(path).body == b"the registry's"
    assert client.request("POST", "/v2/app/blobs/uploads/", body=b"").body == b"the registry's"
    assert client.request("PUT", "/v2/app/manifests/new", body=MANIFEST).body == b"the registry's"
    assert client.request("DELETE", "/v2/app/manifests/new").body == b"the registry's"
    assert mirror.requests == []


@pytest.mark.parametrize("path", [BLOB, f"/v2/app/manifests/{digest_of(MANIFEST)}", TAG])
@pytest.mark.parametrize("told", [False, True], ids=["itself", "where it redirects"])
def test_a_mirror_that_says_nothing(
    told: bool, path: str, start: StartProxy, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    """The time that content may take to begin is the registry's: there is no other place behind that."""
    go = threading.Event()
    silent = Answer(hold_at=-1, hold=go)
    mirror.on(path, redirect(f"{mirror.url}/kept") if told else silent)
    mirror.on("/kept", silent)
    answer = blob_answer(DIGEST, BODY) if path == BLOB else TAGGED
    registry.on(path, answer)
    env = {"PROXY_READ_TIMEOUT": "1s", "REGPROXY_FIRST_BYTE_TIMEOUT": "900s"}
    try:
        reply = pull(start([mirror.url], mirror, **env), path)
    finally:
        go.set()
    assert (reply.status, reply.body) == (200, answer.body)


def test_what_a_mirror_has_cut(start: StartProxy, mirror: Origin, registry: Origin, pull: Pull) -> None:
    mirror.on(BLOB, Answer(BODY, cut_at=100_000))
    reply = pull(start([mirror.url], mirror))
    assert (reply.status, reply.digest) == (200, DIGEST)


def test_a_mirror_that_sends_something_else(
    start: StartProxy, mirror: Origin, registry: Origin, pull: Pull
) -> None:
    """Who was first has seen some of it; everybody else gets the registry's."""
    mirror.on(BLOB, blob_answer(DIGEST, BODY, wrong_at=1000))
    proxy = start([mirror.url], mirror)
    assert not pull(proxy).complete
    assert "mirror.test sent" in proxy.log()
    assert pull(proxy).digest == DIGEST
    assert (mirror.hits[BLOB], registry.hits[BLOB]) == (1, 1)
