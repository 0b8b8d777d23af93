"""Hits that are answered again without a look-up: the same answers, log and counts, and revoked at once."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import MANIFEST, Image, make_image
from tests.support.origin import Origin
from tests.support.processes import accepts, wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.trust import Trust
from tests.support.two_workers import Pair

StartProxy = Callable[..., Proxy]
StartRegistry = Callable[..., Registry]
Fields = list[tuple[str, str]]

REPEATED = "regproxy_repeated_answers_total"
ACCEPT = [("Accept", MANIFEST)]
CACHED = {"ENABLE_MANIFEST_CACHE": "true", "MANIFEST_CACHE_DEFAULT_TIME": "1h"}
IMAGE = make_image(size=900, layers=1, seed=4711)
LAYER = max(IMAGE.blobs, key=lambda digest: len(IMAGE.blobs[digest]))
# What differs between two answers, or two lines of the log, by the time alone.
# Of one request alone.
OWN = frozenset({"date", "access_time", "request_time", "x-request-id", "request_id"})


class Ask(NamedTuple):
    """A request that is a hit when it comes again."""

    method: str
    path: str
    fields: Fields
    status: int = 200


def of_digest(digest: str) -> Fields:
    return [*ACCEPT, ("If-None-Match", f'"{digest}"')]


ASKS = {
    "a manifest by tag": Ask("GET", "/v2/app/manifests/v1", ACCEPT),
    "its head": Ask("HEAD", "/v2/app/manifests/v1", ACCEPT),
    "a manifest by digest": Ask("GET", f"/v2/app/manifests/{IMAGE.digest}", ACCEPT),
    "the head of that": Ask("HEAD", f"/v2/app/manifests/{IMAGE.digest}", ACCEPT),
    "a tag that has not changed": Ask("GET", "/v2/app/manifests/v1", of_digest(IMAGE.digest), 304),
    "a tag that has": Ask("GET", "/v2/app/manifests/v1", of_digest("sha256:" + "0" * 64)),
    "content that the client has": Ask("GET", f"/v2/app/blobs/{LAYER}", of_digest(LAYER), 304),
    "a small blob": Ask("GET", f"/v2/app/blobs/{LAYER}", []),
    "its head too": Ask("HEAD", f"/v2/app/blobs/{LAYER}", []),
}
# These have a file as their body, and go by the session each time.
BY_SESSION = frozenset({"a tag that has"})


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        origin.publish("app", IMAGE, "v1")
        yield origin


@pytest.fixture(scope="module")
def proxies(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    with Proxies(tmp_path_factory, trust, origin, registries=None, **CACHED) as proxies:
        yield proxies


def repeat(client: Client, proxy: Proxy, ask: Ask) -> Reply:
    """Ask until an answer was sent again by the data plane; return that of the last request."""
    before = proxy.metric(REPEATED)

    def again() -> Reply | None:
        for _ in range(20):
            reply = client.request(ask.method, ask.path, ask.fields)
        return reply if proxy.metric(REPEATED) > before else None

    return wait_until(again, "an answer is repeated")


def shown(reply: Reply) -> tuple[int, list[tuple[str, str]], bytes]:
    headers = [(name.lower(), value) for name, value in reply.headers]
    return reply.status, [field for field in headers if field[0] not in OWN], reply.body


class TestTheSame:
    """As a proxy answers that looks everything up."""

    @pytest.mark.parametrize("name", sorted(ASKS))
    def test_answer(self, name: str, origin: Origin, proxies: Proxies) -> None:
        ask, replies = ASKS[name], {}
        for setting in ("true", "false"):
            proxy = proxies(REGPROXY_REPEAT_ANSWERS=setting)
            with proxy.client(origin.authority) as client:
                client.get(ask.path, ACCEPT)
                if setting == "true" and name not in BY_SESSION:
                    replies[setting] = repeat(client, proxy, ask)
                else:
                    for _ in range(4):
                        replies[setting] = client.request(ask.method, ask.path, ask.fields)
        assert replies["true"].status == ask.status
        assert shown(replies["true"]) == shown(replies["false"])

    @pytest.mark.parametrize("log_format", ["regproxy", "rp"])
    def test_log(self, log_format: str, origin: Origin, proxies: Proxies) -> None:
        ask, lines = ASKS["a manifest by tag"], {}
        for setting in ("true", "false"):
            proxy = proxies(REGPROXY_REPEAT_ANSWERS=setting, REGPROXY_ACCESS_LOG_FORMAT=log_format)
            with proxy.client(origin.authority) as client:
                client.get(ask.path, ACCEPT)
                if setting == "true":
                    repeat(client, proxy, ask)
                else:
                    client.get(ask.path, ACCEPT)
                count = proxy.metric("regproxy_requests_total", cache="HIT")
            hits = proxy.access_log(int(count), check=lambda line: line["upstream_cache_status"] == "HIT")
            assert all(set(line) == set(hits[0]) for line in hits)
            told = {tuple((k, v) for k, v in line.items() if k not in OWN) for line in hits}
            assert len(told) == 1
            lines[setting] = told
        assert lines["true"] == lines["false"]

    def test_counts(self, origin: Origin, proxies: Proxies) -> None:
        proxy = proxies(REGPROXY_REPEAT_ANSWERS="true", HOSTNAME="counts")
        ask, asked = ASKS["a manifest by digest"], 0
        with proxy.client(origin.authority) as client:
            client.get(ask.path, ACCEPT)
            while proxy.metric(REPEATED) < 50:
                for _ in range(20):
                    client.get(ask.path, ACCEPT)
                asked += 20
        wait_until(lambda: proxy.metric("regproxy_requests_total", cache="HIT") == asked, "all are counted")
        saved = proxy.metric("regproxy_saved_bytes_total")
        assert saved == asked * len(IMAGE.manifest)

    def test_pipelined(self, origin: Origin, proxies: Proxies) -> None:
        """Answers keep their order, also with others between them."""
        proxy = proxies(REGPROXY_REPEAT_ANSWERS="true")
        one, two = ASKS["a manifest by tag"], ASKS["a small blob"]
        with proxy.client(origin.authority) as client:
            repeat(client, proxy, one)
            for _ in range(3):
                for ask in (one, two, one):
                    client.ask(ask.method, ask.path, ask.fields)
                bodies = [client.read_reply().body for _ in range(3)]
                assert bodies == [IMAGE.manifest, IMAGE.blobs[LAYER], IMAGE.manifest]

    def test_a_request_that_ends_the_connection(self, origin: Origin, proxies: Proxies) -> None:
        proxy, ask = proxies(REGPROXY_REPEAT_ANSWERS="true"), ASKS["a manifest by tag"]
        for _ in range(4):
            with proxy.client(origin.authority) as client:
                client.request("GET", ask.path, [*ask.fields, ("Connection", "close")])
                reply = client.read_end()
                assert reply == (b"", End.CLOSE_NOTIFY)

    def test_new_connections(self, origin: Origin, proxies: Proxies) -> None:
        """What one connection was answered others are, too."""
        proxy, ask = proxies(REGPROXY_REPEAT_ANSWERS="true"), ASKS["a manifest by tag"]
        before = proxy.metric(REPEATED)
        with proxy.client(origin.authority) as hot:

            def again() -> bool:
                for _ in range(4):
                    hot.get(ask.path, ask.fields)
                told = proxy.metric(REPEATED)
                with proxy.client(origin.authority) as client:
                    assert client.get(ask.path, ask.fields).body == IMAGE.manifest
                return told > before

            wait_until(again, "an answer is repeated")

    def test_mirror_mode(self, origin: Origin, proxies: Proxies) -> None:
        """Without CONNECT the head says which registry is meant: the same path of another is another's."""
        proxy, path = proxies(REGPROXY_REPEAT_ANSWERS="true"), f"/v2/app/manifests/v1?ns={origin.authority}"
        with Client.connect(proxy.address) as client:
            client.get(path, ACCEPT)
            assert repeat(client, proxy, Ask("GET", path, ACCEPT)).body == IMAGE.manifest
            other = client.get("/v2/app/manifests/v1?ns=other.test", ACCEPT)
            assert other.status == 403
            assert repeat(client, proxy, Ask("GET", path, ACCEPT)).body == IMAGE.manifest

    def test_a_client_that_takes_nothing_for_a_while(self, origin: Origin, proxies: Proxies) -> None:
        """What the kernel does not take at once is sent when it does, and counted once."""
        proxy, ask = proxies(REGPROXY_REPEAT_ANSWERS="true"), ASKS["a manifest by tag"]
        with proxy.client(origin.authority) as client:
            repeat(client, proxy, ask)
            many = 8_000
            for _ in range(many):
                client.ask(ask.method, ask.path, ask.fields)
            for _ in range(many):
                assert client.read_reply().body == IMAGE.manifest


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")
class TestRevoked:
    """What changes by way of one worker is changed in the next answer of the other."""

    @pytest.fixture
    def registry(self, start_registry: StartRegistry) -> Registry:
        return start_registry()

    @pytest.fixture
    def pair(self, registry: Registry, start_proxy: StartProxy) -> Pair:
        settings = {**CACHED, "ALLOW_PUSH": "true", "REGPROXY_WORKERS": "2"}
        return Pair(start_proxy(registry, **settings), registry.authority)

    @pytest.fixture
    def clients(self, pair: Pair, stack: ExitStack) -> tuple[Client, Client]:
        """A connection to each worker."""
        one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
        return one, two

    def put(self, client: Client, image: Image) -> None:
        for digest, body in image.blobs.items():
            place = client.request("POST", "/v2/app/blobs/uploads/", body=b"").get("location")
            assert place is not None
            path = "/" + place.split("/", 3)[3]
            mark = "&" if "?" in path else "?"
            assert client.request("PUT", f"{path}{mark}digest={digest}", {}, body).status == 201
        put = client.request("PUT", "/v2/app/manifests/v1", {"Content-Type": MANIFEST}, image.manifest)
        assert put.status == 201

    @pytest.mark.parametrize("how", ["here", "there"])
    def test_a_tag_moves(self, how: str, pair: Pair, clients: tuple[Client, Client]) -> None:
        one, two = clients
        other = one if how == "here" else two
        for seed in range(3):
            image = make_image(size=900, layers=1, seed=seed)
            self.put(other, image)
            one.get("/v2/app/manifests/v1", ACCEPT)
            reply = repeat(one, pair.proxy, Ask("GET", "/v2/app/manifests/v1", ACCEPT))
            assert reply.digest == image.digest

    @pytest.mark.parametrize("how", ["here", "there"])
    def test_a_manifest_is_deleted(self, how: str, pair: Pair, clients: tuple[Client, Client]) -> None:
        one, two = clients
        other = one if how == "here" else two
        self.put(one, IMAGE)
        for path in (f"/v2/app/manifests/{IMAGE.digest}", "/v2/app/manifests/v1"):
            one.get(path, ACCEPT)
            assert repeat(one, pair.proxy, Ask("GET", path, ACCEPT)).status == 200
        assert other.request("DELETE", f"/v2/app/manifests/{IMAGE.digest}").status == 202
        for path in (f"/v2/app/manifests/{IMAGE.digest}", "/v2/app/manifests/v1"):
            assert one.get(path, ACCEPT).status == 404


def test_a_drained_worker_announces_the_end(origin: Origin, start_proxy: StartProxy) -> None:
    """What goes out in a shutdown says that the connection ends with it."""
    proxy = start_proxy(origin, **CACHED, REGPROXY_WORKERS="1")
    ask = ASKS["a manifest by tag"]
    with proxy.client(origin.authority) as client:
        client.get(ask.path, ACCEPT)
        repeat(client, proxy, ask)
        head = client.head(ask.method, ask.path, ask.fields)
        # Half a head keeps the connection from being idle, and so from being closed at once.
        client.send(head[:20])
        proxy.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(proxy.address), "it does not listen any more")
        client.sent.append(ask.method)
        client.send(head[20:])
        assert client.read_reply().get("connection") == "close"
