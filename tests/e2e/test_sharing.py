"""What one client has put into a request never reaches an answer that another one gets."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regproxy.http.messages import parse_request
from regproxy.policy.sharing import shared
from regproxy.registry.accept import parse_accept
from regproxy.registry.targets import parse_target
from tests.support.client import Client
from tests.support.images import digest_of, make_image
from tests.support.origin import Answer, Origin, Seen
from tests.support.proxies import Proxies
from tests.support.proxy import STATUS, Proxy
from tests.support.virtual_hosts import VirtualHosts

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DIGEST = "sha256:" + "a" * 64
TAG, CONTENT = "/v2/lib/app/manifests/latest", f"/v2/lib/app/manifests/{DIGEST}"

SEEDS = itertools.count(100)  # content that no other test has

Start = Callable[..., Any]


def wait_for_requests(origin: Origin, count: int) -> None:
    origin.wait_for(lambda seen: len(seen.requests) >= count)


# --- through the proxy -------------------------------------------------------------------------------------


class Echo:
    """An origin whose tags are named by all that it was told: another request, another manifest."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.origin.on("/v2/*", self.answer)

    @staticmethod
    def told(seen: Seen) -> dict[str, Any]:
        heard = {"host", "connection", "accept-encoding", "content-length"}
        fields = sorted((name.lower(), value) for name, value in seen.headers if name.lower() not in heard)
        return {"target": seen.target, "fields": fields}

    def answer(self, seen: Seen) -> Answer:
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI, "annotations": self.told(seen)}).encode()
        return Answer(body, headers={"Content-Type": OCI, "Docker-Content-Digest": digest_of(body)})


FIELDS = st.sampled_from(
    [
        ("X-Dragonfly-Registry", "one"),
        ("X-Dragonfly-Registry", "two"),
        ("PRIVATE-TOKEN", "t"),
        ("Cookie", "a=b"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Http-Method-Override", "DELETE"),
        ("X-Original-Url", "/v2/other/manifests/latest"),
        ("Forwarded", "host=evil.example"),
        ("Traceparent", "00-1-1-01"),
        ("Accept-Language", "de"),
        ("Cache-Control", "no-cache"),
        ("X-Made-Up", "1"),
        ("Range", "bytes=0-3"),
        ("If-None-Match", '"x"'),
        ("Referer", "https://evil.example/"),
    ]
)
QUERIES = st.sampled_from(["", "?", "?ns=one", "?ns=two", "?platform=arm64", "?ns=one&x=1"])
SPELLINGS = st.sampled_from(["/v2/lib/app/manifests/{}", "/v2/lib/%61pp/manifests/{}"])


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_two_requests_share_an_answer_unless_the_key_says_so(shop: Shop, data: st.DataObject) -> None:
    """Whatever a client adds: nobody else's answer has it, and its own answer is to what it has asked."""
    tag = shop.next_tag()
    asked = []
    for _ in range(3):
        fields = data.draw(st.lists(FIELDS, max_size=2, unique_by=lambda field: field[0]))
        path = data.draw(SPELLINGS).format(tag) + data.draw(QUERIES)
        asked.append((path, fields))
    for path, fields in asked:
        reply = shop.get(path, {"Accept": OCI, "User-Agent": "a", **dict(fields)})
        if reply.status == 206 or reply.status == 304:
            continue
        said = json.loads(reply.body)["annotations"]
        names = {name for name, _ in said["fields"]}
        mine = {name.lower(): value for name, value in fields}
        # Nothing that was not in this very request.
        assert names <= {"accept", "user-agent", *mine}
        assert all(mine.get(name, value) == value for name, value in said["fields"])
        query = path.partition("?")[2]
        assert said["target"].partition("?")[2] == query or (query == "" and "?" not in said["target"])
        # And nothing is lost that may matter.
        kept = {"x-dragonfly-registry", "private-token", "x-made-up"}
        matters = {name.lower() for name, _ in fields} & kept
        assert matters <= names


class Shop:
    """A proxy before an Echo, with one client connection."""

    def __init__(self, start_origin: Start, start_proxy: Start, talk: Start) -> None:
        self.echo = Echo(start_origin("echo.test"))
        self.proxy: Proxy = start_proxy(self.echo.origin, ENABLE_MANIFEST_CACHE="true")
        self._talk = talk
        self._client: Client | None = None
        self._tags = 0

    def next_tag(self) -> str:
        self._tags += 1
        return f"t{self._tags}"

    def get(self, path: str, headers: dict[str, str]) -> Any:
        if self._client is None:
            self._client = self._talk(self.proxy, self.echo.origin)
        return self._client.get(path, headers)


@pytest.fixture
def shop(start_origin: Start, start_proxy: Start, talk: Start) -> Shop:
    return Shop(start_origin, start_proxy, talk)


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_namespace_is_part_of_a_tags_name(
    hosts: VirtualHosts, proxies: Proxies, talk: Start, cache: str
) -> None:
    """What containerd asks of a mirror: the same path, of two registries."""
    one, two = make_image(seed=next(SEEDS)), make_image(seed=next(SEEDS))
    origin = hosts.new()
    answers = {"ns=one": manifest_of(one), "ns=two": manifest_of(two)}
    origin.on(TAG, lambda seen: answers[seen.target.partition("?")[2]])
    proxy = proxies(ENABLE_MANIFEST_CACHE=cache)
    for _ in range(2):
        for query, image in (("ns=two", two), ("ns=one", one)):
            reply = talk(proxy, origin).get(f"{TAG}?{query}", {"Accept": OCI})
            assert reply.digest == image.digest
    if cache == "true":
        assert reply.get(STATUS) == "HIT"


def manifest_of(image: Any, **more: Any) -> Answer:
    headers = {"Content-Type": OCI, "Docker-Content-Digest": image.digest}
    return Answer(image.manifest, headers=headers, **more)


@pytest.mark.parametrize("name", ["X-JFrog-Art-Api", "PRIVATE-TOKEN"])
@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_key_in_another_header_lets_nobody_else_in(
    hosts: VirtualHosts, proxies: Proxies, talk: Start, name: str, cache: str
) -> None:
    image, hold = make_image(seed=next(SEEDS)), threading.Event()
    origin = hosts.new()

    def answer(seen: Seen) -> Answer:
        if seen.get(name) == "k":
            return manifest_of(image, hold_at=-1, hold=hold)
        return Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})

    origin.on(TAG, answer)
    proxy = proxies(ENABLE_MANIFEST_CACHE=cache)
    private, public = talk(proxy, origin), talk(proxy, origin)
    private.ask("GET", TAG, {"Accept": OCI, name: "k"})
    wait_for_requests(origin, 1)
    assert public.get(TAG, {"Accept": OCI}).status == 401
    hold.set()
    reply = private.read_reply()
    assert (reply.status, reply.digest, reply.get(STATUS)) == (200, image.digest, "BYPASS")
    assert "unkeyed-input" in reply.get("Cache-Status")
    assert public.get(TAG, {"Accept": OCI}).status == 401


def test_a_private_blob_is_had_with_a_key_in_another_header(
    hosts: VirtualHosts, proxies: Proxies, talk: Start
) -> None:
    """It is asked for without it first, as everybody may share that; what is refused goes as it came."""
    body = b"private"
    path = f"/v2/priv/app/blobs/{digest_of(body)}"
    origin = hosts.new()
    refusal = Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
    origin.on(path, lambda seen: Answer(body) if seen.get("x-jfrog-art-api") else refusal)
    proxy = proxies()
    for method in ("GET", "HEAD"):
        reply = talk(proxy, origin).request(method, path, {"X-JFrog-Art-Api": "k"})
        assert (reply.status, reply.get(STATUS)) == (200, "BYPASS")
        assert talk(proxy, origin).request(method, path).status == 401


def test_an_unknown_header_does_not_keep_content_from_the_cache(
    hosts: VirtualHosts, proxies: Proxies, talk: Start
) -> None:
    body = b"public"
    path = f"/v2/lib/app/blobs/{digest_of(body)}"
    origin = hosts.new()
    origin.on(path, Answer(body))
    proxy = proxies()
    said = [talk(proxy, origin).get(path, {"X-Made-Up": "1"}).get(STATUS) for _ in range(2)]
    assert (said, origin.hits[path]) == (["MISS", "HIT"], 1)
    assert origin.requests[0].get("x-made-up") is None


def test_a_client_does_not_write_the_challenge_that_others_get(
    hosts: VirtualHosts, proxies: Proxies, talk: Start
) -> None:
    origin, hold = hosts.new(), threading.Event()

    def challenge(seen: Seen) -> Answer:
        base = seen.get("x-jfrog-override-base-url") or origin.url
        realm = f'Bearer realm="{base}/token",service="{origin.name}"'
        return Answer(b"{}", 401, {"WWW-Authenticate": realm}, hold_at=-1, hold=hold)

    origin.on(CONTENT, challenge)
    proxy = proxies()
    attacker, victim = talk(proxy, origin), talk(proxy, origin)
    attacker.ask("GET", CONTENT, {"X-JFrog-Override-Base-Url": "https://evil.example"})
    wait_for_requests(origin, 1)
    victim.ask("GET", CONTENT)
    hold.set()
    assert "evil.example" not in victim.read_reply().get("www-authenticate")


def test_a_refusal_is_for_those_alone_who_have_asked_the_same(
    start_origin: Start, start_proxy: Start, talk: Start
) -> None:
    """Such as a firewall's, for a User-Agent that it does not like."""
    image, hold = make_image(seed=6), threading.Event()
    origin = start_origin("reg.test")

    def answer(seen: Seen) -> Answer:
        if seen.get("user-agent") == "scanner":
            return Answer(b"no", 403, hold_at=-1, hold=hold)
        return manifest_of(image)

    for path in (TAG, f"/v2/lib/app/manifests/{image.digest}"):
        hold.clear()
        origin.on(path, answer)
        proxy = start_proxy(origin, ENABLE_MANIFEST_CACHE="true")
        bad, good = talk(proxy, origin), talk(proxy, origin)
        before = len(origin.requests)
        bad.ask("GET", path, {"Accept": OCI, "User-Agent": "scanner"})
        wait_for_requests(origin, before + 1)
        good.ask("GET", path, {"Accept": OCI, "User-Agent": "containerd"})
        hold.set()
        assert (bad.read_reply().status, good.read_reply().status) == (403, 200)


# --- media types and platforms -----------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["text/html; charset=utf-8", DOCKER, "application/x-made-up", OCI_INDEX])
def test_a_registry_does_not_say_what_anothers_content_is(
    hosts: VirtualHosts, proxies: Proxies, talk: Start, told: str
) -> None:
    image = make_image(seed=next(SEEDS))
    evil, good = hosts.new(), hosts.new()
    evil.on(f"/v2/x/y/manifests/{image.digest}", Answer(image.manifest, headers={"Content-Type": told}))
    good.publish("lib/app", image, "latest")
    proxy = proxies(ENABLE_MANIFEST_CACHE="true")
    assert talk(proxy, evil).get(f"/v2/x/y/manifests/{image.digest}", {"Accept": OCI}).status == 200
    for method in ("GET", "HEAD"):
        reply = talk(proxy, good).request(method, f"/v2/lib/app/manifests/{image.digest}", {"Accept": OCI})
        # Whether it is in that repository is asked of its registry once.
        word = "HIT" if method == "GET" else "MISS"
        assert (reply.status, reply.get("content-type"), reply.get(STATUS)) == (200, OCI, word)
    reply = talk(proxy, good).get("/v2/lib/app/manifests/latest", {"Accept": OCI})
    assert (reply.status, reply.get("content-type")) == (200, OCI)


def test_what_content_does_not_say_each_repository_says_for_itself(
    hosts: VirtualHosts, proxies: Proxies, talk: Start
) -> None:
    body = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
    digest = digest_of(body)
    one, two = hosts.new(), hosts.new()
    paths = {"a": f"/v2/a/manifests/{digest}", "b": f"/v2/b/manifests/{digest}"}
    one.on(paths["a"], Answer(body, headers={"Content-Type": DOCKER}))
    one.on(paths["b"], Answer(body, headers={"Content-Type": OCI}))
    two.on(paths["a"], Answer(body, headers={"Content-Type": OCI}))
    proxy = proxies()
    for _ in range(2):
        assert talk(proxy, one).get(paths["a"]).get("content-type") == DOCKER
    # By its shape, where nobody has said anything there.
    assert talk(proxy, one).get(paths["b"]).get("content-type") == OCI
    assert talk(proxy, two).get(paths["a"]).get("content-type") == OCI
    assert talk(proxy, one).request("HEAD", paths["a"]).get("content-type") == DOCKER


def test_one_odd_accept_pins_no_platform_for_others(
    hosts: VirtualHosts, proxies: Proxies, talk: Start
) -> None:
    """As registries do: who does not name the list's very type gets one platform's manifest."""
    single = json.dumps({"schemaVersion": 2, "mediaType": DOCKER, "config": {}, "layers": []}).encode()
    child = {"mediaType": DOCKER, "digest": digest_of(single), "size": len(single)}
    listed = json.dumps({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [child]}).encode()
    origin = hosts.new()

    def answer(seen: Seen) -> Answer:
        takes = DOCKER_LIST in ",".join(seen.all("accept"))
        body, media_type = (listed, DOCKER_LIST) if takes else (single, DOCKER)
        return Answer(body, headers={"Content-Type": media_type, "Docker-Content-Digest": digest_of(body)})

    origin.on(TAG, answer)
    origin.on(f"/v2/lib/app/manifests/{digest_of(listed)}", answer)
    proxy = proxies(ENABLE_MANIFEST_CACHE="true")
    full, odd = ", ".join((DOCKER_LIST, OCI_INDEX, DOCKER, OCI)), f"{OCI_INDEX}, {DOCKER}"
    for method in ("GET", "HEAD"):
        for accept, want in ((odd, DOCKER), (full, DOCKER_LIST), (odd, DOCKER), (full, DOCKER_LIST)):
            reply = talk(proxy, origin).request(method, TAG, {"Accept": accept})
            assert (reply.status, reply.get("content-type")) == (200, want)
    assert reply.get(STATUS) == "HIT"


ACCEPTS = [
    (["*/*;q=0.1, {oci};q=1"], "{oci}, */*"),
    (["{list};q=0.1", "{oci}"], "{list}, {oci}"),
    (["{oci}", "{list}"], "{list}, {oci}"),
    (["\xa0{list}, {oci}"], "{oci}"),
    (["{list}\x85, {oci}"], "{oci}"),
    (["{oci};q=0, {list}"], "{list}, {oci};q=0"),
    (["nonsense"], None),
]


@pytest.mark.parametrize("lines, sent", ACCEPTS)
def test_the_accept_that_is_sent_is_that_of_the_key(lines: list[str], sent: str | None) -> None:
    """What a registry may read otherwise than we do does not reach it."""
    types = {"oci": OCI, "list": DOCKER_LIST}
    text = "\r\n".join(f"Accept: {line.format(**types)}" for line in lines)
    raw = f"GET {TAG} HTTP/1.1\r\nHost: reg.test\r\n{text}\r\n\r\n".encode("latin-1")
    request = parse_request(raw)
    found = shared(request, parse_target(request.path)).request
    assert b", ".join(found.all(b"accept")).decode() == (sent or "").format(**types)
    assert parse_accept(found.all(b"accept")) == parse_accept(request.all(b"accept"))


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("section", ["blobs", "manifests"])
def test_a_registry_does_not_hold_up_anothers_clients(
    hosts: VirtualHosts, proxies: Proxies, talk: Start, workers: str, section: str
) -> None:
    """Nor are they given what it sends before that is verified."""
    image, size = make_image(seed=next(SEEDS)), 1 << 20
    body = image.manifest if section == "manifests" else random.randbytes(size)
    path, hold = f"/v2/x/{section}/{digest_of(body)}", threading.Event()
    good, evil = hosts.new(), hosts.new()
    good.on(path, Answer(body, headers={"Content-Type": OCI}))
    held = Answer(body, hold_at=-1, hold=hold) if section == "manifests" else None
    evil.on(path, held or Answer(b"E" * size, hold_at=100_000, hold=hold))
    proxy = proxies(REGPROXY_WORKERS=workers)
    attacker = talk(proxy, evil)
    attacker.ask("GET", path)
    wait_for_requests(evil, 1)
    for _ in range(6):
        reply = talk(proxy, good).get(path)
        assert (reply.status, reply.body == body) == (200, True)
    assert good.hits[path] == 1
    hold.set()
    attacker.read_reply()
    assert talk(proxy, good).get(path).get(STATUS) == "HIT"


# --- connections and hosts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", TAG, "/token"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_where_none_has_a_meaning_is_refused(
    hosts: VirtualHosts, proxies: Proxies, talk: Start, method: str, path: str, framing: str
) -> None:
    origin = hosts.new()
    proxy = proxies()
    client = talk(proxy, origin)
    line = "Content-Length: 5" if framing == "length" else "Transfer-Encoding: chunked"
    client.send(f"{method} {path} HTTP/1.1\r\nHost: {origin.authority}\r\n{line}\r\n\r\n".encode())
    reply = client.read_reply(method)
    assert (reply.status, reply.get("connection")) == (400, "close")
    assert origin.requests == []


def test_a_connection_that_carried_a_clients_body_is_nobody_elses(
    start_origin: Start, start_proxy: Start, talk: Start
) -> None:
    """An origin that leaves it unread would take it for the next request, whose answer is not ours."""
    origin = start_origin("reg.test")
    origin.on("/token", Answer(b"{}"))
    origin.on("/v2/", Answer(b"{}"))
    proxy = start_proxy(origin)
    assert talk(proxy, origin).request("POST", "/token", {}, b"GET /v2/evil HTTP/1.1\r\n\r\n").status == 200
    assert talk(proxy, origin).get("/v2/").status == 200
    assert [seen.connection for seen in origin.requests] == [1, 2]


HOSTS = [
    ("{name}", 200),
    ("{Name}.", 200),
    ("{authority}", 200),
    ("{name}:", 200),
    ("other.test", 421),
    ("other.test:{port}", 421),
    ("{name}:1", 421),
    ("evil-{name}", 421),
]


@pytest.mark.parametrize("host, status", HOSTS)
@pytest.mark.parametrize("form", ["host", "absolute"])
def test_another_host_within_a_connect(
    hosts: VirtualHosts, proxies: Proxies, talk: Start, host: str, status: int, form: str
) -> None:
    origin = hosts.new()
    origin.on("/v2/_catalog", Answer(b"{}"))
    proxy = proxies()
    name = host.format(
        name=origin.name, Name=origin.name.upper(), authority=origin.authority, port=origin.port
    )
    if form == "absolute" and name.endswith(":"):
        name = name[:-1]
    target = "/v2/_catalog" if form == "host" else f"https://{name}/v2/_catalog"
    said = name if form == "host" else "whatever.test"
    client = talk(proxy, origin)
    client.send(f"GET {target} HTTP/1.1\r\nHost: {said}\r\n\r\n".encode())
    assert client.read_reply("GET").status == status
    assert len(origin.requests) == (status == 200)


@pytest.mark.parametrize("path", ["/v2/_catalog", TAG, f"/v2/a/blobs/{DIGEST}"])
def test_a_204_announces_no_body(hosts: VirtualHosts, proxies: Proxies, talk: Start, path: str) -> None:
    origin = hosts.new()
    raw = b"HTTP/1.1 204 No Content\r\nContent-Length: 10\r\nX-A: b\r\n\r\n"
    origin.on(path, Answer(raw=raw))
    proxy = proxies()
    method = "GET" if path == "/v2/_catalog" else "HEAD"
    client = talk(proxy, origin)
    reply = client.request(method, path)
    assert (reply.status, reply.get("content-length")) == (204, None)
    assert client.request(method, path).status == 204


def test_interim_answers_without_end_are_refused(hosts: VirtualHosts, proxies: Proxies, talk: Start) -> None:
    origin = hosts.new()
    origin.on("/token", Answer(b"{}", interim=(b"HTTP/1.1 102 Processing\r\n\r\n",) * 200))
    proxy = proxies()
    assert talk(proxy, origin).request("POST", "/token", {}, b"a=b").status == 502
