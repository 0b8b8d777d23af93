"""Mirrors: who is asked first, what of, with what, and when the registry itself is asked after all."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, Script, blob_answer, redirect
from tests.support.processes import free_address
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.trust import Trust
from tests.support.virtual_hosts import VirtualHosts

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Pull = Callable[..., Reply]

TYPE = "application/vnd.oci.image.manifest.v1+json"
TAG = "/v2/app/manifests/latest"
HUB = "/hub/docker.io"
PRIVATE = {"Authorization": "Bearer the-clients-own", "Cookie": "a=b", "Accept": TYPE}


class Content:
    """A blob and a manifest that no other test has: what one proxy holds, it asks nobody for."""

    def __init__(self, seed: str) -> None:
        self.body = random.Random(seed).randbytes(300_000)
        self.digest = digest_of(self.body)
        self.blob = f"/v2/app/blobs/{self.digest}"
        named = {"schemaVersion": 2, "mediaType": TYPE, "layers": [], "annotations": {"test": seed}}
        self.manifest = json.dumps(named).encode()
        digest = digest_of(self.manifest)
        headers = {"Content-Type": TYPE, "Docker-Content-Digest": digest}
        self.tagged = Answer(self.manifest, headers=headers, ranges=False)
        self.paths = {"blob": self.blob, "manifest": f"/v2/app/manifests/{digest}", "tag": TAG}

    def fill(self, origin: Origin, prefix: str = "") -> Origin:
        """Have an origin serve it below a prefix."""
        origin.on(prefix + self.blob, blob_answer(self.digest, self.body))
        origin.on(prefix + TAG, self.tagged)
        return origin


@pytest.fixture
def content(request: pytest.FixtureRequest) -> Content:
    return Content(request.node.nodeid)


@dataclass(frozen=True)
class Mirrored:
    """Registries and their mirrors, number by number; `cdns` are where these may redirect."""

    registries: VirtualHosts
    mirrors: VirtualHosts
    cdns: VirtualHosts
    proxies: Proxies
    prefix: str


@pytest.fixture(scope="module", params=["", HUB])
def mirrored(
    request: pytest.FixtureRequest, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mirrored]:
    """Each registry has one mirror, at this path."""
    config = tmp_path_factory.mktemp("mirrors") / "regproxy.toml"
    with ExitStack() as stack:
        registries, mirrors, cdns = (
            stack.enter_context(VirtualHosts(trust, kind, 50)) for kind in ("reg", "mirror", "cdn")
        )
        config.write_text(
            "".join(
                f'[origin."{name}:{registries.port}"]\nmirrors = ["https://{mirror}:{mirrors.port}{request.param}"]\n'
                for name, mirror in zip(registries.names, mirrors.names, strict=True)
            )
        )
        proxies = Proxies(
            tmp_path_factory,
            trust,
            *(registries, mirrors, cdns),
            registries=tuple(f"{name}:{registries.port}" for name in registries.names),
            REGPROXY_CONFIG=str(config),
            REGPROXY_ALLOW_TARGETS="",
        )
        yield Mirrored(registries, mirrors, cdns, stack.enter_context(proxies), request.param)


# For tests of a mirror that has no path.
no_path = pytest.mark.parametrize("mirrored", [""], indirect=True, scope="module", ids=["no path"])


@dataclass(frozen=True)
class Pair:
    """A registry that has the content, and its mirror, both the test's own."""

    registry: Origin
    mirror: Origin


@pytest.fixture
def pair(mirrored: Mirrored, content: Content) -> Pair:
    return Pair(content.fill(mirrored.registries.new()), mirrored.mirrors.new())


@pytest.fixture
def registry(start_origin: StartOrigin, content: Content) -> Origin:
    return content.fill(start_origin("reg.test"))


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
def pull(stack: ExitStack, content: Content) -> Pull:
    """Ask for the blob, or something else: `pull(proxy, registry)`."""

    def ask(proxy: Proxy, registry: Origin, path: str = content.blob, method: str = "GET") -> Reply:
        client: Client = stack.enter_context(proxy.client(registry.authority))
        return client.request(method, path, PRIVATE)

    return ask


@pytest.mark.parametrize("what, method", [("blob", "GET"), ("blob", "HEAD"), ("tag", "GET"), ("tag", "HEAD")])
def test_a_mirror_has_it(
    what: str, method: str, mirrored: Mirrored, pair: Pair, content: Content, pull: Pull
) -> None:
    content.fill(pair.mirror, mirrored.prefix)
    logins = " ".join(f"{name}:u:p" for name in mirrored.registries.names)
    proxy = mirrored.proxies(AUTH_REGISTRIES=logins)
    path = content.paths[what]
    assert pull(proxy, pair.registry, path, method).status == 200
    (seen,) = pair.mirror.requests
    assert (seen.method, seen.path, seen.get("host")) == (
        method,
        mirrored.prefix + path,
        pair.mirror.authority,
    )
    # Neither the client's nor the registry's credentials are any business of a mirror's.
    assert (seen.get("authorization"), seen.get("cookie")) == (None, None)
    assert pair.registry.requests == []


def test_a_mirrors_own_credentials(
    start: StartProxy, mirror: Origin, registry: Origin, content: Content, pull: Pull
) -> None:
    content.fill(mirror)
    assert pull(start([mirror.url], mirror, AUTH_REGISTRIES="mirror.test:m:q"), registry).status == 200
    assert mirror.requests[0].get("authorization") == "Basic bTpx"


def test_a_plain_mirror(
    start: StartProxy, start_origin: StartOrigin, registry: Origin, content: Content, pull: Pull
) -> None:
    plain = content.fill(start_origin("plain.test", tls=False))
    assert pull(start([plain.url], plain), registry).digest == content.digest
    assert registry.requests == []


@no_path
def test_a_mirrors_redirect(mirrored: Mirrored, pair: Pair, content: Content, pull: Pull) -> None:
    cdn = mirrored.cdns.new()
    cdn.on("/kept", blob_answer(content.digest, content.body))
    pair.mirror.on(content.blob, redirect(f"{cdn.url}/kept", 307))
    assert pull(mirrored.proxies(), pair.registry).digest == content.digest
    assert pair.registry.requests == []


OTHERWISE: dict[str, Script] = {
    "404": Answer(b"{}", 404),
    "401": Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="mirror"'}),
    "429": Answer(b"{}", 429, {"Retry-After": "60"}),
    "500": Answer(b"", 500),
    "nothing": Answer(cut_at=-1),
    "a reset": Answer(cut_at=-1, cut=End.RST),
    "nonsense": Answer(raw=b"SSH-2.0-x\r\n\r\n"),
    "a redirect to plain HTTP": lambda seen: redirect(f"http://{seen.server_name}/x", 307),
    "too many redirects": redirect("/v2/app/again", 307),
}


@no_path
@pytest.mark.parametrize("name", OTHERWISE)
def test_the_registry_has_it(name: str, mirrored: Mirrored, pair: Pair, content: Content, pull: Pull) -> None:
    pair.mirror.on("/v2/app/*", OTHERWISE[name])
    proxy = mirrored.proxies()
    reply = pull(proxy, pair.registry)
    assert (reply.status, reply.digest) == (200, content.digest)
    assert pair.mirror.requests
    assert pair.registry.requests[0].get("authorization") == PRIVATE["Authorization"]
    assert pull(proxy, pair.registry, TAG).body == content.manifest


def test_mirrors_in_their_order(
    start: StartProxy,
    start_origin: StartOrigin,
    mirror: Origin,
    registry: Origin,
    content: Content,
    pull: Pull,
) -> None:
    host, port = free_address()
    last = content.fill(start_origin("last.test"))
    proxy = start([f"https://{host}:{port}", mirror.url, last.url], mirror, last)
    assert pull(proxy, registry).digest == content.digest
    assert (mirror.hits[content.blob], last.hits[content.blob], registry.requests) == (1, 1, [])


def test_a_mirror_that_is_not_trusted(
    start: StartProxy, mirror: Origin, registry: Origin, content: Content, pull: Pull
) -> None:
    more = f'[origin."{mirror.authority}"]\naddress = "{registry.address[0]}"\nport = {registry.port}\n'
    assert pull(start([mirror.url], more=more), registry).digest == content.digest
    assert {seen.get("host") for seen in registry.requests} == {registry.authority}


def test_what_is_the_registrys_alone(
    start: StartProxy, mirror: Origin, registry: Origin, content: Content, stack: ExitStack
) -> None:
    mirror.on("/*", Answer(b"the mirror's"))
    registry.on("/*", Answer(b"the registry's"))
    proxy = start([mirror.url], mirror, ALLOW_PUSH="true")
    client: Client = stack.enter_context(proxy.client(registry.authority))
    for path in ("/v2/", "/v2/app/tags/list", f"/v2/app/referrers/{content.digest}", "/token?service=x"):
        assert client.get(path).body == b"the registry's"
    assert client.request("POST", "/v2/app/blobs/uploads/", body=b"").body == b"the registry's"
    assert client.request("PUT", "/v2/app/manifests/new", body=content.manifest).body == b"the registry's"
    assert client.request("DELETE", "/v2/app/manifests/new").body == b"the registry's"
    assert mirror.requests == []


@no_path
@pytest.mark.parametrize("what", ["blob", "manifest", "tag"])
@pytest.mark.parametrize("told", [False, True], ids=["itself", "where it redirects"])
def test_a_mirror_that_says_nothing(
    told: bool, what: str, mirrored: Mirrored, pair: Pair, content: Content, pull: Pull
) -> None:
    """The time that content may take to begin is the registry's: there is no other place behind that."""
    go, path = threading.Event(), content.paths[what]
    silent = Answer(hold_at=-1, hold=go)
    pair.mirror.on(path, redirect(f"{pair.mirror.url}/kept") if told else silent)
    pair.mirror.on("/kept", silent)
    answer = blob_answer(content.digest, content.body) if what == "blob" else content.tagged
    pair.registry.on(path, answer)
    env = {"PROXY_READ_TIMEOUT": "1s", "REGPROXY_FIRST_BYTE_TIMEOUT": "900s"}
    try:
        reply = pull(mirrored.proxies(**env), pair.registry, path)
    finally:
        go.set()
    assert (reply.status, reply.body) == (200, answer.body)


@no_path
def test_what_a_mirror_has_cut(mirrored: Mirrored, pair: Pair, content: Content, pull: Pull) -> None:
    pair.mirror.on(content.blob, Answer(content.body, cut_at=100_000))
    reply = pull(mirrored.proxies(), pair.registry)
    assert (reply.status, reply.digest) == (200, content.digest)


@no_path
def test_a_mirror_that_sends_something_else(
    mirrored: Mirrored, pair: Pair, content: Content, pull: Pull
) -> None:
    """Who was first has seen some of it; everybody else gets the registry's."""
    pair.mirror.on(content.blob, blob_answer(content.digest, content.body, wrong_at=1000))
    proxy = mirrored.proxies()
    assert not pull(proxy, pair.registry).complete
    assert f"{pair.mirror.name} sent" in proxy.log()
    assert pull(proxy, pair.registry).digest == content.digest
    assert (pair.mirror.hits[content.blob], pair.registry.hits[content.blob]) == (1, 1)
