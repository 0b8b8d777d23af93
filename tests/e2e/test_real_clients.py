"""Real clients through the proxy to a real registry: skopeo, podman, docker-registry over TLS."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.docker_registry import Logged, Registry, blob_cdn
from tests.support.images import Image, Index, make_image, make_index, write_layout
from tests.support.known_addresses import KnownAddresses
from tests.support.origin import Answer, Origin
from tests.support.processes import free_address
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.real_clients import Failed, Podman, Skopeo
from tests.support.token_server import TokenServer
from tests.support.trust import Trust

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
StartRegistry = Callable[..., Registry]
StartTokens = Callable[..., TokenServer]
MakeSkopeo = Callable[[Proxy], Skopeo]

NOT_TRUSTED = "x509: certificate signed by unknown authority"

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("skopeo", "docker-registry")
]
needs_podman = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")


SEEDS = itertools.count(8000)


@pytest.fixture
def image() -> Image:
    """An image that no test had before, as no proxy here has it."""
    return make_image(seed=next(SEEDS))


@pytest.fixture
def start_registry(start_registry: StartRegistry, addresses: KnownAddresses) -> StartRegistry:
    """Start a registry; reg.test is at an address that the proxies in `shared` know."""

    def start(name: str = "reg.test", **options: Any) -> Registry:
        known = {"address": addresses.take()} if name == "reg.test" else {}
        return start_registry(name, **known, **options)

    return start


@pytest.fixture
def skopeo(tmp_path: Path) -> MakeSkopeo:
    """Return skopeo with a home that is new, told of a proxy and of that proxy's CA alone."""

    def make(proxy: Proxy) -> Skopeo:
        place = tmp_path / f"skopeo-{len(list(tmp_path.glob('skopeo-*')))}"
        return Skopeo(place, proxy=proxy.url, ca=proxy.ca_path)

    return make


def content(lines: list[Logged]) -> list[tuple[str, str]]:
    """Return the requests for blobs, and for manifests by digest: what a cache has to save."""
    return [(line.method, line.path) for line in lines if "/blobs/" in line.path or "sha256:" in line.path]


def tags(lines: list[Logged]) -> list[tuple[str, str]]:
    """Return the requests for manifests by tag."""
    return [
        (line.method, line.path)
        for line in lines
        if "/manifests/" in line.path and "sha256:" not in line.path
    ]


def sizes(image: Image | Index) -> dict[str, int]:
    """Return what the store has to hold of an image."""
    manifests = {child.digest: len(child.manifest) for child in (image, *image.images)}
    return manifests | {digest: len(body) for digest, body in image.blobs.items()}


def stored(proxy: Proxy, held: Collection[str]) -> dict[str, int]:
    """Return what is in the store beside what was held."""
    return {digest: size for digest, size in proxy.blobs().items() if digest not in held}


@pytest.mark.parametrize("auth", ["open", "htpasswd", "token"])
def test_a_second_pull_asks_for_no_content(
    auth: str,
    start_registry: StartRegistry,
    start_tokens: StartTokens,
    start_proxy: StartProxy,
    shared: Proxies,
    skopeo: MakeSkopeo,
    image: Image,
) -> None:
    tokens = start_tokens(users={"u": "p"}, private=("team/app",)) if auth == "token" else None
    creds = None if auth == "open" else "u:p"
    registry = start_registry(tokens=tokens, users={"u": "p"} if auth == "htpasswd" else None)
    target = registry.push("team/app", "v1", image, creds=creds)
    names = [tokens.origin.authority] if tokens else []
    proxy = start_proxy(registry, registries=(registry.authority, *names)) if tokens else shared()
    before = len(registry.requests())

    cold = skopeo(proxy).copy(target, creds=creds)
    assert (cold.manifest, set(cold.blobs)) == (image.manifest, set(image.blobs))
    asked = registry.requests()[before:]
    assert sorted(content(asked)) == sorted(("GET", f"/v2/team/app/blobs/{digest}") for digest in image.blobs)
    assert proxy.blobs().items() >= sizes(image).items()
    assert not [part for part in proxy.parts() if any(digest[7:] in part.name for digest in sizes(image))]

    before += len(asked)
    warm = skopeo(proxy).copy(target, creds=creds)
    assert warm == cold
    asked = registry.requests()[before:]
    assert content(asked) == []
    assert len(tags(asked)) == 1  # ENABLE_MANIFEST_CACHE is off: the tag is asked for each time


def test_a_pull_by_digest_is_the_registrys_once(
    start_registry: StartRegistry, shared: Proxies, skopeo: MakeSkopeo, image: Image
) -> None:
    registry = start_registry()
    registry.push("app", "v1", image)
    proxy = shared()
    target = f"{registry.authority}/app@{image.digest}"
    before = len(registry.requests())
    assert skopeo(proxy).copy(target).digest == image.digest
    assert content(registry.requests()[before:])[0] == ("GET", f"/v2/app/manifests/{image.digest}")
    before = len(registry.requests())
    assert skopeo(proxy).copy(target).digest == image.digest
    assert content(registry.requests()[before:]) == []


def test_every_platform(start_registry: StartRegistry, shared: Proxies, skopeo: MakeSkopeo) -> None:
    registry, index = start_registry(), make_index(size=100_000, seed=next(SEEDS))
    target = registry.push("multi", "v1", index)
    proxy = shared(ENABLE_MANIFEST_CACHE="true")
    before, held = len(registry.requests()), proxy.blobs().keys()
    one = skopeo(proxy).copy(target)
    assert one.digest == index.images[0].digest
    pulled = skopeo(proxy).copy(target, every=True)
    assert (pulled.digest, set(pulled.blobs)) == (index.digest, set(index.blobs))
    assert set(pulled.children) == {image.digest for image in index.images}
    assert json.loads(skopeo(proxy).inspect(target, raw=True)) == json.loads(index.manifest)
    lines = registry.requests()[before:]
    gets = [
        line.path
        for line in lines
        if line.method == "GET" and ("/blobs/" in line.path or "/manifests/" in line.path)
    ]
    assert len(gets) == len(set(gets)) == 1 + 2 + len(index.blobs)
    assert stored(proxy, held) == sizes(index)


def test_the_proxy_has_the_credentials(
    start_registry: StartRegistry, shared: Proxies, start_proxy: StartProxy, skopeo: MakeSkopeo, image: Image
) -> None:
    registry = start_registry(users={"u": "pass:word"})
    target = registry.push("app", "v1", image)
    with pytest.raises(Failed, match=r"unauthorized|authentication required"):
        skopeo(shared()).copy(target)
    entry = f"{registry.name}:::u:::pass:word"
    proxy = start_proxy(registry, AUTH_REGISTRIES=entry, AUTH_REGISTRY_DELIMITER=":::")
    assert skopeo(proxy).copy(target).digest == image.digest
    assert "pass:word" not in proxy.log()


def test_the_credentials_of_a_token_server(
    start_registry: StartRegistry,
    start_tokens: StartTokens,
    start_proxy: StartProxy,
    skopeo: MakeSkopeo,
    image: Image,
) -> None:
    """The pair belongs to the host that hands out tokens, as with Docker Hub."""
    tokens = start_tokens(name="auth.corp.test", users={"u": "p"}, private=("app",))
    registry = start_registry("reg.corp.test", tokens=tokens)
    target = registry.push("app", "v1", image, creds="u:p")
    before = len(tokens.requests)
    names = (registry.authority, tokens.origin.authority)
    proxy = start_proxy(registry, registries=names, AUTH_REGISTRIES=f"{tokens.origin.name}:u:p")
    assert skopeo(proxy).copy(target).digest == image.digest
    asked = tokens.requests[before:]
    assert asked
    assert {(seen.get("authorization") or "").partition(" ")[0] for seen in asked} == {"Basic"}


def test_blobs_on_a_cdn(
    start_registry: StartRegistry,
    start_proxy: StartProxy,
    skopeo: MakeSkopeo,
    trust: Trust,
    tmp_path: Path,
    image: Image,
) -> None:
    """The proxy goes there itself; no Authorization of the client or of the configuration goes along."""
    with blob_cdn(trust, tmp_path / "storage") as cdn:
        registry = start_registry(storage=tmp_path / "storage", cdn=cdn, users={"u": "p"})
        target = registry.push("app", "v1", image)
        pushed = len(cdn.requests)
        own = f"{registry.name}:u:p {cdn.name}:x:y"
        for credentials, creds in ((own, None), ("", "u:p")):
            proxy = start_proxy(registry, cdn, registries=(registry.authority,), AUTH_REGISTRIES=credentials)
            before = len(cdn.requests)
            assert skopeo(proxy).copy(target, creds=creds).digest == image.digest
            assert len(cdn.requests) - before == len(image.blobs)
            before = len(registry.requests())
            assert skopeo(proxy).copy(target, creds=creds).digest == image.digest
            assert content(registry.requests()[before:]) == []
            assert proxy.blobs() == sizes(image)
        asked = cdn.requests[pushed:]
        assert len(asked) == 2 * len(image.blobs)
        assert all(seen.get("authorization") is None and seen.get("cookie") is None for seen in asked)


def test_one_blob_of_two_repositories_is_one_file(
    start_registry: StartRegistry, shared: Proxies, skopeo: MakeSkopeo, image: Image
) -> None:
    registry = start_registry()
    targets = [registry.push(name, "v1", image) for name in ("one/app", "two/app")]
    proxy = shared()
    before, held = len(registry.requests()), proxy.blobs().keys()
    for target in targets:
        assert skopeo(proxy).copy(target).digest == image.digest
    gets = [path for method, path in content(registry.requests()[before:]) if method == "GET"]
    assert sorted(gets) == sorted(f"/v2/one/app/blobs/{digest}" for digest in image.blobs)
    assert stored(proxy, held) == sizes(image)


def test_one_path_on_two_registries_is_two_answers(
    start_registry: StartRegistry, start_proxy: StartProxy, skopeo: MakeSkopeo
) -> None:
    registries = [start_registry("one.test"), start_registry("two.test")]
    images = [make_image(size=50_000, seed=seed) for seed in (1, 2)]
    targets = [registry.push("app", "v1", image) for registry, image in zip(registries, images, strict=True)]
    proxy = start_proxy(*registries, ENABLE_MANIFEST_CACHE="true")
    for _ in range(2):
        got = [skopeo(proxy).copy(target).digest for target in targets]
        assert got == [image.digest for image in images]


def test_one_host_with_two_ports_is_two_registries(
    start_origin: StartOrigin, start_proxy: StartProxy, skopeo: MakeSkopeo
) -> None:
    first = start_origin("same.test")
    second = start_origin("same.test", address=free_address(first.address[0]))
    images = [make_image(size=50_000, seed=seed) for seed in (1, 2)]
    for origin, image in zip((first, second), images, strict=True):
        origin.publish("app", image, "v1")
    proxy = start_proxy(first, second, ENABLE_MANIFEST_CACHE="true")
    for _ in range(2):
        got = [skopeo(proxy).copy(f"{origin.authority}/app:v1").digest for origin in (first, second)]
        assert got == [image.digest for image in images]


@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_registry_that_is_down(
    cached: str, start_registry: StartRegistry, shared: Proxies, skopeo: MakeSkopeo, image: Image
) -> None:
    registry = start_registry()
    target = registry.push("app", "v1", image)
    proxy = shared(ENABLE_MANIFEST_CACHE=cached)
    assert skopeo(proxy).copy(target).digest == image.digest
    registry.stop()
    assert skopeo(proxy).copy(target).digest == image.digest
    with pytest.raises(Failed):
        skopeo(proxy).copy(f"{registry.authority}/app:v2")


def test_a_moved_tag_is_seen_at_once_when_manifests_are_not_cached(
    start_registry: StartRegistry, shared: Proxies, skopeo: MakeSkopeo
) -> None:
    registry = start_registry()
    first, second = (make_image(size=50_000, seed=next(SEEDS)) for _ in range(2))
    target = registry.push("app", "v1", first)
    plain, caching = shared(), shared(ENABLE_MANIFEST_CACHE="true")
    assert {skopeo(proxy).copy(target).digest for proxy in (plain, caching)} == {first.digest}
    registry.push("app", "v1", second)
    assert skopeo(plain).copy(target).digest == second.digest
    assert skopeo(caching).copy(target).digest == first.digest


def test_what_is_kept_outlives_the_proxy(
    start_registry: StartRegistry, start_proxy: StartProxy, skopeo: MakeSkopeo, image: Image
) -> None:
    registry = start_registry()
    target = registry.push("app", "v1", image)
    proxy = start_proxy(registry, ENABLE_MANIFEST_CACHE="true")
    assert skopeo(proxy).copy(target).digest == image.digest
    ca = proxy.ca_pem
    assert proxy.stop() == 0, proxy.log()
    proxy = start_proxy(registry, at=proxy.directory, ENABLE_MANIFEST_CACHE="true")
    assert proxy.ca_pem == ca
    before = len(registry.requests())
    assert skopeo(proxy).copy(target).digest == image.digest
    asked = registry.requests()[before:]
    assert (content(asked), tags(asked)) == ([], [])


@needs_podman
def test_podman(start_registry: StartRegistry, shared: Proxies, image: Image) -> None:
    registry = start_registry()
    target = registry.push("team/app", "v1", image)
    proxy = shared()
    counts = []
    for _ in range(2):
        before = len(registry.requests())
        with Podman(proxy=proxy.url, ca=proxy.ca_path) as podman:
            assert podman.pull(target) == image.config_digest.partition(":")[2]
            assert [entry["Digest"] for entry in podman.images()] == [image.digest]
        counts.append(len(content(registry.requests()[before:])))
    assert counts == [len(image.blobs), 0]
    with Podman(proxy=proxy.url, ca=None) as nobody, pytest.raises(Failed, match=NOT_TRUSTED):
        nobody.pull(target)


def test_a_client_without_the_ca_fails(
    start_registry: StartRegistry, start_proxy: StartProxy, trust: Trust, tmp_path: Path, image: Image
) -> None:
    """Also one that trusts the registry's own CA: it would notice if it were tunnelled."""
    registry = start_registry()
    target = registry.push("app", "v1", image)
    proxy = start_proxy(registry)
    for number, ca in enumerate((None, trust.path)):
        with pytest.raises(Failed, match=NOT_TRUSTED):
            Skopeo(tmp_path / f"nobody-{number}", proxy=proxy.url, ca=ca).copy(target)
    assert proxy.log().count("the client does not trust this proxy's CA") == 1


def test_a_host_that_is_not_intercepted_is_tunnelled(
    start_registry: StartRegistry, start_proxy: StartProxy, trust: Trust, tmp_path: Path, image: Image
) -> None:
    registry = start_registry()
    target = registry.push("app", "v1", image)
    ports = start_proxy(registry, registries=(), REGPROXY_CONNECT_PORTS=f"443 {registry.port}")
    named = start_proxy(registry, registries=(), REGPROXY_ALLOW_TARGETS=registry.authority)
    for number, proxy in enumerate((ports, named)):
        client = Skopeo(tmp_path / f"tunnelled-{number}", proxy=proxy.url, ca=trust.path)
        assert client.copy(target).digest == image.digest
        assert proxy.blobs() == {}
        with pytest.raises(Failed, match=NOT_TRUSTED):
            Skopeo(tmp_path / f"mistaken-{number}", proxy=proxy.url, ca=proxy.ca_path).copy(target)
    closed = start_proxy(registry, registries=())
    with pytest.raises(Failed, match="Forbidden"):
        Skopeo(tmp_path / "refused", proxy=closed.url, ca=trust.path).copy(target)


@pytest.mark.parametrize("auth", ["open", "htpasswd"])
def test_pushes(
    auth: str, start_registry: StartRegistry, shared: Proxies, tmp_path: Path, skopeo: MakeSkopeo
) -> None:
    users = {"u": "p"} if auth == "htpasswd" else None
    creds = "u:p" if users else None
    registry = start_registry(users=users)
    first, second = (make_image(size=3_000_000, seed=next(SEEDS)) for _ in range(2))
    target = registry.push("app", "v1", first)
    layout = write_layout(tmp_path / "layout", {"v1": second})
    pulls = shared()
    with pytest.raises(Failed, match="POST is not allowed"):
        skopeo(pulls).push(layout, "v1", target, creds=creds)
    proxy = shared(ALLOW_PUSH="true", ENABLE_MANIFEST_CACHE="true")
    assert skopeo(proxy).copy(target, creds=creds).digest == first.digest
    skopeo(proxy).push(layout, "v1", target, creds=creds)
    assert skopeo(proxy).copy(target, creds=creds).digest == second.digest  # a pushed tag is known at once
    assert skopeo(pulls).copy(target, creds=creds).digest == second.digest


def test_a_registry_that_is_not_trusted(
    start_origin: StartOrigin, start_proxy: StartProxy, tmp_path: Path, skopeo: MakeSkopeo, image: Image
) -> None:
    origin = start_origin("reg.test")
    origin.publish("app", image, "v1")
    other = Trust(tmp_path / "other").path
    strict = start_proxy(origin, REGPROXY_UPSTREAM_CA_FILE=str(other))
    with pytest.raises(Failed, match=r"502|Bad Gateway"):
        skopeo(strict).copy(f"{origin.authority}/app:v1")
    assert origin.requests == []
    lax = start_proxy(origin, REGPROXY_UPSTREAM_CA_FILE=str(other), VERIFY_SSL="false")
    assert skopeo(lax).copy(f"{origin.authority}/app:v1").digest == image.digest


def test_a_layer_with_a_wrong_byte(
    start_origin: StartOrigin, addresses: KnownAddresses, shared: Proxies, skopeo: MakeSkopeo, image: Image
) -> None:
    origin = start_origin("reg.test", address=addresses.take())
    origin.publish("app", image, "v1")
    layer = image.layers[0]
    origin.on(f"/v2/app/blobs/{layer}", Answer(image.blobs[layer], wrong_at=77))
    proxy = shared()
    with pytest.raises(Failed):
        skopeo(proxy).copy(f"{origin.authority}/app:v1")
    assert layer not in proxy.blobs()
    origin.on(f"/v2/app/blobs/{layer}", Answer(image.blobs[layer]))
    assert skopeo(proxy).copy(f"{origin.authority}/app:v1").digest == image.digest


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_registry_with_a_port_and_its_token_server(
    workers: str,
    start_registry: StartRegistry,
    start_tokens: StartTokens,
    start_proxy: StartProxy,
    trust: Trust,
    tmp_path: Path,
    image: Image,
) -> None:
    """The pair names host and port, and the registry its token server: nothing else is to be set."""
    tokens = start_tokens(name="auth.reg.test", users={"u": "p"}, private=("app",))
    registry = start_registry("reg.test", tokens=tokens)
    target = registry.push("app", "v1", image, creds="u:p")
    login = f"{registry.authority}:u:p"
    proxy = start_proxy(registry, AUTH_REGISTRIES=login, REGPROXY_WORKERS=workers)
    with proxy.client(registry.authority) as client:
        stranger = Client.connect(proxy.address)
        assert stranger.connect_to(f"auth.reg.test:{tokens.origin.port + 1}").status == 403
        stranger.close()
        assert client.get("/v2/").status == 401
    # Its own certificate is what clients see of it.
    both = tmp_path / "both.pem"
    both.write_bytes(trust.path.read_bytes() + proxy.ca_pem)
    pulled = Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=both).copy(target)
    assert pulled.digest == image.digest


def test_a_port_of_another_site_stays_closed(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Callable[..., Client]
) -> None:
    origin, other = start_origin("reg.test"), free_address()
    realm = f'Bearer realm="https://auth.elsewhere.example:{other[1]}/token",service="s"'
    origin.on("/v2/", Answer(b"{}", 401, {"WWW-Authenticate": realm}))
    proxy = start_proxy(origin)
    assert talk(proxy, origin).get("/v2/").status == 401
    with Client.connect(proxy.address) as client:
        assert client.connect_to(f"auth.elsewhere.example:{other[1]}").status == 403
