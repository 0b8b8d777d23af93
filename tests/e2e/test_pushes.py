"""Pushes through the proxy to a real registry: what it is said to have is what it has, in that repository."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from regproxy.cache.parts import boot_id
from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image, write_layout
from tests.support.known_addresses import KnownAddresses
from tests.support.origin import Answer, Origin, Seen, blob_answer, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy, cache_status
from tests.support.real_clients import Failed, Podman, Skopeo
from tests.support.two_workers import Pair

StartProxy = Callable[..., Proxy]
StartRegistry = Callable[..., Registry]
StartOrigin = Callable[..., Origin]
Talk = Callable[..., Client]

ACCEPT = [("Accept", MANIFEST)]
PUSHES = {"ALLOW_PUSH": "true", "ENABLE_MANIFEST_CACHE": "true"}

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("skopeo", "docker-registry")
]


SEEDS = itertools.count(7000)


def new_image() -> Image:
    """An image that no test had before, as no proxy here has it."""
    return make_image(seed=next(SEEDS))


@pytest.fixture
def image() -> Image:
    return new_image()


@pytest.fixture
def registry(start_registry: StartRegistry, addresses: KnownAddresses) -> Registry:
    return start_registry(address=addresses.take())


@pytest.fixture
def origin(start_origin: StartOrigin, addresses: KnownAddresses) -> Origin:
    return start_origin("reg.test", address=addresses.take())


@pytest.fixture
def pair(registry: Registry, shared: Proxies) -> Pair:
    """A proxy that lets pushes through, with two workers."""
    return Pair(shared(**PUSHES, REGPROXY_WORKERS="2"), registry.authority)


@pytest.fixture
def clients(pair: Pair, stack: ExitStack) -> tuple[Client, Client]:
    """A connection to each worker."""
    one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
    return one, two


def blob(repository: str, digest: str) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def manifest(repository: str, reference: str) -> str:
    return f"/v2/{repository}/manifests/{reference}"


def upload(client: Client, repository: str, digest: str, body: bytes) -> Reply:
    """Push a blob by POST and one PUT."""
    place = client.request("POST", f"/v2/{repository}/blobs/uploads/", body=b"").get("location")
    assert place is not None
    path = "/" + place.split("/", 3)[3]
    mark = "&" if "?" in path else "?"
    octets = {"Content-Type": "application/octet-stream"}
    return client.request("PUT", f"{path}{mark}digest={digest}", octets, body)


def push(client: Client, repository: str, tag: str, image: Image) -> None:
    for digest, body in image.blobs.items():
        assert upload(client, repository, digest, body).status == 201
    put_manifest(client, repository, tag, image)


def put_manifest(client: Client, repository: str, tag: str, image: Image) -> None:
    put = client.request("PUT", manifest(repository, tag), {"Content-Type": MANIFEST}, image.manifest)
    assert put.status == 201


def pull(client: Client, repository: str, tag: str, image: Image) -> None:
    assert client.get(manifest(repository, tag), ACCEPT).digest == image.digest
    for digest in image.blobs:
        assert client.get(blob(repository, digest)).digest == digest


# --- what is there, in that repository ---------------------------------------------------------------------


def test_what_is_cached_is_not_said_to_be_in_another_repository(
    clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    registry.push("lib/app", "v1", image)
    for client in clients:
        pull(client, "lib/app", "v1", image)
        for digest in image.blobs:
            assert client.request("HEAD", blob("lib/app", digest)).status == 200
            assert client.request("HEAD", blob("lib/other", digest)).status == 404
        assert client.request("HEAD", manifest("lib/app", image.digest), ACCEPT).status == 200
        assert client.request("HEAD", manifest("lib/other", image.digest), ACCEPT).status == 404
    push(clients[0], "lib/other", "v1", image)
    for client in clients:
        for digest in image.blobs:
            assert client.request("HEAD", blob("lib/other", digest)).status == 200


@pytest.mark.parametrize("program", ["skopeo", "podman"])
def test_a_cached_image_is_pushed_to_another_repository(
    program: str, registry: Registry, pair: Pair, tmp_path: Path, image: Image
) -> None:
    proxy = pair.proxy
    source = registry.push("lib/app", "v1", image)
    target = f"{registry.authority}/lib/other:v1"
    skopeo = Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=proxy.ca_path)
    assert skopeo.copy(source).digest == image.digest
    if program == "skopeo":
        skopeo.push(write_layout(tmp_path / "layout", {"v1": image}), "v1", target)
        assert skopeo.copy(target).digest == image.digest
        return
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with Podman(proxy=proxy.url, ca=proxy.ca_path) as podman:
        podman.pull(source)
        podman.push(source, target)
    assert skopeo.copy(target).blobs.keys() >= {image.config_digest}


def test_a_tag_is_what_the_registry_says_it_is(
    clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    """A rollback: the registry's tag has moved since it was cached, and the old image is pushed again."""
    newer = new_image()
    for client in clients:
        push(client, "lib/app", "v1", image)
        pull(client, "lib/app", "v1", image)
    registry.push("lib/app", "v1", newer)
    for client in clients:
        head = client.request("HEAD", manifest("lib/app", "v1"), ACCEPT)
        assert head.get("docker-content-digest") == newer.digest
    put_manifest(clients[0], "lib/app", "v1", image)
    for client in clients:
        head = client.request("HEAD", manifest("lib/app", "v1"), ACCEPT)
        assert head.get("docker-content-digest") == image.digest
        assert client.get(manifest("lib/app", "v1"), ACCEPT).digest == image.digest


def test_tags_that_are_set_by_a_push_by_digest(
    origin: Origin, shared: Proxies, talk: Talk, image: Image
) -> None:
    """The specification after 1.1: PUT of a manifest by digest with `tag` in the query, several times."""
    newer = new_image()
    origin.publish("lib/app", image, "v1", "v2", "v3")
    client = talk(shared(**PUSHES), origin)
    for tag in ("v1", "v2", "v3"):
        assert client.get(manifest("lib/app", tag), ACCEPT).digest == image.digest
    origin.publish("lib/app", newer, "v1", "v2")
    created = Answer(b"", 201, {"Docker-Content-Digest": newer.digest})
    origin.on(manifest("lib/app", newer.digest), created)
    path = manifest("lib/app", newer.digest) + "?tag=v1&tag=v2&tag=no%20tag"
    assert client.request("PUT", path, {"Content-Type": MANIFEST}, newer.manifest).status == 201
    assert origin.requests[-1].target == path
    for tag, expected in (("v1", newer), ("v2", newer), ("v3", image)):
        assert client.get(manifest("lib/app", tag), ACCEPT).digest == expected.digest


def test_a_registry_that_has_lost_its_content(
    clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    push(clients[0], "lib/app", "v1", image)
    for client in clients:
        pull(client, "lib/app", "v1", image)
    registry.stop()
    shutil.rmtree(registry.storage / "docker")
    registry.start()
    for client in clients:
        for digest in image.blobs:
            assert client.request("HEAD", blob("lib/app", digest)).status == 404
        for reference in ("v1", image.digest):
            assert client.request("HEAD", manifest("lib/app", reference), ACCEPT).status == 404
    push(clients[1], "lib/app", "v1", image)
    for client in clients:
        pull(client, "lib/app", "v1", image)
        assert client.request("HEAD", manifest("lib/app", "v1"), ACCEPT).status == 200


def test_a_registry_that_is_down_has_what_it_had(
    clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    """Pulls begin with a HEAD, too, and go on."""
    push(clients[0], "lib/app", "v1", image)
    for client in clients:
        pull(client, "lib/app", "v1", image)
    registry.stop()
    for client in clients:
        for path in (manifest("lib/app", "v1"), manifest("lib/app", image.digest)):
            head = client.request("HEAD", path, ACCEPT)
            assert (head.status, head.get("docker-content-digest")) == (200, image.digest)
        assert client.request("HEAD", blob("lib/app", image.config_digest)).status == 200
        assert client.request("HEAD", blob("lib/other", image.config_digest)).status in (502, 503)


# --- deletion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "by-digest"])
def test_a_manifest_that_was_deleted_is_gone(
    tagged: bool, clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    one, two = clients
    reference = "v1" if tagged else image.digest
    push(one, "lib/app", reference, image)
    push(one, "lib/other", reference, image)
    for client in clients:
        pull(client, "lib/app", reference, image)
    assert one.request("DELETE", manifest("lib/app", image.digest)).status == 202
    for client in (two, one):
        for path in {manifest("lib/app", reference), manifest("lib/app", image.digest)}:
            assert client.get(path, ACCEPT).status == 404
            assert client.request("HEAD", path, ACCEPT).status == 404
            assert client.get(path, {"Range": "bytes=0-9", "Accept": MANIFEST}).status == 404
        # Elsewhere it is still there.
        assert client.get(manifest("lib/other", reference), ACCEPT).digest == image.digest
        assert client.get(manifest("lib/other", image.digest), ACCEPT).digest == image.digest
    put_manifest(two, "lib/app", reference, image)
    for client in clients:
        pull(client, "lib/app", reference, image)
        assert client.request("HEAD", manifest("lib/app", image.digest), ACCEPT).status == 200


def test_a_blob_that_was_deleted_is_gone(
    clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    one, two = clients
    digest, body = next(iter(image.blobs.items()))
    for repository in ("lib/app", "lib/other"):
        assert upload(one, repository, digest, body).status == 201
        assert two.get(blob(repository, digest)).digest == digest
    assert two.request("DELETE", blob("lib/app", digest)).status == 202
    for client in clients:
        assert client.get(blob("lib/app", digest)).status == 404
        assert client.request("HEAD", blob("lib/app", digest)).status == 404
        assert client.get(blob("lib/app", digest), {"Range": "bytes=0-9"}).status == 404
        assert client.get(blob("lib/other", digest)).digest == digest
    assert upload(two, "lib/app", digest, body).status == 201
    for client in clients:
        assert client.get(blob("lib/app", digest)).digest == digest


def test_a_tag_of_what_was_deleted_does_not_come_back_with_it(
    clients: tuple[Client, Client], registry: Registry, image: Image
) -> None:
    push(clients[0], "lib/app", "v1", image)
    for client in clients:
        pull(client, "lib/app", "v1", image)
    assert clients[0].request("DELETE", manifest("lib/app", image.digest)).status == 202
    put_manifest(clients[0], "lib/app", "v2", image)
    for client in clients:
        assert client.get(manifest("lib/app", "v1"), ACCEPT).status == 404
        assert client.get(manifest("lib/app", "v2"), ACCEPT).digest == image.digest


def test_what_could_not_be_deleted_stays(origin: Origin, shared: Proxies, talk: Talk, image: Image) -> None:
    digest, body = next(iter(image.blobs.items()))
    origin.on(blob("lib/app", digest), blob_answer(digest, body), Answer(b"{}", 405))
    client = talk(shared(**PUSHES), origin)
    assert client.get(blob("lib/app", digest)).digest == digest
    assert client.request("DELETE", blob("lib/app", digest)).status == 405
    assert cache_status(client.get(blob("lib/app", digest))) == "regproxy; hit"


# --- a proxy that only pulls -------------------------------------------------------------------------------


def test_a_head_asks_once_for_each_repository(
    registry: Registry, shared: Proxies, talk: Talk, image: Image
) -> None:
    for repository in ("lib/app", "lib/other"):
        registry.push(repository, "v1", image)
    proxy = shared(ENABLE_MANIFEST_CACHE="true")
    client = talk(proxy, registry)
    pull(client, "lib/app", "v1", image)
    digest = image.config_digest
    before = registry.counted("HEAD")
    assert client.request("HEAD", blob("lib/app", digest)).status == 200
    assert registry.counted("HEAD") == before
    for _ in range(2):
        assert client.request("HEAD", blob("lib/other", digest)).status == 200
        assert registry.counted("HEAD") == before + 1
    assert client.request("HEAD", blob("lib/third", digest)).status == 404
    registry.stop()
    # Nobody pushes: what is held serves clients better than an error.
    assert client.request("HEAD", blob("lib/third", digest)).status == 200


def test_a_head_of_a_tag_is_a_hit(registry: Registry, shared: Proxies, talk: Talk, image: Image) -> None:
    registry.push("lib/app", "v1", image)
    client = talk(shared(ENABLE_MANIFEST_CACHE="true"), registry)
    pull(client, "lib/app", "v1", image)
    assert cache_status(client.request("HEAD", manifest("lib/app", "v1"), ACCEPT)) == "regproxy; hit"


def test_offline_a_head_is_answered_from_the_cache(
    registry: Registry, start_proxy: StartProxy, talk: Talk, image: Image
) -> None:
    registry.push("lib/app", "v1", image)
    proxy = start_proxy(registry, **PUSHES)
    pull(talk(proxy, registry), "lib/app", "v1", image)
    proxy.stop()
    offline = start_proxy(registry, **PUSHES, at=proxy.directory, REGPROXY_OFFLINE="true")
    client = talk(offline, registry)
    for path in (manifest("lib/app", "v1"), manifest("lib/app", image.digest)):
        assert client.request("HEAD", path, ACCEPT).status == 200


def test_a_mirror_is_not_asked_what_the_registry_has(
    registry: Registry,
    start_registry: StartRegistry,
    start_proxy: StartProxy,
    talk: Talk,
    tmp_path: Path,
    image: Image,
) -> None:
    mirror = start_registry("mirror.test")
    mirror.push("lib/app", "v1", image)
    table = tmp_path / "regproxy.toml"
    table.write_text(f'[origin."{registry.authority}"]\nmirrors = ["https://{mirror.authority}"]\n')
    proxy = start_proxy(registry, mirror, **PUSHES, REGPROXY_CONFIG=str(table))
    client = talk(proxy, registry)
    pull(client, "lib/app", "v1", image)
    for path in (manifest("lib/app", "v1"), manifest("lib/app", image.digest)):
        assert client.request("HEAD", path, ACCEPT).status == 404
    assert client.request("HEAD", blob("lib/app", image.config_digest)).status == 404


def test_a_refused_push_ends_at_once(
    registry: Registry, start_proxy: StartProxy, tmp_path: Path, image: Image
) -> None:
    proxy = start_proxy(registry)
    layout = write_layout(tmp_path / "layout", {"v1": image})
    skopeo = Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=proxy.ca_path)
    with pytest.raises(Failed, match=r"denied: .*POST is not allowed: .*ALLOW_PUSH=true"):
        skopeo.push(layout, "v1", f"{registry.authority}/lib/app:v1")
    # One for each blob: it is not tried again.
    assert sum(line["method"] == "POST" for line in proxy.access_log(1)) <= len(image.blobs)


# --- what is pushed is kept -----------------------------------------------------------------------------


KEEPS = {**PUSHES, "REGPROXY_CACHE_PUSHES": "true"}


@pytest.fixture
def keepers(registry: Registry, shared: Proxies, stack: ExitStack) -> tuple[Pair, Client, Client]:
    """A proxy that keeps what is pushed, and a connection to each of its workers."""
    pair = Pair(shared(**KEEPS, REGPROXY_WORKERS="2"), registry.authority)
    one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
    return pair, one, two


def begin(client: Client, repository: str) -> str:
    """Begin an upload, and return the path of its PATCH."""
    return place_of(client.request("POST", f"/v2/{repository}/blobs/uploads/", body=b""))


def place_of(reply: Reply) -> str:
    place = reply.get("location")
    assert place is not None
    return "/" + place.split("/", 3)[3]


def by_patch(one: Client, two: Client, digest: str, body: bytes, pieces: int = 1) -> Reply:
    """Upload by PATCHes through one worker, and end it through the other."""
    path, size = begin(one, "lib/app"), -(-len(body) // pieces)
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        said = {} if pieces == 1 else {"Content-Range": f"{start}-{start + len(piece) - 1}"}
        patched = one.request("PATCH", path, {"Content-Type": "application/octet-stream", **said}, piece)
        assert patched.status == 202
        path = place_of(patched)
    mark = "&" if "?" in path else "?"
    return two.request("PUT", f"{path}{mark}digest={digest}", body=b"")


@pytest.mark.parametrize("way", ["put", "patch"])
def test_what_was_pushed_is_pulled_from_the_cache(
    way: str, keepers: tuple[Pair, Client, Client], registry: Registry, image: Image
) -> None:
    pair, one, two = keepers
    parts = set(pair.proxy.parts())
    for digest, body in image.blobs.items():
        put = upload(one, "lib/app", digest, body) if way == "put" else by_patch(one, two, digest, body)
        assert put.status == 201
    put_manifest(one, "lib/app", "v1", image)
    pair.proxy.wait_kept(image.digest, *image.blobs)
    before = registry.counted("GET")
    for client in (two, one):
        pull(client, "lib/app", "v1", image)
        assert client.get(manifest("lib/app", image.digest), ACCEPT).digest == image.digest
        both = [("Accept", INDEX), *ACCEPT]
        assert cache_status(client.get(manifest("lib/app", "v1"), both)) == "regproxy; hit"
    assert registry.counted("GET") == before
    assert set(pair.proxy.parts()) <= parts


def test_skopeo_pushes_into_the_cache(
    registry: Registry, shared: Proxies, tmp_path: Path, image: Image
) -> None:
    proxy = shared(**KEEPS)
    target = f"{registry.authority}/lib/app:v1"
    skopeo = Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=proxy.ca_path)
    skopeo.push(write_layout(tmp_path / "layout", {"v1": image}), "v1", target)
    proxy.wait_kept(image.digest, *image.blobs)
    before = registry.counted("GET", "sha256:") + registry.counted("GET", "manifests")
    assert skopeo.copy(target).digest == image.digest
    assert registry.counted("GET", "sha256:") + registry.counted("GET", "manifests") == before


def test_what_the_registry_did_not_take_is_not_kept(
    keepers: tuple[Pair, Client, Client], image: Image
) -> None:
    pair, one, two = keepers
    digest, body = next(iter(image.blobs.items()))
    wrong = bytes([body[0] ^ 1]) + body[1:]
    assert upload(one, "lib/app", digest, wrong).status == 400
    assert by_patch(one, two, digest, wrong).status == 400
    put = one.request("PUT", manifest("lib/app", "v1"), {"Content-Type": MANIFEST}, image.manifest)
    assert put.status == 400  # its blobs are not there
    assert not pair.proxy.blobs().keys() & {image.digest, digest, digest_of(wrong)}
    assert two.get(manifest("lib/app", "v1"), ACCEPT).status == 404


def test_a_blob_in_pieces_is_pushed_and_not_kept(keepers: tuple[Pair, Client, Client], image: Image) -> None:
    pair, one, two = keepers
    digest, body = next(iter(image.blobs.items()))
    assert by_patch(one, two, digest, body, pieces=3).status == 201
    assert digest not in pair.proxy.blobs()
    assert two.get(blob("lib/app", digest)).digest == digest  # from the registry
    pair.proxy.wait_kept(digest)


def test_a_push_that_breaks_off_leaves_nothing(
    start_proxy: StartProxy, talk: Talk, registry: Registry, image: Image
) -> None:
    proxy = start_proxy(registry, **KEEPS)
    one = talk(proxy, registry)
    digest, body = next(iter(image.blobs.items()))
    path = begin(one, "lib/app")
    one.send(one.head("PATCH", path, [("Content-Length", str(len(body)))]) + body[:100])
    wait_until(proxy.parts, "the copy is begun")
    one.reset()
    wait_until(lambda: not proxy.parts(), "it is removed")
    assert digest not in proxy.blobs()


# --- what others get of it ------------------------------------------------------------------------------

UPLOAD = "/v2/lib/app/blobs/uploads/1"
V1 = manifest("lib/app", "v1")
GONE = Answer(b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', 404, {"Content-Type": "application/json"})


def by_method(**answers: Answer | Callable[[Seen], Answer]) -> Callable[[Seen], Answer]:
    def answer(seen: Seen) -> Answer:
        found = answers[seen.method]
        return found(seen) if callable(found) else found

    return answer


def created(digest: str, hold: threading.Event | None = None) -> Answer:
    hold_at = None if hold is None else -1
    return Answer(b"", 201, {"Docker-Content-Digest": digest}, hold=hold, hold_at=hold_at)


@pytest.mark.parametrize(("query", "header"), [("?tenant=b", {}), ("", {"X-Tenant": "b"})])
def test_a_tag_that_was_set_by_an_own_request_is_not_for_others(
    query: str,
    header: dict[str, str],
    origin: Origin,
    shared: Proxies,
    talk: Talk,
    image: Image,
) -> None:
    """A registry may tell tenants apart by it."""
    other = new_image()
    origin.on(V1, by_method(PUT=created(image.digest), GET=manifest_answer(other)))
    client = talk(shared(**KEEPS), origin)
    said = {"Content-Type": MANIFEST, **header}
    assert client.request("PUT", V1 + query, said, image.manifest).status == 201
    assert client.get(V1, ACCEPT).digest == other.digest


def test_what_was_deleted_is_not_there_again_for_an_own_request_alone(
    origin: Origin, shared: Proxies, talk: Talk, image: Image
) -> None:
    digest, body = next(iter(image.blobs.items()))
    there, deleted = blob_answer(digest, body), threading.Event()

    def get(seen: Seen) -> Answer:
        return GONE if deleted.is_set() and not seen.get("x-tenant") else there

    origin.on(blob("lib/app", digest), by_method(DELETE=Answer(b"", 202), GET=get))
    client = talk(shared(**PUSHES), origin)
    assert client.get(blob("lib/app", digest)).digest == digest
    assert client.request("DELETE", blob("lib/app", digest)).status == 202
    deleted.set()
    assert client.get(blob("lib/app", digest), {"X-Tenant": "b"}).digest == digest
    assert client.get(blob("lib/app", digest)).status == 404


def test_a_tag_that_two_clients_set_at_once_is_asked_for(
    origin: Origin, shared: Proxies, talk: Talk, image: Image, hold: threading.Event
) -> None:
    """The one whose answer comes last need not have been the last one."""
    other = new_image()

    def put(seen: Seen) -> Answer:
        digest = digest_of(seen.body)
        return created(digest, hold if digest == image.digest else None)

    origin.on(V1, by_method(PUT=put, GET=manifest_answer(other)))
    proxy = shared(**KEEPS)
    one, two = talk(proxy, origin), talk(proxy, origin)
    one.ask("PUT", V1, {"Content-Type": MANIFEST}, image.manifest)
    origin.wait_for(lambda origin: origin.count("PUT") == 1)
    put_manifest(two, "lib/app", "v1", other)
    hold.set()
    assert one.read_reply().status == 201
    assert two.get(V1, ACCEPT).digest == other.digest


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_tag_that_is_being_fetched_while_its_content_is_deleted(
    workers: str,
    origin: Origin,
    shared: Proxies,
    talk: Talk,
    stack: ExitStack,
    image: Image,
    hold: threading.Event,
) -> None:
    origin.on(V1, manifest_answer(image, hold=hold, hold_at=10), GONE)
    origin.on(manifest("lib/app", image.digest), by_method(DELETE=Answer(b"", 202)))
    proxy = shared(**KEEPS, REGPROXY_WORKERS=workers)
    if workers == "2":
        pair = Pair(proxy, origin.authority)
        one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
    else:
        one, two = talk(proxy, origin), talk(proxy, origin)
    one.ask("GET", V1, ACCEPT)
    origin.wait_for(lambda origin: origin.count("GET") == 1)
    assert two.request("DELETE", manifest("lib/app", image.digest)).status == 202
    hold.set()
    assert one.read_reply().digest == image.digest  # it was asked before
    for client in (one, two):
        assert client.get(V1, ACCEPT).status == 404


def test_what_is_there_again_is_cached_again(
    origin: Origin, shared: Proxies, talk: Talk, image: Image
) -> None:
    """Deleted when it was not held, and pushed again past the proxy."""
    digest, body = next(iter(image.blobs.items()))
    origin.on(blob("lib/app", digest), by_method(DELETE=Answer(b"", 202), GET=blob_answer(digest, body)))
    proxy = shared(**PUSHES)
    client = talk(proxy, origin)
    assert client.request("DELETE", blob("lib/app", digest)).status == 202
    for _ in range(2):
        assert client.get(blob("lib/app", digest)).digest == digest
    proxy.wait_kept(digest)
    assert cache_status(client.get(blob("lib/app", digest))) == "regproxy; hit"


@pytest.mark.parametrize("how", ["told", "twice"])
def test_content_that_the_registry_names_otherwise_is_not_kept(
    how: str, origin: Origin, shared: Proxies, talk: Talk, image: Image
) -> None:
    other = digest_of(b"other")
    digest, body = next(iter(image.blobs.items()))
    query = f"?digest={digest}" + (f"&digest={other}" if how == "twice" else "")
    origin.on(UPLOAD, created(other), created(digest))
    proxy = shared(**KEEPS)
    client = talk(proxy, origin)
    assert client.request("PUT", UPLOAD + query, body=body).status == 201
    small = f"the next one that is {how}".encode()
    origin.on(UPLOAD, created(digest_of(small)))
    assert client.request("PUT", f"{UPLOAD}?digest={digest_of(small)}", body=small).status == 201
    proxy.wait_kept(digest_of(small))
    assert digest not in proxy.blobs()


def test_what_was_uploaded_before_the_machine_went_down_is_not_kept(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, image: Image
) -> None:
    """Its last bytes may be zeros."""
    origin = start_origin("reg.test")
    digest, body = next(iter(image.blobs.items()))
    origin.on(UPLOAD, by_method(PATCH=Answer(b"", 202, {"Location": UPLOAD}), PUT=created(digest)))
    proxy = start_proxy(origin, **KEEPS)
    client = talk(proxy, origin)
    assert client.request("PATCH", UPLOAD, body=body).status == 202
    (aside,) = proxy.parts()
    aside.write_bytes(bytes(len(body)))
    older = aside.rename(aside.with_name(aside.name.replace(boot_id(), "another")))
    assert client.request("PUT", f"{UPLOAD}?digest={digest}", body=b"").status == 201
    assert proxy.parts() == [older]
    origin.on(blob("lib/app", digest), blob_answer(digest, body))
    assert client.get(blob("lib/app", digest)).digest == digest
