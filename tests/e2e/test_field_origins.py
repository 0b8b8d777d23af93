"""Origins that take their time, and such as answer HEAD otherwise than GET: pulls go on."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, Image, digest_of, make_image
from tests.support.origin import Answer, Origin, Script, Seen, blob_answer, manifest_answer, redirect
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX)]
HOSTS = 400
NUMBERS = itertools.count()
NAMES = (f"reg{number}.test" for number in range(HOSTS))
Through = Callable[[], Client]


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "cdn.test", *(f"reg{number}.test" for number in range(HOSTS))) as origin:
        yield origin


@pytest.fixture(scope="module", params=["true", "false"], ids=["tags are kept", "tags are asked for"])
def proxy(
    request: pytest.FixtureRequest, origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    env = {
        "ENABLE_MANIFEST_CACHE": request.param,
        "MANIFEST_CACHE_DEFAULT_TIME": "1s",
        "PROXY_READ_TIMEOUT": "1s",
        "REGPROXY_FIRST_BYTE_TIMEOUT": "900s",
        "REGPROXY_STALE_AFTER": "500ms",
        "REGPROXY_CONNECT_PORTS": f"{origin.port}",
    }
    names = tuple(f"{name}:{origin.port}" for name in origin.names)
    place = tmp_path_factory.mktemp("proxy")
    with Proxy(place, env, registries=names, resolve=origin.resolve, ca=trust.path) as proxy:
        yield proxy
    assert "Traceback" not in proxy.log(), proxy.log()


@pytest.fixture
def through(proxy: Proxy, origin: Origin, stack: ExitStack) -> Through:
    """Clients of a registry of the test's own."""
    host = f"{next(NAMES)}:{origin.port}"
    return lambda: stack.enter_context(proxy.client(host))


@pytest.fixture
def go() -> Iterator[threading.Event]:
    go = threading.Event()
    yield go
    go.set()


def letters() -> str:
    """Return the end of a tag's name that makes it no version: those are of a tier with a longer time."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(next(NUMBERS)))


def image() -> Image:
    return make_image(size=100, layers=1, seed=next(NUMBERS))


def expired(client: Client, path: str) -> None:
    """Fetch a tag, and wait until its copy is not fresh any more."""
    client.get(path, ACCEPT)
    wait_until(lambda: said(client.get(path, ACCEPT))[0] == "REVALIDATED", "it expires")


# --- slow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_registry_that_hangs_while_a_tag_is_held(
    method: str, through: Through, origin: Origin, go: threading.Event
) -> None:
    """The copy is served before clients give up; the revalidation goes on, and what it brings stays."""
    old, new, path = image(), image(), f"/v2/app/manifests/slow{letters()}"
    origin.on(path, manifest_answer(old))
    client = through()
    client.get(path, ACCEPT)
    origin.on(path, manifest_answer(new, hold_at=-1, hold=go))
    origin.on(f"/v2/app/manifests/{new.digest}", manifest_answer(new))

    def stale() -> Reply | None:
        reply = client.request(method, path, ACCEPT)
        assert (reply.status, reply.get("Docker-Content-Digest")) == (200, old.digest)
        return reply if said(reply)[0] == "STALE" else None

    wait_until(stale, "it expires, and its registry says nothing")
    go.set()
    wait_until(lambda: client.get(path, ACCEPT).digest == new.digest, "what it says is heard")


def test_a_registry_whose_ping_hangs(through: Through, origin: Origin, go: threading.Event) -> None:
    """dockerd asks it first, for 15 seconds at most."""
    origin.on("/v2/", Answer(b"{}", hold_at=-1, hold=go))
    assert through().get("/v2/").status == 200


@pytest.mark.parametrize("kind", ["blobs", "manifests"])
def test_content_that_begins_late(kind: str, through: Through, origin: Origin, go: threading.Event) -> None:
    """By digest: it may take longer than anything else, and goes on without its client."""
    if kind == "blobs":
        body = random.Random(f"late {next(NUMBERS)}").randbytes(1000)
        answer = blob_answer(digest_of(body), body, hold_at=-1, hold=go)
    else:
        body = image().manifest
        answer = Answer(body, headers={"Content-Type": MANIFEST}, hold_at=-1, hold=go)
    path = f"/v2/app/{kind}/{digest_of(body)}"
    origin.on(path, answer)
    client, leaves = through(), through()
    client.ask("GET", path, ACCEPT)
    leaves.ask("GET", path, ACCEPT)
    origin.wait_for(lambda origin: origin.hits[path] == 1)
    leaves.close()
    assert not go.wait(2.0), "longer than PROXY_READ_TIMEOUT, in which nothing is to happen"
    go.set()
    reply = client.read_reply()
    assert (reply.status, reply.body) == (200, body)
    assert origin.hits[path] == 1


# --- HEAD ------------------------------------------------------------------------------------------------


def get_alone(status: int, answer: Answer) -> Script:
    return lambda seen: answer if seen.method == "GET" else Answer(b"", status)


KINDS = ["blobs", "manifests", "tag"]
STATUSES = [403, 404, 405, 501]


def content(kind: str) -> tuple[str, str, Answer]:
    """Return a path, a digest, and what a GET is answered."""
    if kind == "blobs":
        body = random.Random(f"head {next(NUMBERS)}").randbytes(100_000)
        return f"/v2/app/blobs/{digest_of(body)}", digest_of(body), blob_answer(digest_of(body), body)
    found = image()
    name = found.digest if kind == "manifests" else f"t{letters()}"
    return f"/v2/app/manifests/{name}", found.digest, manifest_answer(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_registry_that_answers_get_alone(status: int, kind: str, through: Through, origin: Origin) -> None:
    """A GET's head answers HEAD; from then on HEAD is not tried."""
    client = through()
    for number in range(2):
        path, digest, answer = content(kind)
        origin.on(path, get_alone(status, answer))
        reply = client.request("HEAD", path, ACCEPT)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.get("Docker-Content-Digest") == digest
        assert reply.get("Content-Length") == str(len(answer.body))
        methods = [seen.method for seen in origin.requests if seen.path == path]
        assert methods == (["HEAD", "GET"] if number == 0 else ["GET"])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_url_that_is_signed_for_get(status: int, through: Through, origin: Origin) -> None:
    client = through()
    path, digest, answer = content("blobs")
    signed = f"/signed/{next(NUMBERS)}"
    origin.on(path, redirect(f"https://cdn.test:{origin.port}{signed}?sig=x", status))
    origin.on(signed, get_alone(403, answer))
    reply = client.request("HEAD", path)
    assert (reply.status, reply.get("Docker-Content-Digest")) == (200, digest)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_not_there(kind: str, status: int, through: Through, origin: Origin) -> None:
    """A registry that refuses both is believed; one that has answered a HEAD is asked by that alone."""
    client = through()
    path, _, answer = content(kind)
    origin.on(path, Answer(b"", status))
    assert client.request("HEAD", path, ACCEPT).status == status
    there, _, answer = content(kind)
    origin.on(there, answer)
    assert client.request("HEAD", there, ACCEPT).status == 200
    origin.forget()
    origin.on(path, Answer(b"", status))
    assert client.request("HEAD", path, ACCEPT).status == status
    methods = [seen.method for seen in origin.requests if seen.path == path]
    assert methods == (["HEAD"] if status in (403, 404) else ["HEAD", "GET"])


@pytest.mark.parametrize("status", [400, 403, 404, 406])
@pytest.mark.parametrize("where", ["direct", "cdn"])
@pytest.mark.parametrize("known", ["another kind", "another repository"])
@pytest.mark.parametrize("kind", KINDS)
def test_head_is_known_for_other_content(
    kind: str, known: str, where: str, status: int, through: Through, origin: Origin
) -> None:
    """What a registry has answered says nothing of what it, or its CDN, answers elsewhere."""
    client = through()

    def put(path: str, script: Script) -> None:
        if where == "cdn":
            origin.on(path, redirect(f"https://cdn.test:{origin.port}/cdn{path}"))
            path = f"/cdn{path}"
        origin.on(path, script)

    other = kind if known == "another repository" else "manifests" if kind == "blobs" else "blobs"
    there, _, answer = content(other)
    there = there.replace("/app/", "/other/") if known == "another repository" else there
    put(there, answer)
    assert client.request("HEAD", there, ACCEPT).status == 200
    path, digest, answer = content(kind)
    put(path, get_alone(status, answer))
    reply = client.request("HEAD", path, ACCEPT)
    assert (reply.status, reply.get("Docker-Content-Digest")) == (200, digest)
    if known == "another repository":
        # Which goes on with HEAD.
        there, _, answer = content(kind)
        there = there.replace("/app/", "/other/")
        put(there, answer)
        assert client.request("HEAD", there, ACCEPT).status == 200
        assert {seen.method for seen in origin.requests if seen.path.endswith(there)} == {"HEAD"}


@pytest.mark.parametrize("status", [403, 404])
def test_another_registry_of_the_same_cdn(
    status: int, proxy: Proxy, through: Through, origin: Origin, stack: ExitStack
) -> None:
    """It has answered HEADs for one of them."""
    second = stack.enter_context(proxy.client(f"{next(NAMES)}:{origin.port}"))
    for client, knows_head in ((through(), True), (second, False)):
        path, digest, answer = content("blobs")
        signed = f"/shared/{next(NUMBERS)}"
        origin.on(path, redirect(f"https://cdn.test:{origin.port}{signed}"))
        origin.on(signed, answer if knows_head else get_alone(status, answer))
        reply = client.request("HEAD", path)
        assert (reply.status, reply.get("Docker-Content-Digest")) == (200, digest)


TROUBLE = {
    "429": Answer(b"", 429, {"Retry-After": "60"}),
    "503": Answer(b"", 503),
    "401": Answer(b"", 401),
    "cut": Answer(cut_at=-1),
    "astray": redirect("ftp://elsewhere.example/"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("kind", KINDS)
def test_a_get_that_tells_no_more(
    kind: str, status: int, trouble: str, through: Through, origin: Origin
) -> None:
    """The HEAD's answer counts: it is what clients hear without the proxy."""
    path, *_ = content(kind)
    origin.on(path, lambda seen: TROUBLE[trouble] if seen.method == "GET" else Answer(b"", status))
    assert through().request("HEAD", path, ACCEPT).status == status


@pytest.mark.parametrize("trouble", ["429", "503", "cut"])
def test_a_doubtful_head_and_trouble_cost_no_copy(trouble: str, through: Through, origin: Origin) -> None:
    client, (path, digest, answer) = through(), content("tag")
    origin.on(path, get_alone(405, answer))
    expired(client, path)
    origin.on(path, lambda seen: TROUBLE[trouble] if seen.method == "GET" else Answer(b"", 404))

    def stale() -> bool:
        reply = client.request("HEAD", path, ACCEPT)
        assert (reply.status, reply.get("Docker-Content-Digest")) == (200, digest)
        return said(reply)[0] == "STALE"

    wait_until(stale, "it expires, and its registry is in trouble")


def test_an_expired_tag_where_there_is_no_head(through: Through, origin: Origin) -> None:
    """It is confirmed by the head of a GET."""
    client, (path, digest, answer) = through(), content("tag")

    def counts(seen: Seen) -> Answer:
        return answer if seen.method == "GET" else Answer(b"", 405)

    origin.on(path, counts)
    expired(client, path)
    assert client.get(path, ACCEPT).digest == digest
