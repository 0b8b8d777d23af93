"""Tags, the one port and operation of the proxy as a process, byte by byte."""

from __future__ import annotations

import itertools
import ssl
import threading
from collections.abc import Callable, Iterable

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client, open_tunnel
from tests.support.images import Image, digest_of, make_image, make_index
from tests.support.origin import Answer, Origin, blob_answer, manifest_answer, redirect
from tests.support.processes import wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import STATUS, Proxy, cache_status, said
from tests.support.trust import Trust
from tests.support.virtual_hosts import VirtualHosts

StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

BODY = b"".join(digest_of(bytes([number])).encode() for number in range(256)) * 60  # a bit over 1 MB
BLOB = digest_of(BODY)
PATH = f"/v2/app/blobs/{BLOB}"


SEEDS = itertools.count(500)
CACHED = {"ENABLE_MANIFEST_CACHE": "true"}


@pytest.fixture
def origin(hosts: VirtualHosts) -> Origin:
    """An origin of the test's own, with one blob, which others have too."""
    origin = hosts.new()
    origin.on(PATH, blob_answer(BLOB, BODY))
    return origin


class TestTags:
    """A tag's manifest: by the tiers, or asked for each time."""

    @pytest.fixture
    def served(self, origin: Origin) -> Image:
        image = make_image(seed=next(SEEDS))
        origin.publish("app", image, "stable-1", "v1.2.3", "latest", "v1")
        return image

    @pytest.mark.parametrize(
        "tag, kind",
        [("stable-1", "manifest-primary"), ("v1.2.3", "manifest-secondary"), ("latest", "manifest-default")],
    )
    def test_on(
        self, tag: str, kind: str, served: Image, origin: Origin, proxies: Proxies, talk: Talk
    ) -> None:
        client = talk(proxies(**CACHED), origin)
        path = f"/v2/app/manifests/{tag}"
        replies = [client.get(path) for _ in range(3)]
        assert [said(reply) for reply in replies] == [("MISS", kind), ("HIT", kind), ("HIT", kind)]
        head = client.request("HEAD", path)
        for reply in (*replies, head):
            assert reply.status == 200
            assert reply.get("Content-Type") == served.media_type
            assert reply.get("Docker-Content-Digest") == served.digest
            assert reply.get("Content-Length") == str(len(served.manifest))
        assert {reply.body for reply in replies} == {served.manifest}
        assert cache_status(replies[1]).endswith("; hit") or "; hit;" in cache_status(replies[1])
        assert client.get(f"/v2/app/manifests/{served.digest}").body == served.manifest
        assert len(origin.requests) == 1

    def test_off(self, served: Image, origin: Origin, proxies: Proxies, talk: Talk) -> None:
        client = talk(proxies(), origin)
        replies = [client.get("/v2/app/manifests/v1") for _ in range(3)]
        assert {said(reply)[1] for reply in replies} == {"manifest-default-disabled"}
        assert "HIT" not in {said(reply)[0] for reply in replies}
        assert {reply.body for reply in replies} == {served.manifest}
        assert origin.hits["/v2/app/manifests/v1"] == 3
        assert said(client.get(f"/v2/app/manifests/{served.digest}")) == ("HIT", "manifest-by-digest")

    @pytest.mark.parametrize("cached", ["true", "false"])
    @pytest.mark.parametrize(
        "trouble",
        [Answer(b"x", 500), Answer(b"x", 502), Answer(b"x", 504), Answer(b"x", 429), Answer(cut_at=-1)],
        ids=["500", "502", "504", "429", "cut"],
    )
    def test_stale(
        self, cached: str, trouble: Answer, served: Image, origin: Origin, proxies: Proxies, talk: Talk
    ) -> None:
        env = {"ENABLE_MANIFEST_CACHE": cached, "MANIFEST_CACHE_DEFAULT_TIME": "0s"}
        client = talk(proxies(**env), origin)
        path = "/v2/app/manifests/latest"
        assert client.get(path).status == 200
        origin.on(path, trouble)
        for method, body in (("GET", served.manifest), ("HEAD", b"")):
            reply = client.request(method, path)
            assert (reply.status, reply.body, said(reply)[0]) == (200, body, "STALE")
            assert reply.get("Docker-Content-Digest") == served.digest
        origin.on(path, Answer(b"gone", 404))
        # 429 is remembered for a moment.
        wait_until(lambda: client.get(path).status == 404, "the registry is asked")

    def test_trouble_with_nothing_kept(self, origin: Origin, proxies: Proxies, talk: Talk) -> None:
        client = talk(proxies(**CACHED), origin)
        path = "/v2/app/manifests/latest"
        origin.on(path, Answer(b'{"errors":[]}', 429, {"Retry-After": "9"}))
        reply = client.get(path)
        assert (reply.status, reply.get("Retry-After"), reply.body) == (429, "9", b'{"errors":[]}')
        reply = client.get(path)
        assert (reply.status, origin.hits[path]) == (429, 1)  # said once is enough
        assert reply.json()["errors"][0]["code"] == "TOOMANYREQUESTS"

    def test_nobody_there_with_nothing_kept(self, origin: Origin, proxies: Proxies, talk: Talk) -> None:
        client = talk(proxies(**CACHED), origin)
        path = "/v2/app/manifests/latest"
        origin.on(path, Answer(cut_at=-1))
        reply = client.get(path)
        assert reply.status == 502
        assert reply.json()["errors"][0]["code"] == "UNAVAILABLE"

    def test_a_variant_suits_those_who_accept_it(self, origin: Origin, proxies: Proxies, talk: Talk) -> None:
        index = make_index(size=1000, seed=next(SEEDS))
        path = "/v2/multi/manifests/v1"
        one = index.images[0]
        origin.on(
            path, lambda seen: manifest_answer(index if index.media_type in seen.all("Accept") else one)
        )
        client = talk(proxies(**CACHED), origin)
        for _ in range(2):
            assert client.get(path, {"Accept": one.media_type}).body == one.manifest
            both = [("Accept", one.media_type), ("Accept", index.media_type)]
            assert client.get(path, both).body == index.manifest
            assert client.get(path, both[::-1]).body == index.manifest
        assert origin.hits[path] == 2

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(b"<html>Sign in</html>", headers={"Content-Type": "text/html"}),
            Answer(b"", headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"}),
            Answer(b"{", headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"}),
        ],
        ids=["HTML", "empty", "not JSON"],
    )
    def test_what_is_no_manifest_is_not_kept(
        self, answer: Answer, served: Image, origin: Origin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        path = "/v2/app/manifests/latest"
        origin.on(path, answer, manifest_answer(served))
        proxy = start_proxy(origin, ENABLE_MANIFEST_CACHE="true")
        first = talk(proxy, origin).get(path)
        assert first.status == 502
        assert proxy.blobs() == {}
        assert talk(proxy, origin).get(path).body == served.manifest


class TestPort:
    """What the one port takes besides an intercepted pull."""

    def test_pages(self, start_proxy: StartProxy) -> None:
        proxy = start_proxy()
        with Client.connect(proxy.address) as client:
            assert client.get("/").status == 200
            ca = client.get("/ca.crt")
            assert ca.body == proxy.ca_pem
            script = client.get("/setup/systemd")
        assert script.status == 200
        assert proxy.url.encode() in script.body

    def test_a_tunnel_is_transparent(self, origin: Origin, start_proxy: StartProxy, trust: Trust) -> None:
        proxy = start_proxy(origin, registries=(), REGPROXY_ALLOW_TARGETS=origin.authority)
        with open_tunnel(proxy.address, origin.authority, trust.pem, early=True) as client:
            reply = client.get(PATH)
            assert (reply.body, reply.get(STATUS)) == (BODY, None)
            client.half_close()
            assert client.read_end() == (b"", End.CLOSE_NOTIFY)
        with pytest.raises(ssl.SSLCertVerificationError):
            open_tunnel(proxy.address, origin.authority, proxy.ca_pem).close()

    @pytest.mark.parametrize(
        "target",
        ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "169.254.169.254:{port}", "{name}:1"],
    )
    def test_what_may_not_be_reached(self, target: str, origin: Origin, proxies: Proxies) -> None:
        proxy = proxies(REGPROXY_CONNECT_PORTS=f"443 {origin.port}")
        with Client.connect(proxy.address) as client:
            reply = client.connect_to(target.format(port=origin.port, name=origin.name))
        assert reply.status == 403
        assert origin.requests == []

    def test_v1_and_pushes_are_not_allowed(self, origin: Origin, proxies: Proxies, talk: Talk) -> None:
        proxy = proxies()
        assert talk(proxy, origin).get("/v1/_ping").status == 405
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            reply = talk(proxy, origin).request(method, "/v2/app/blobs/uploads/", body=b"x")
            assert (method, reply.status) == (method, 403)
        assert origin.requests == []

    def test_other_paths_go_through(self, origin: Origin, proxies: Proxies, talk: Talk) -> None:
        origin.on("/v2/app/tags/list", Answer(b'{"tags":[]}', headers={"Set-Cookie": "a=b", "X-Mine": "1"}))
        origin.on("/elsewhere", redirect("https://else.test/x", 302))
        origin.on("/token", lambda seen: Answer(seen.method.encode() + seen.body))
        client = talk(proxies(), origin)
        for _ in range(2):
            reply = client.get("/v2/app/tags/list?n=1")
            assert (reply.body, reply.get("X-Mine")) == (b'{"tags":[]}', "1")
        assert origin.hits["/v2/app/tags/list"] == 2
        assert origin.requests[0].target == "/v2/app/tags/list?n=1"
        assert client.get("/elsewhere").get("Location") == "https://else.test/x"
        assert (
            client.request("POST", "/token", body=b"grant_type=password").body == b"POSTgrant_type=password"
        )

    def test_who_the_origin_thinks_it_talks_to(
        self, origin: Origin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        """The client's own Authorization wins; without one, that host's pair goes in, and no other host's."""
        origin.on("/v2/", Answer(b"{}"))
        proxy = start_proxy(origin, AUTH_REGISTRIES=f"cdn.test:x:y {origin.name}:u:p")
        client = talk(proxy, origin)
        client.get("/v2/", {"Authorization": "Bearer abc"})
        client.get("/v2/", {"Proxy-Authorization": "Basic eDp5"})
        client.get(PATH)
        assert [seen.all("Authorization") for seen in origin.requests] == [
            ["Bearer abc"],
            ["Basic dTpw"],
            ["Basic dTpw"],
        ]
        assert [seen.get("Proxy-Authorization") for seen in origin.requests] == [None] * 3
        assert {seen.get("Host") for seen in origin.requests} == {origin.authority}

    def test_a_push_is_streamed_through(self, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        location = f"{origin.url}/v2/app/blobs/uploads/1?_state=abc"
        origin.on("/v2/app/blobs/uploads/", Answer(b"", 202, {"Location": location}))
        origin.on("/v2/app/blobs/uploads/1", lambda seen: Answer(digest_of(seen.body).encode(), 201))
        proxy = start_proxy(origin, ALLOW_PUSH="true")
        post = talk(proxy, origin).request("POST", "/v2/app/blobs/uploads/", body=b"")
        assert post.get("Location") == location
        put = "/v2/app/blobs/uploads/1?digest=x"
        assert talk(proxy, origin).request("PUT", put, body=BODY).body == BLOB.encode()
        client = talk(proxy, origin)
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:70_000], BODY[70_000:]))
        client.send(client.head("PATCH", put, [("Transfer-Encoding", "chunked")]) + chunks + b"0\r\n\r\n")
        assert client.read_reply("PATCH").body == BLOB.encode()
        client = talk(proxy, origin)
        client.send(client.head("PUT", put, [("Expect", "100-continue"), ("Content-Length", str(len(BODY)))]))
        assert client.read_head().status == 100
        client.send(BODY)
        assert client.read_reply("PUT").body == BLOB.encode()
        assert origin.count() == 4
        assert proxy.blobs() == {}

    def test_heads_in_pieces_and_pipelined(self, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        proxy = start_proxy(origin)
        client = talk(proxy, origin)
        client.ask("GET", PATH, piece=1)
        assert client.read_reply().body == BODY
        for _ in range(5):
            client.ask("HEAD", PATH)
            client.ask("GET", PATH, {"Range": "bytes=0-9"})
        bodies = [client.read_reply().body for _ in range(10)]
        assert bodies == [b"", BODY[:10]] * 5

    @pytest.mark.parametrize(
        "lines, status",
        [
            (["GET /v2/ HTTP/1.1"], {400}),
            (["GET /v2/ HTTP/1.1", "Host: reg.test", "Host: other.test"], {400}),
            (["GET /v2/ HTTP/1.1", "Host: reg.test", "A : b"], {400}),
            (
                ["GET /v2/ HTTP/1.1", "Host: reg.test", "Content-Length: 1", "Transfer-Encoding: chunked"],
                {400},
            ),
            (["GET /v2/ HTTP/1.1", "Host: reg.test", "Content-Length: 1", "Content-Length: 2"], {400}),
            (["GET /v2/ HTTP/1.1", "Host: reg.test", "Transfer-Encoding: chunked, gzip"], {400, 501}),
            (["GET /v2/ HTTP/3.0", "Host: reg.test"], {400, 505}),
            (["GET /v2/ HTTP/1.1", "Host: reg.test", "X: " + "v" * 200_000], {400, 431}),
        ],
        ids=["no host", "two hosts", "space", "CL and TE", "two CLs", "TE", "version", "big"],
    )
    def test_heads_that_smuggle_are_refused(
        self, lines: Iterable[str], status: set[int], origin: Origin, proxies: Proxies, talk: Talk
    ) -> None:
        origin.on("/v2/", Answer(b"{}"))
        client = talk(proxies(), origin)
        client.send(("\r\n".join(lines) + "\r\n\r\n").replace("reg.test", origin.name).encode())
        reply = client.read_reply("GET")
        assert reply.status in status
        assert client.read_end()[0] == b""
        assert origin.requests == []


class TestOperation:
    """What an operator sees of it, and what stopping does."""

    def test_access_log(self, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        proxy = start_proxy(origin)
        client = talk(proxy, origin)
        client.get(PATH)
        proxy.wait_kept(BLOB)
        client.get(PATH)
        miss, hit = proxy.access_log(2, check=lambda line: line["uri"] == PATH)
        assert (miss["upstream_cache_status"], hit["upstream_cache_status"]) == ("MISS", "HIT")
        for line in (miss, hit):
            assert (line["method"], line["request_type"], int(line["status"])) == (
                "GET",
                "blob-by-digest",
                200,
            )
            assert int(line["bytes_sent"]) >= len(BODY)
            assert line["host"].partition(":")[0] == origin.name
            assert {"access_time", "upstream_response_time", "proxy_host", "upstream"} <= line.keys()

    def test_metrics(self, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        proxy = start_proxy(origin)
        client = talk(proxy, origin)
        client.get(PATH)
        proxy.wait_kept(BLOB)
        client.get(PATH)
        wait_until(lambda: proxy.metric("regproxy_requests_total") >= 2, "two requests are counted")
        metrics = proxy.metrics()
        assert all(name.startswith(("regproxy_", "process_", "python_")) for name in metrics)
        hits = [labels for labels in metrics["regproxy_requests_total"] if "HIT" in dict(labels).values()]
        assert len(hits) == 1
        assert dict(hits[0])["registry"].startswith(origin.name)

    def test_stopping_lets_a_download_finish(
        self, origin: Origin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        go = threading.Event()
        origin.on(PATH, blob_answer(BLOB, BODY, hold_at=500_000, hold=go))
        proxy = start_proxy(origin)
        client = talk(proxy, origin)
        client.ask("GET", PATH)
        head = client.read_head()
        assert head.status == 200
        assert client.read(1000) == BODY[:1000]
        stopped = threading.Thread(target=proxy.stop)
        stopped.start()
        wait_until(lambda: not proxy.ready(), "it takes no more")
        go.set()
        assert client.read(len(BODY) - 1000) == BODY[1000:]
        client.close()
        stopped.join(20)
        assert proxy.stop() == 0, proxy.log()
