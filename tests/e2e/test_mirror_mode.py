"""Clients that take the proxy for a mirror or a registry: plain HTTP on the proxy port, no CONNECT."""

from __future__ import annotations

import itertools
import json
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import MANIFEST, Image, make_image
from tests.support.known_addresses import KnownAddresses
from tests.support.origin import Answer, Origin, Seen, manifest_answer
from tests.support.processes import free_address, wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy, cache_status
from tests.support.real_clients import client_env, run
from tests.support.token_server import TokenServer
from tests.support.trust import Trust

StartProxy = Callable[..., Proxy]
StartRegistry = Callable[..., Registry]
StartOrigin = Callable[..., Origin]

ACCEPT = [("Accept", MANIFEST)]


SEEDS = itertools.count(9000)


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
def connect(stack: ExitStack) -> Callable[[Proxy], Client]:
    """A client of the proxy port, without CONNECT."""
    return lambda proxy: stack.enter_context(Client.connect(proxy.address))


Connect = Callable[[Proxy], Client]


@pytest.fixture(scope="module")
def unreached(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy before a registry that nobody asks."""
    with Proxies(tmp_path_factory, trust, registries=("reg.test",)) as proxies:
        yield proxies()


@pytest.fixture(scope="module")
def _writable(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Origin, Proxy]]:
    with Origin(trust, "reg.test") as origin, Proxies(tmp_path_factory, trust, origin) as proxies:
        yield origin, proxies(ALLOW_PUSH="true")


@pytest.fixture
def writable(_writable: tuple[Origin, Proxy]) -> tuple[Origin, Proxy]:
    """An origin without scripts and requests, and a proxy that lets pushes through to it."""
    _writable[0].forget()
    return _writable


@pytest.fixture(scope="module")
def _hub(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Origin, Proxy]]:
    table = tmp_path_factory.mktemp("hub") / "regproxy.toml"
    env = {"REGPROXY_CONFIG": str(table), "ALLOW_PUSH": "true"}
    with Origin(trust, "registry-1.docker.io") as hub:
        table.write_text(f'[origin."registry-1.docker.io"]\nport = {hub.port}\n')
        with Proxies(tmp_path_factory, trust, hub, registries=(), **env) as proxies:
            yield hub, proxies()


@pytest.fixture
def hub(_hub: tuple[Origin, Proxy]) -> tuple[Origin, Proxy]:
    """Docker Hub without scripts and requests, and a proxy that lets pushes through to it."""
    _hub[0].forget()
    return _hub


@pytest.fixture(scope="module")
def stocked_writable(
    trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Registry, Proxy, Image]]:
    """A registry that has an image as lib/app:v1, and a proxy that lets pushes through to it."""
    image = make_image(seed=7)
    place = tmp_path_factory.mktemp("stocked")
    with Registry(place / "registry", trust) as registry:
        registry.push("lib/app", "v1", image)
        env, names = {"ALLOW_PUSH": "true"}, (registry.authority,)
        with Proxy(place / "proxy", env, registries=names, resolve=registry.resolve, ca=trust.path) as proxy:
            yield registry, proxy, image


def paths(registry: Registry, rest: str, way: str) -> str:
    """The path of `/v2/lib/app/<rest>` by a way of naming the registry."""
    if way == "ns":
        return f"/v2/lib/app/{rest}?ns={registry.authority.replace(':', '%3A')}"
    if way == "absolute":
        return f"http://{registry.authority}/v2/lib/app/{rest}"
    return f"/v2/{registry.authority}/lib/app/{rest}"


WAYS = ["ns", "prefix", "absolute"]


@pytest.mark.parametrize("way", WAYS)
def test_one_store_whatever_the_way_in(
    way: str,
    start_registry: StartRegistry,
    shared: Proxies,
    talk: Callable[..., Client],
    connect: Connect,
    image: Image,
) -> None:
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    proxy = shared(ENABLE_MANIFEST_CACHE="true")
    client = connect(proxy)
    first = client.get(paths(registry, "manifests/v1", way), ACCEPT)
    assert (first.status, first.digest, cache_status(first)) == (
        200,
        image.digest,
        "regproxy; fwd=miss; stored",
    )
    for digest in image.blobs:
        assert client.get(paths(registry, f"blobs/{digest}", way)).digest == digest
    before = registry.requests()
    tunnelled = talk(proxy, registry)
    assert cache_status(tunnelled.get("/v2/lib/app/manifests/v1", ACCEPT)) == "regproxy; hit"
    for digest in image.blobs:
        assert cache_status(tunnelled.get(f"/v2/lib/app/blobs/{digest}")) == "regproxy; hit"
    for other in WAYS:
        assert cache_status(client.get(paths(registry, "manifests/v1", other), ACCEPT)) == "regproxy; hit"
        head = client.request("HEAD", paths(registry, "manifests/v1", other), ACCEPT)
        assert head.get("docker-content-digest") == image.digest
    assert registry.requests() == before


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_ping_is_answered_here(method: str, path: str, unreached: Proxy, connect: Connect) -> None:
    reply = connect(unreached).request(method, path)
    assert (reply.status, reply.get("docker-distribution-api-version")) == (200, "registry/2.0")
    assert reply.get("cache-status") is None  # nothing is stale, and no registry has failed
    named = {"cache": "none", "type": "ping"}
    wait_until(lambda: unreached.metric("regproxy_requests_total", **named) > 0, "it is counted")
    assert unreached.metric("regproxy_requests_total", cache="STALE") == 0


def test_tls_that_clients_try_first_is_logged(unreached: Proxy) -> None:
    """Some do at every pull: once a minute is enough."""
    for _ in range(2):
        with Client.connect(unreached.address) as client, pytest.raises(ssl.SSLError):
            client.start_tls("reg.test", unreached.ca_pem)
    said = [line for line in unreached.log().splitlines() if "TLS on the plain HTTP port" in line]
    assert len(said) == 1 and "WARNING" not in said[0]


@pytest.mark.parametrize("way", ["ns", "prefix"])
def test_the_token_flow_is_the_proxys(
    way: str,
    start_registry: StartRegistry,
    start_tokens: Callable[..., TokenServer],
    start_proxy: StartProxy,
    connect: Connect,
    image: Image,
) -> None:
    tokens = start_tokens(users={"u": "p"})
    registry = start_registry(tokens=tokens)
    registry.push("lib/app", "v1", image, creds="u:p")
    proxy = start_proxy(registry)
    client = connect(proxy)
    lies = [*ACCEPT, ("Authorization", "Bearer of.the.proxy")]
    assert client.get(paths(registry, "manifests/v1", way), lies).digest == image.digest
    assert client.request("HEAD", paths(registry, f"manifests/{image.digest}", way), lies).status == 200
    for digest in image.blobs:
        assert client.get(paths(registry, f"blobs/{digest}", way), lies).digest == digest
    listed = client.get(paths(registry, "tags/list", way), lies)
    assert (listed.status, listed.json()["tags"]) == (200, ["v1"])
    seen = [value for request in tokens.origin.requests for value in request.all("authorization")]
    assert not any("of.the.proxy" in value for value in seen)


def test_no_credentials_of_the_client_reach_the_registry(
    start_origin: StartOrigin, start_proxy: StartProxy, connect: Connect, image: Image
) -> None:
    origin = start_origin("reg.test")
    origin.publish("lib/app", image, "v1")
    client = connect(start_proxy(origin))
    for path in (
        f"/v2/lib/app/manifests/v1?ns={origin.authority}",
        f"/v2/{origin.authority}/lib/app/manifests/{image.digest}",
        f"/v2/{origin.authority}/lib/app/tags/list",
        f"/v2/lib/app/blobs/{image.config_digest}?ns={origin.authority}",
    ):
        client.get(path, [*ACCEPT, ("Authorization", "Basic dTpw"), ("Cookie", "a=b"), ("X-Own", "1")])
    assert origin.requests
    for request in origin.requests:
        assert not request.all("authorization") + request.all("cookie") + request.all("x-own")
        assert "ns=" not in request.target


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PATCH", "PUT", "DELETE"])
def test_nothing_of_the_clients_own_goes_with_a_push(
    method: str, writable: tuple[Origin, Proxy], connect: Connect
) -> None:
    """Not a key or a session in whatever field, not where it is, nor another method."""
    origin, proxy = writable
    origin.on("/v2/*", Answer(status=202))
    client = connect(proxy)
    own = (
        "Authorization Cookie Private-Token Proxy-Authorization X-Forwarded-For X-HTTP-Method-Override X-Key"
    )
    path = "manifests/v1" if method in ("OPTIONS", "PUT", "DELETE") else "blobs/uploads/x"
    path = path.removesuffix("x") if method == "POST" else path
    body = None if method == "OPTIONS" else b"{}"
    fields = [(name, "Basic dTpw") for name in own.split()]
    for way in (f"/v2/lib/app/{path}?ns={origin.authority}", f"/v2/{origin.authority}/lib/app/{path}"):
        assert client.request(method, way, [("Content-Type", MANIFEST), *fields], body).status == 202
    assert [request.target for request in origin.requests] == [f"/v2/lib/app/{path}"] * 2
    for request in origin.requests:
        assert not {name.lower() for name, _ in request.headers} & set(own.lower().split())


def test_the_login_goes_with_pulls_alone(
    start_origin: StartOrigin, start_proxy: StartProxy, connect: Connect, image: Image
) -> None:
    def guarded(seen: Seen) -> Answer:
        if seen.get("authorization") is None:
            return Answer(status=401, headers={"Www-Authenticate": 'Basic realm="reg"'})
        return manifest_answer(image)

    origin = start_origin("reg.test")
    origin.on("/v2/*", guarded)
    login = {"AUTH_REGISTRIES": f"{origin.authority}:u:p", "REGPROXY_LOGIN_FOR": "pull"}
    client = connect(start_proxy(origin, ALLOW_PUSH="true", **login))
    assert client.get(f"/v2/lib/app/manifests/v1?ns={origin.authority}", ACCEPT).digest == image.digest
    for way in ("/v2/lib/app/{}ns=" + origin.authority, f"/v2/{origin.authority}/lib/app/{{}}"):
        for rest in NO_PULLS:
            for method in ("GET", "HEAD"):
                path = way.format(f"{rest}{'&' if '?' in rest else '?'}")
                assert client.request(method, path, ACCEPT).status == 403, path
        assert client.get(way.format("tags/list?"), ACCEPT).status == 200
    for request in origin.requests:
        shown = request.target in ("/v2/", "/v2/lib/app/manifests/v1", "/v2/lib/app/tags/list")
        assert shown or not request.all("authorization")
        assert ".." not in unquote(request.target)


NO_PULLS = [
    "blobs/../../../api/users",
    "blobs/%2e%2e/%2e%2e/x",
    "blobs/uploads/..",
    "blobs/uploads/1234",
    "blobs/of/somebody",
    "%6danifests/v1?format=zip",
    "manifests/v1?format=zip",
    "referrers/v1",
]


@pytest.mark.parametrize("push", ["false", "true"])
def test_what_is_for_the_proxy_itself(
    push: str, start_origin: StartOrigin, start_proxy: StartProxy, connect: Connect
) -> None:
    origin = start_origin("reg.test")
    client = connect(start_proxy(origin, ALLOW_PUSH=push))
    reply = client.request("OPTIONS", "*", [("Host", origin.authority)])
    assert (reply.complete, origin.requests) == (True, [])


def test_what_the_registry_refuses_is_no_question_to_the_client(
    start_registry: StartRegistry, shared: Proxies, start_proxy: StartProxy, connect: Connect, image: Image
) -> None:
    registry = start_registry(users={"u": "p"})
    registry.push("lib/app", "v1", image)
    client = connect(shared())
    for method in ("GET", "HEAD"):
        for rest in ("manifests/v1", f"blobs/{image.config_digest}", "tags/list"):
            reply = client.request(method, paths(registry, rest, "prefix"), ACCEPT)
            assert (reply.status, reply.get("www-authenticate")) == (403, None)
    login = start_proxy(registry, AUTH_REGISTRIES=f"{registry.name}:u:p")
    assert connect(login).get(paths(registry, "manifests/v1", "ns"), ACCEPT).digest == image.digest


REFUSED = [
    "/v2/lib/app/manifests/v1?ns=other.test",
    "/v2/lib/app/manifests/v1?ns=reg.test:1",
    "/v2/lib/app/manifests/v1?ns=",
    "/v2/lib/app/manifests/v1?ns=a%2Fb",
    "/v2/lib/app/manifests/v1?ns=reg.test&ns=other.test",
    "/v2/other.test/app/manifests/v1",
    "/v2/other.test:5000/app/blobs/sha256:" + 64 * "a",
    "http://other.test/v2/app/manifests/v1",
    "/v2/auth.docker.io/token",
    "/v2/registry-1.docker.io/../secret/x",
]


@pytest.mark.parametrize("path", REFUSED)
def test_who_is_not_mirrored(path: str, unreached: Proxy, connect: Connect) -> None:
    """Nothing that looks like "no such image": clients would say so, and nobody would look here."""
    client = connect(unreached)
    for _ in range(2):
        reply = client.get(path)
        assert (reply.status, reply.json()["errors"][0]["code"]) == (403, "DENIED")
        assert client.request("HEAD", path).status == 403


def test_refusals_are_logged_once(start_proxy: StartProxy, connect: Connect) -> None:
    proxy = start_proxy(registries=("reg.test",))
    client = connect(proxy)
    for path in REFUSED * 2:
        assert client.get(path).status == 403
    logged = [line.partition("without CONNECT is refused")[2] for line in proxy.log().splitlines()]
    reasons = [reason for reason in logged if reason]
    assert reasons
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("value, there", [("reg.test", True), ("other.test", False), ("off", False)])
def test_mirror_registries(
    value: str,
    there: bool,
    start_origin: StartOrigin,
    start_proxy: StartProxy,
    connect: Connect,
    image: Image,
) -> None:
    origin = start_origin("reg.test")
    origin.publish("lib/app", image, "v1")
    listed = value.replace("reg.test", origin.authority)
    client = connect(start_proxy(origin, REGPROXY_MIRROR_REGISTRIES=listed))
    reply = client.get(f"/v2/lib/app/manifests/v1?ns={origin.authority}", ACCEPT)
    assert (reply.digest == image.digest) is there
    if value == "off":
        assert b"The docker caching proxy is working!" in reply.body


@pytest.mark.parametrize(
    "path, asked",
    [
        ("/v2/library/app/manifests/v1", "/v2/library/app/manifests/v1"),
        ("/v2/some/app/manifests/v1", "/v2/some/app/manifests/v1"),
        ("/v2/library/app/manifests/v1?ns=docker.io", "/v2/library/app/manifests/v1"),
        ("/v2/docker.io/app/manifests/v1", "/v2/library/app/manifests/v1"),
        ("/v2/app/manifests/v1?ns=docker.io", "/v2/library/app/manifests/v1"),
        ("/v2/index.docker.io/some/app/manifests/v1", "/v2/some/app/manifests/v1"),
        ("/v2/docker.io/app/tags/list", "/v2/library/app/tags/list"),
        ("/v2/user/tags/manifests/v1", "/v2/user/tags/manifests/v1"),
        ("/v2/user/blobs/tags/list", "/v2/user/blobs/tags/list"),
        ("/v2/user/manifests/manifests/v1", "/v2/user/manifests/manifests/v1"),
    ],
)
def test_docker_hub(path: str, asked: str, hub: tuple[Origin, Proxy], connect: Connect) -> None:
    (origin, proxy), image = hub, make_image(seed=7)
    origin.publish("library/app", image, "v1")
    for repository in ("some/app", "user/tags", "user/manifests"):
        origin.publish(repository, image, "v1")
    for repository in ("library/app", "user/blobs"):
        origin.on(f"/v2/{repository}/tags/list", Answer(b'{"tags":["v1"]}'))
    assert connect(proxy).get(path, ACCEPT).status == 200
    assert [request.target for request in origin.requests] == [asked]


def test_pages_of_links_lead_through_the_proxy(
    start_registry: StartRegistry, shared: Proxies, connect: Connect, image: Image
) -> None:
    registry = start_registry()
    for tag in ("v1", "v2", "v3"):
        registry.push("lib/app", tag, image)
    client = connect(shared())
    for way in ("ns", "prefix"):
        found: list[str] = []
        path = paths(registry, "tags/list", way)
        path += "&n=1" if "?" in path else "?n=1"
        while path:
            reply = client.get(path)
            assert reply.status == 200
            found += reply.json()["tags"] or []
            link = reply.get("link")
            path = link.split("<")[1].split(">")[0] if link else ""
        assert found == ["v1", "v2", "v3"]


@pytest.mark.parametrize(
    "said, path",
    [
        ("/v2/lib/app/blobs/uploads/1?a=b", "blobs/uploads/1?a=b"),
        ("1?a=b", "blobs/uploads/1?a=b"),
        ("../uploads/1", "blobs/uploads/1"),
        ("?last=x", "blobs/uploads/?last=x"),
        ("//HOST/v2/lib/app/blobs/uploads/1", "blobs/uploads/1"),
        ("https://HOST/v2/lib/app/blobs/uploads/1", "blobs/uploads/1"),
        ("https://reg.test/v2/lib/app/blobs/uploads/1", "blobs/uploads/1"),
        ("https://reg.test:1/v2/lib/app/blobs/uploads/1", ""),
        ("https://other.test/v2/lib/app/blobs/uploads/1", ""),
        ("/elsewhere/1", "https://HOST/elsewhere/1"),
    ],
)
def test_what_the_registry_calls_itself(
    said: str, path: str, writable: tuple[Origin, Proxy], connect: Connect
) -> None:
    """A reference that is relative would lead to the proxy's default registry."""
    origin, proxy = writable
    said, path = said.replace("HOST", origin.authority), path.replace("HOST", origin.authority)
    origin.on("/v2/*", Answer(status=202, headers={"Location": said, "Link": f'<{said}>; rel="next"'}))
    client = connect(proxy)
    by_ns = f"/v2/lib/app/{path}{'&' if '?' in path else '?'}ns={origin.authority}"
    by_prefix = f"/v2/{origin.authority}/lib/app/{path}"
    for way, here in (("ns", by_ns), ("prefix", by_prefix)):
        expected = path if "://" in path else here if path else said
        start = f"/v2/lib/app/blobs/uploads/?ns={origin.authority}"
        if way == "prefix":
            start = f"/v2/{origin.authority}/lib/app/blobs/uploads/"
        reply = client.request("POST", start, body=b"")
        assert (reply.get("location"), reply.get("link")) == (expected, f'<{expected}>; rel="next"')


@pytest.mark.parametrize("way", ["ns", "prefix"])
def test_pushes(
    way: str, start_registry: StartRegistry, shared: Proxies, connect: Connect, image: Image
) -> None:
    registry = start_registry()
    client = connect(shared(ALLOW_PUSH="true"))
    for digest, body in image.blobs.items():
        start = client.request("POST", paths(registry, "blobs/uploads/", way), body=b"")
        place = start.get("location")
        assert place is not None and place.startswith("/v2/")
        patched = client.request("PATCH", place, {"Content-Type": "application/octet-stream"}, body)
        assert patched.status == 202
        place = patched.get("location")
        put = client.request("PUT", f"{place}&digest={digest}", body=b"")
        assert put.status == 201
        assert client.get(put.get("location") or "").digest == digest
    put = client.request(
        "PUT", paths(registry, "manifests/v1", way), {"Content-Type": MANIFEST}, image.manifest
    )
    assert put.status == 201
    assert client.get(paths(registry, "manifests/v1", way), ACCEPT).digest == image.digest
    assert client.request("DELETE", paths(registry, f"manifests/{image.digest}", way)).status == 202
    assert client.get(paths(registry, f"manifests/{image.digest}", way), ACCEPT).status == 404


@pytest.mark.parametrize(
    "way, source, mounted",
    [
        ("prefix", "{here}/lib/app", True),
        ("prefix", "lib/app", True),
        ("prefix", "other.test/lib/app", False),
        ("ns", "lib/app", True),
        ("absolute", "lib/app", True),
    ],
)
def test_a_blob_is_mounted_from_another_repository(
    way: str,
    source: str,
    mounted: bool,
    stocked_writable: tuple[Registry, Proxy, Image],
    connect: Connect,
) -> None:
    """Clients name the other repository as they know it: with the registry's name before it."""
    registry, proxy, image = stocked_writable
    client, other = connect(proxy), f"lib/other{len(registry.requests())}"
    there = paths(registry, "blobs/uploads/", way).replace("lib/app", other)
    source = source.format(here=registry.authority).replace(":", "%3A").replace("/", "%2F")
    mark = "&" if "?" in there else "?"
    reply = client.request("POST", f"{there}{mark}mount={image.config_digest}&from={source}", body=b"")
    assert reply.status == (201 if mounted else 202)
    asked = [request.target for request in registry.requests() if request.method == "POST"][-1]
    assert asked.endswith("from=lib%2Fapp") is mounted
    blob = paths(registry, f"blobs/{image.config_digest}", way).replace("lib/app", other)
    assert client.request("HEAD", blob).status == (200 if mounted else 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_push_to_docker_hub_by_default(method: str, hub: tuple[Origin, Proxy], connect: Connect) -> None:
    """containerd 1.6 sends `ns` with pulls alone: what it pushes elsewhere must not end up there."""
    origin, proxy = hub
    for path in ("/v2/lib/app/blobs/uploads/", "/v2/lib/app/manifests/v1", "/v2/app/blobs/uploads/1?state=x"):
        reply = connect(proxy).request(method, path, body=b"")
        assert (reply.status, reply.json()["errors"][0]["code"]) == (403, "DENIED")
        assert "has to name its registry" in reply.json()["errors"][0]["message"]
    assert origin.requests == []


def test_a_registry_that_is_named_twice(
    start_registry: StartRegistry, shared: Proxies, connect: Connect, image: Image
) -> None:
    """containerd adds `ns` to a path of hosts.toml (override_path) that has the registry's name already."""
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    client = connect(shared())
    ns = registry.authority.replace(":", "%3A")
    for rest in ("manifests/v1", f"manifests/{image.digest}", f"blobs/{image.config_digest}"):
        reply = client.get(f"/v2/{registry.authority}/lib/app/{rest}?ns={ns}", ACCEPT)
        assert reply.status == 200
    assert client.get(f"/v2/other.test/lib/app/manifests/v1?ns={ns}", ACCEPT).status == 404
    assert registry.counted("GET", "/v2/other.test/lib/app/") == 1


def test_docker_hubs_official_images_are_mounted_from(hub: tuple[Origin, Proxy], connect: Connect) -> None:
    origin, proxy = hub
    digest = "sha256:" + 64 * "a"
    for repository in ("library/app", "some/app"):
        origin.on(f"/v2/{repository}/blobs/uploads/", Answer(b"", 201))
    client = connect(proxy)
    for repository, source, asked in (
        ("docker.io/app", "docker.io%2Fbase", "/v2/library/app/blobs/uploads/?mount={}&from=library%2Fbase"),
        ("docker.io/some/app", "base", "/v2/some/app/blobs/uploads/?mount={}&from=library%2Fbase"),
        (
            "docker.io/some/app",
            "index.docker.io/a/base",
            "/v2/some/app/blobs/uploads/?mount={}&from=a%2Fbase",
        ),
        ("docker.io/some/app", "docker.io:1/base", "/v2/some/app/blobs/uploads/?mount={}"),
    ):
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source}"
        assert client.request("POST", path, body=b"").status == 201
        assert origin.requests[-1].target == asked.format(digest)


@pytest.mark.parametrize("way", ["ns", "prefix"])
def test_what_was_deleted_and_is_there_again(
    way: str, start_registry: StartRegistry, shared: Proxies, connect: Connect, image: Image
) -> None:
    """Pushed again past the proxy: the first pull finds that out, and the next one is a hit."""
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    client = connect(shared(ALLOW_PUSH="true"))
    by_digest = paths(registry, f"manifests/{image.digest}", way)
    assert client.get(by_digest, ACCEPT).digest == image.digest
    assert client.request("DELETE", by_digest).status == 202
    assert client.get(by_digest, ACCEPT).status == 404
    registry.push("lib/app", "v1", image)
    assert client.get(by_digest, ACCEPT).digest == image.digest
    assert cache_status(client.get(by_digest, ACCEPT)) == "regproxy; hit"


def test_no_push_where_pushes_are_not_allowed(
    start_registry: StartRegistry, shared: Proxies, connect: Connect
) -> None:
    registry = start_registry()
    client = connect(shared())
    reply = client.request("POST", paths(registry, "blobs/uploads/", "prefix"), body=b"")
    assert (reply.status, reply.json()["errors"][0]["code"]) == (403, "DENIED")


def test_a_plain_registry_by_http_proxy(
    start_origin: StartOrigin, start_proxy: StartProxy, connect: Connect, tmp_path: Path, image: Image
) -> None:
    """The login of a client that names the registry itself is for that registry."""
    origin = start_origin("plain.test", tls=False)
    origin.publish("lib/app", image, "v1")
    table = tmp_path / "regproxy.toml"
    table.write_text(f'[origin."{origin.authority}"]\nscheme = "http"\n')
    client = connect(start_proxy(origin, REGPROXY_CONFIG=str(table)))
    login = ("Authorization", "Basic dTpw")
    reply = client.get(f"http://{origin.authority}/v2/lib/app/manifests/v1", [*ACCEPT, login])
    assert (reply.status, reply.digest) == (200, image.digest)
    assert origin.requests[-1].all("authorization") == ["Basic dTpw"]


def test_a_registry_by_http_proxy_asks_for_its_own_login(
    start_origin: StartOrigin, start_proxy: StartProxy, connect: Connect
) -> None:
    """`docker login` would take any password, and a client would not learn what to bring."""
    origin = start_origin("reg.test")
    origin.on("/v2/", Answer(status=401, headers={"Www-Authenticate": 'Basic realm="reg"'}))
    client = connect(start_proxy(origin))
    reply = client.get(f"http://{origin.authority}/v2/", [("Authorization", "Basic dTpw")])
    assert (reply.status, reply.get("www-authenticate")) == (401, 'Basic realm="reg"')
    assert origin.requests[-1].all("authorization") == ["Basic dTpw"]


def test_no_client_takes_tls_away(
    start_origin: StartOrigin, start_proxy: StartProxy, connect: Connect, image: Image
) -> None:
    """An http:// URL asks for a registry, not for plain HTTP to it: its tags are served to others too."""
    origin = start_origin("plain.test", tls=False)
    origin.publish("lib/app", image, "v1")
    client = connect(start_proxy(origin, PROXY_CONNECT_TIMEOUT="1s"))
    assert client.get(f"http://{origin.authority}/v2/lib/app/manifests/v1", ACCEPT).status in (502, 504)
    assert origin.requests == []


# --- real clients ------------------------------------------------------------------------------------------


@pytest.fixture
def stocked(start_registry: StartRegistry) -> Iterator[tuple[Registry, Image]]:
    image = make_image(size=2_000_000, seed=5)
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    yield registry, image


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_by_registries_conf(
    stocked: tuple[Registry, Image], start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Names of registries with a port are no part of an image's name: here is one on 443."""
    registry, image = stocked
    table = tmp_path / "regproxy.toml"
    table.write_text(f'[origin."{registry.name}"]\nport = {registry.port}\n')
    proxy = start_proxy(registry, registries=(registry.name,), REGPROXY_CONFIG=str(table))
    env = client_env(tmp_path / "home", proxy="", ca=None)
    # Nobody is asked but the mirror, not even for the registry's address.
    nobody = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "", "NO_PROXY": proxy.address[0]}
    env |= {**nobody, "_CONTAINERS_ROOTLESS_UID": "1000"}
    mirror = f"{proxy.address[0]}:{proxy.port}/{registry.name}"
    Path(env["CONTAINERS_REGISTRIES_CONF"]).write_text(
        f'[[registry]]\nprefix = "{registry.name}"\nlocation = "{registry.name}"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
    )
    out = tmp_path / "out"
    command = ["skopeo", "--registries-conf", env["CONTAINERS_REGISTRIES_CONF"], "--insecure-policy", "copy"]
    run([*command, f"docker://{registry.name}/lib/app:v1", f"dir:{out}"], env)
    assert json.loads((out / "manifest.json").read_text()) == json.loads(image.manifest)
    proxy.wait_kept(*image.blobs)
    shutil.rmtree(out)
    named = f"docker://{mirror}/lib/app:v1"
    run([*command, "--src-tls-verify=false", named, f"dir:{out}"], env)
    assert json.loads((out / "manifest.json").read_text()) == json.loads(image.manifest)


# --- over TLS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", ""], ids=["by-name", "by-address"])
def test_over_tls(
    name: str, start_registry: StartRegistry, start_proxy: StartProxy, stack: ExitStack, image: Image
) -> None:
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    address = free_address()
    proxy = start_proxy(registry, REGPROXY_TLS_LISTEN=f"{address[0]}:{address[1]}")
    client = stack.enter_context(Client.connect(address))
    client.start_tls(name or address[0], proxy.ca_pem)
    assert client.get(paths(registry, "manifests/v1", "ns"), ACCEPT).digest == image.digest
    assert client.get("/v2/").status == 200
    assert client.get("/ca.crt").body == proxy.ca_pem


@pytest.mark.parametrize(
    "names, named", [("proxy.corp.test", "proxy.corp.test"), ("*.corp.test", "a.corp.test")]
)
def test_names_of_the_operators_choice(
    names: str, named: str, start_proxy: StartProxy, start_registry: StartRegistry, stack: ExitStack
) -> None:
    address = free_address()
    listen = f"{address[0]}:{address[1]}"
    every = f"{names} {address[0]}"
    proxy = start_proxy(start_registry(), REGPROXY_TLS_LISTEN=listen, REGPROXY_TLS_NAMES=every)
    for name in (named, address[0]):
        client = stack.enter_context(Client.connect(address))
        client.start_tls(name, proxy.ca_pem)
        assert client.get("/v2/").status == 200
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        stack.enter_context(Client.connect(address)).start_tls("localhost", proxy.ca_pem)


def test_a_name_of_somebody_else_is_not_shown(
    start_proxy: StartProxy, stack: ExitStack, start_registry: StartRegistry
) -> None:
    """No certificate of the CA for whatever name a client, or somebody between, brings here."""
    address = free_address()
    proxy = start_proxy(start_registry(), REGPROXY_TLS_LISTEN=f"{address[0]}:{address[1]}")
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        stack.enter_context(Client.connect(address)).start_tls("bank.test", proxy.ca_pem)


def test_the_operators_certificate(
    start_proxy: StartProxy, start_registry: StartRegistry, stack: ExitStack, trust: Trust
) -> None:
    address = free_address()
    pair = trust.server("proxy.corp.test", address[0])
    proxy = start_proxy(
        start_registry(),
        REGPROXY_TLS_LISTEN=f"{address[0]}:{address[1]}",
        REGPROXY_TLS_CERT_FILE=str(pair.chain),
        REGPROXY_TLS_KEY_FILE=str(pair.key),
    )
    client = stack.enter_context(Client.connect(address))
    client.start_tls("proxy.corp.test", trust.path.read_bytes())
    assert client.get("/v2/").status == 200
    assert proxy.ready()


def test_plain_text_on_the_tls_port(
    start_proxy: StartProxy, start_registry: StartRegistry, stack: ExitStack
) -> None:
    address = free_address()
    start_proxy(start_registry(), REGPROXY_TLS_LISTEN=f"{address[0]}:{address[1]}")
    client = stack.enter_context(Client.connect(address))
    for path in ("/v2/", "/v2/lib/app/manifests/v1", "/ca.crt"):
        assert client.get(path).status == 400
    assert client.connect_to("reg.test:443").status == 400


@pytest.mark.parametrize(
    "cert, key, said",
    [
        ("/nowhere.pem", "/nowhere.key", "REGPROXY_TLS_CERT_FILE='/nowhere.pem'"),
        ("/nowhere.pem", None, "REGPROXY_TLS_KEY_FILE"),
        ("/etc/hostname", "/etc/hostname", "a certificate in PEM"),
    ],
)
def test_a_certificate_of_no_use(cert: str, key: str | None, said: str, tmp_path: Path) -> None:
    address = free_address()
    env = {
        "REGPROXY_TLS_LISTEN": f"{address[0]}:{address[1]}",
        "REGPROXY_TLS_CERT_FILE": cert,
        "REGPROXY_TLS_KEY_FILE": key,
    }
    with Proxy(tmp_path / "proxy", env, ready=False) as proxy:
        proxy.daemon.wait()
        assert proxy.stop() == 2
        assert said in proxy.log()
