"""What docker-registry-proxy's clients, monitors and log readers meet here as they do there."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.images import Image, make_image
from tests.support.origin import Answer, Origin, redirect
from tests.support.processes import free_address
from tests.support.proxy import STATUS, TYPE, Proxy
from tests.support.trust import Trust

WORKING = b"docker-registry-proxy: The docker caching proxy is working!"
NUMBERS = count()


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test", "other.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def cdn(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "cdn.test") as cdn:
        yield cdn


class Proxies:
    """Proxies before the same origins, by what is set, started when they are first wanted."""

    def __init__(self, origin: Origin, cdn: Origin, trust: Trust, place: Callable[[], Path]) -> None:
        self._before = (origin, cdn, trust)
        self._place = place
        self._stack = ExitStack()
        self._proxies: dict[tuple[tuple[str, str], ...], Proxy] = {}

    def __call__(self, **env: str) -> Proxy:
        key = tuple(sorted(env.items()))
        if key not in self._proxies:
            origin, cdn, trust = self._before
            proxy = Proxy(
                self._place(),
                {"REGPROXY_CONNECT_PORTS": f"443 {origin.port}", **env},
                registries=("reg.test",),
                resolve={**origin.resolve, **cdn.resolve},
                ca=trust.path,
            )
            self._proxies[key] = self._stack.enter_context(proxy)
        return self._proxies[key]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def proxies(
    origin: Origin, cdn: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxies]:
    """Each of them fails at the end where anything was left open."""
    found = Proxies(origin, cdn, trust, lambda: tmp_path_factory.mktemp("proxy"))
    yield found
    found.close()


@pytest.fixture
def plain(proxies: Proxies, stack: ExitStack) -> Client:
    """A connection to the proxy port."""
    return stack.enter_context(Client.connect(proxies().address))


def published(origin: Origin, tag: str = "latest") -> tuple[str, Image]:
    """Publish an image of the test's own; its repository."""
    number = next(NUMBERS)
    image = make_image(size=1000, layers=1, seed=1000 + number)
    origin.publish(f"d{number}", image, tag)
    return f"d{number}", image


class TestWithoutConnect:
    """Monitors ask for any path, and look for the text."""

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
    @pytest.mark.parametrize(
        "target",
        ["/", "/health", "/v2x/", "/v1/search", "/ca", "/setupx", "/?a=b", "http://example.com/",
         "http://example.com:8080/x", "http://proxy.test:3128/", "/%2e%2e/x"],
    )  # fmt: skip
    def test_any(self, method: str, target: str, plain: Client) -> None:
        reply = plain.request(method, target)
        assert (reply.status, WORKING in reply.body) == (200, True)
        assert (reply.get(STATUS), reply.get(TYPE)) == (None, None)
        assert (reply.get("Content-Type") or "").startswith("text/plain")
        assert plain.get("/").status == 200  # the connection goes on

    def test_head_and_options_of_all(self, plain: Client) -> None:
        assert (plain.request("HEAD", "/health").status, plain.request("OPTIONS", "*").status) == (200, 200)

    def test_with_a_body(self, plain: Client) -> None:
        reply = plain.request("POST", "/x/blobs/uploads/", body=b"x" * 100_000)
        assert (reply.status, reply.get("Connection"), WORKING in reply.body) == (200, "close", True)
        assert plain.read_end()[1] is End.FIN

    @pytest.mark.parametrize(
        "target",
        ["/ca.crt", "/ca.crt?x", "/ca.crt/", "/ca.crt/x.pem", "/ca.crt.pem", "http://example.com/ca.crt"],
    )
    def test_ca(self, target: str, plain: Client, proxies: Proxies) -> None:
        for method in ("GET", "POST"):
            assert plain.request(method, target).body == proxies().ca_pem

    @pytest.mark.parametrize(
        "target", ["/setup/systemd", "/setup/systemd.sh", "/setup/systemd/", "/setup/systemd?x"]
    )
    def test_setup(self, target: str, plain: Client) -> None:
        assert b"HTTPS_PROXY=http://" in plain.get(target).body

    def test_v1(self, proxies: Proxies, origin: Origin, stack: ExitStack) -> None:
        client = stack.enter_context(proxies().client(origin.authority))
        for method in ("GET", "PUT"):
            reply = client.request(method, "/v1/_ping")
            assert reply.status == 405
            assert (
                b"you need to configure docker-registry-proxy to authenticate against reg.test" in reply.body
            )


class TestHeaders:
    """X- headers are on 2xx and 3xx alone, as nginx's add_header has it; Cache-Status is on all."""

    @pytest.mark.parametrize("cache", ["true", "false"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
    @pytest.mark.parametrize("path", ["manifests/latest", "blobs/{}", "manifests/{}", "tags/list"])
    def test_errors(
        self,
        path: str,
        status: int,
        method: str,
        cache: str,
        proxies: Proxies,
        origin: Origin,
        stack: ExitStack,
    ) -> None:
        path = f"/v2/e{next(NUMBERS)}/" + path.format(f"sha256:{next(NUMBERS):064x}")
        origin.on(path, Answer(b"{}", status))
        client = stack.enter_context(proxies(ENABLE_MANIFEST_CACHE=cache).client(origin.authority))
        reply = client.request(method, path)
        assert reply.status >= 400
        assert (reply.get(STATUS), reply.get(TYPE)) == (None, None)

    @pytest.mark.parametrize(
        "method, path, status",
        [("GET", "/v1/_ping", 405), ("PUT", "/v2/a/manifests/x", 403), ("GET", "/v2/a/manifests/gone", 404)],
    )
    def test_refusals(
        self, method: str, path: str, status: int, proxies: Proxies, origin: Origin, stack: ExitStack
    ) -> None:
        client = stack.enter_context(proxies().client(origin.authority))
        reply = client.request(method, path)
        assert (reply.status, reply.get(STATUS), reply.get(TYPE)) == (status, None, None)

    def test_answers(self, proxies: Proxies, origin: Origin, stack: ExitStack) -> None:
        client = stack.enter_context(proxies().client(origin.authority))
        repository, image = published(origin)
        digest, body = next(iter(image.blobs.items()))
        path = f"/v2/{repository}/blobs/{digest}"
        assert (client.get(path).get(STATUS), client.get(path).get(TYPE)) == ("MISS", "blob-by-digest")
        proxies().wait_kept(digest)
        for headers, status in (({}, 200), ({"Range": "bytes=0-1"}, 206), ({"If-None-Match": "*"}, 304)):
            reply = client.get(path, headers)
            assert (reply.status, reply.get(STATUS), reply.get(TYPE)) == (status, "HIT", "blob-by-digest")
        reply = client.get(path, {"Range": f"bytes={len(body)}-"})
        assert (reply.status, reply.get(STATUS), reply.get(TYPE)) == (416, None, None)
        assert reply.get("Cache-Status") is not None


class TestHosts:
    """Masks and expressions, where docker-registry-proxy has them."""

    @pytest.mark.parametrize(
        "registries, intercepted",
        [
            (r"~^reg\.", True),
            (r"~^(?:reg|x)[.]test$", True),
            ("https://reg.test/", True),
            (r"~^eg\.test", False),
        ],
    )
    def test_registries(
        self,
        registries: str,
        intercepted: bool,
        proxies: Proxies,
        origin: Origin,
        stack: ExitStack,
        trust: Trust,
    ) -> None:
        proxy = proxies(REGISTRIES=registries)
        client = stack.enter_context(Client.connect(proxy.address))
        assert client.connect_to(origin.authority).status == 200
        client.start_tls("reg.test", proxy.ca_pem if intercepted else trust.pem)
        reply = client.get("/v2/nothing/tags/list")
        assert (reply.status, reply.get("Cache-Status") is not None) == (404, intercepted)

    @pytest.mark.parametrize(
        "auth, wanted",
        [
            ("*.test:u:p", "Basic dTpw"),
            (".test:u:p reg.test:own:p", "Basic b3duOnA="),
            ("reg.*:u:p", "Basic dTpw"),
            ("*.reg.test:u:p", None),
            ("*.other:u:p", None),
            (r"~^reg\.test$:u:p", "Basic dTpw"),
            ("~test:u:p", "Basic dTpw"),
            ("~other:u:p", None),
            ("https://reg.test:u:p", "Basic dTpw"),
            ("reg.test/team:u:p", None),
        ],
    )
    def test_credentials(
        self, auth: str, wanted: str | None, proxies: Proxies, origin: Origin, stack: ExitStack
    ) -> None:
        client = stack.enter_context(proxies(AUTH_REGISTRIES=auth).client(origin.authority))
        repository, image = published(origin)
        path = f"/v2/{repository}/manifests/latest"
        assert client.get(path).digest == image.digest
        assert [seen.get("Authorization") for seen in origin.requests if seen.path == path][-1] == wanted

    @pytest.mark.parametrize("mask", ["reg.*", "~reg", r"~^reg\.test$"])
    def test_credentials_of_a_name_that_anybody_may_have(
        self, mask: str, proxies: Proxies, origin: Origin, stack: ExitStack
    ) -> None:
        """REGISTRIES has but a mask, too."""
        proxy = proxies(AUTH_REGISTRIES=f"{mask}:u:hunter2", REGISTRIES=mask)
        client = stack.enter_context(proxy.client(origin.authority))
        repository, _ = published(origin)
        path = f"/v2/{repository}/manifests/latest"
        assert client.get(path).status == 200
        assert all(seen.get("Authorization") is None for seen in origin.requests if seen.path == path)
        assert "the mask of entry 1 is not used" in proxy.log()
        assert "hunter2" not in proxy.log()


class TestPorts:
    """docker-registry-proxy tunnels to every port."""

    def test_refused(self, plain: Client) -> None:
        reply = plain.connect_to("reg.test:22")
        assert (reply.status, b"REGPROXY_CONNECT_PORTS=*" in reply.body) == (403, True)

    def test_every_port(self, proxies: Proxies, origin: Origin, stack: ExitStack, trust: Trust) -> None:
        proxy = proxies(REGPROXY_CONNECT_PORTS="*")
        client = stack.enter_context(Client.connect(proxy.address))
        assert client.connect_to(f"other.test:{origin.port}").status == 200
        client.start_tls("other.test", trust.pem)
        assert client.get("/nothing").status == 404


class TestAccessLog:
    """Lines to the letter, of what there would be one for."""

    FIELDS = ("access_time", "upstream_cache_status", "method", "uri", "request_type", "status", "bytes_sent",
              "upstream_response_time", "host", "proxy_host", "upstream")  # fmt: skip

    def lines(self, proxy: Proxy, path: str, number: int) -> list[dict[str, str]]:
        """Wait for that many lines of a path."""
        found = proxy.access_log(number, check=lambda line: line["uri"] == path)
        assert all(tuple(line) == self.FIELDS for line in found)
        assert all(
            re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}(:\d\d){3} [+-]\d{4}", line["access_time"])
            for line in found
        )
        return found

    def test_blob(self, proxies: Proxies, origin: Origin, stack: ExitStack) -> None:
        proxy = proxies(REGPROXY_ACCESS_LOG_FORMAT="rp")
        client = stack.enter_context(proxy.client(origin.authority))
        repository, image = published(origin)
        digest, body = next(iter(image.blobs.items()))
        path = f"/v2/{repository}/blobs/{digest}"
        client.get(path)
        proxy.wait_kept(digest)
        client.get(path)
        miss, hit = self.lines(proxy, path, 2)
        for line, word in ((miss, "MISS"), (hit, "HIT")):
            said = [
                line[name] for name in ("upstream_cache_status", "method", "request_type", "status", "host")
            ]
            assert said == [word, "GET", "blob-by-digest", "200", "reg.test"]
            assert line["bytes_sent"] == str(len(body))
        assert (miss["upstream"], miss["proxy_host"]) == (
            f"{origin.address[0]}:{origin.port}",
            origin.authority,
        )
        assert float(miss["upstream_response_time"]) >= 0
        assert (hit["upstream"], hit["proxy_host"], hit["upstream_response_time"]) == ("", "", "")

    @pytest.mark.parametrize("kind", ["blobs", "manifests"])
    def test_redirected(
        self, kind: str, proxies: Proxies, origin: Origin, cdn: Origin, stack: ExitStack
    ) -> None:
        proxy = proxies(REGPROXY_ACCESS_LOG_FORMAT="rp")
        client = stack.enter_context(proxy.client(origin.authority))
        _, image = published(origin)
        digest, body = (
            (image.digest, image.manifest) if kind == "manifests" else next(iter(image.blobs.items()))
        )
        path, place = f"/v2/moved{next(NUMBERS)}/{kind}/{digest}", f"/cdn/{next(NUMBERS)}"
        media = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        cdn.on(place, Answer(body, headers=media if kind == "manifests" else {}))
        origin.on(path, redirect(f"https://{cdn.authority}{place}?sig=secret"))
        assert client.get(path).status == 200
        (line,) = self.lines(proxy, path, 1)
        ends = (f"{each.address[0]}:{each.port}" for each in (origin, cdn))
        assert (line["upstream"], line["proxy_host"]) == (" : ".join(ends), cdn.authority)
        assert re.fullmatch(r"\d+\.\d{3} : \d+\.\d{3}", line["upstream_response_time"])

    @pytest.mark.parametrize("path", ["tags/list", "blobs/sha256:{:064x}", "manifests/{}"])
    def test_at_another_port(
        self, path: str, proxies: Proxies, origin: Origin, stack: ExitStack, tmp_path: Path
    ) -> None:
        """`upstream` is where it was sent to, `proxy_host` who was asked."""
        toml = tmp_path / "regproxy.toml"
        toml.write_text(f'[origin."reg.test:443"]\naddress = "{origin.address[0]}"\nport = {origin.port}\n')
        proxy = proxies(REGPROXY_ACCESS_LOG_FORMAT="rp", REGPROXY_CONFIG=str(toml))
        client = stack.enter_context(proxy.client("reg.test:443"))
        path = f"/v2/at{next(NUMBERS)}/" + path.format(next(NUMBERS))
        client.get(path)
        (line,) = self.lines(proxy, path, 1)
        assert line["upstream"] == f"{origin.address[0]}:{origin.port}"
        assert line["proxy_host"] == "reg.test"

    def test_of_no_type(self, proxies: Proxies, origin: Origin, stack: ExitStack) -> None:
        proxy = proxies(REGPROXY_ACCESS_LOG_FORMAT="rp")
        client = stack.enter_context(proxy.client(origin.authority))
        number = next(NUMBERS)
        client.get(f"/v2/x{number}/tags/list%3f%C3%A9?last=secret")
        (line,) = self.lines(proxy, f"/v2/x{number}/tags/list?é", 1)
        assert (line["request_type"], line["upstream_cache_status"], line["status"]) == ("unknown", "", "404")
        assert line["upstream"] == f"{origin.address[0]}:{origin.port}"

    def test_what_is_not_there(
        self, proxies: Proxies, origin: Origin, stack: ExitStack, trust: Trust
    ) -> None:
        """Neither the pages nor CONNECT, whatever becomes of it."""
        proxy = proxies(REGPROXY_ACCESS_LOG_FORMAT="rp")
        with Client.connect(proxy.address) as plain:
            for target in ("/", "/ca.crt", "/setup/systemd", "/health"):
                plain.get(target)
            assert plain.connect_to("reg.test:22").status == 403
        with Client.connect(proxy.address) as tunnel:
            assert tunnel.connect_to(f"other.test:{origin.port}").status == 200
            tunnel.start_tls("other.test", trust.pem)
            tunnel.get("/nothing")
        client = stack.enter_context(proxy.client(origin.authority))
        path = f"/v2/last{next(NUMBERS)}/tags/list"
        client.get(path)
        self.lines(proxy, path, 1)
        found = proxy.access_log(check=lambda line: not line["uri"].startswith("/v2/"))
        assert found == []


@pytest.fixture(scope="module")
def registry(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "dns.test") as registry:
        yield registry


@pytest.fixture(scope="module")
def place() -> tuple[str, int]:
    return free_address()


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def proxy(
    request: pytest.FixtureRequest,
    registry: Origin,
    place: tuple[str, int],
    trust: Trust,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("transparent")
    # Nothing of the test's may listen on port 443, which is what the registry is asked at.
    toml = directory / "regproxy.toml"
    toml.write_text(f'[origin."dns.test:443"]\naddress = "{registry.address[0]}"\nport = {registry.port}\n')
    env = {
        "REGPROXY_TRANSPARENT_LISTEN": "{}:{}".format(*place),
        "REGPROXY_CONFIG": str(toml),
        "REGPROXY_WORKERS": request.param,
        "ALLOW_PUSH": "true",
    }
    with Proxy(directory, env, registries=("dns.test", "more.test"), ca=trust.path) as proxy:
        yield proxy


class TestTransparent:
    """Clients whom DNS has sent here: TLS by the ClientHello's name, plain HTTP by Host, at port 443."""

    def through(self, proxy: Proxy, place: tuple[str, int], name: str, stack: ExitStack) -> Client:
        """Return a client that is through TLS, as if `name` was at our address."""
        client = stack.enter_context(Client.connect(place, authority=name))
        client.start_tls(name, proxy.ca_pem)
        return client

    @pytest.mark.parametrize("host", ["dns.test", "DNS.test", "dns.test:443", "dns.test:8443"])
    @pytest.mark.parametrize("scheme", ["https", "http"])
    def test_pull(
        self, scheme: str, host: str, proxy: Proxy, place: tuple[str, int], registry: Origin, stack: ExitStack
    ) -> None:
        repository, image = published(registry)
        if scheme == "https":
            client = self.through(proxy, place, "dns.test", stack)
        else:
            client = stack.enter_context(Client.connect(place))
        client.authority = host
        assert client.get("/v2/").status == 200
        assert client.get(f"/v2/{repository}/manifests/latest").digest == image.digest
        for digest in image.blobs:
            assert client.get(f"/v2/{repository}/blobs/{digest}").digest == digest
            proxy.wait_kept(digest)
            reply = client.get(f"/v2/{repository}/blobs/{digest}")
            assert (reply.digest, reply.get(STATUS)) == (digest, "HIT")
        pushed = client.request("PUT", f"/v2/{repository}/manifests/other", body=image.manifest)
        assert pushed.status == 404  # by the registry, which knows no such path
        assert registry.requests[-1].body == image.manifest
        assert registry.requests[-1].get("Host") == "dns.test"

    def test_own_page(self, proxy: Proxy, place: tuple[str, int], stack: ExitStack) -> None:
        client = self.through(proxy, place, "docker.caching.proxy.internal", stack)
        assert WORKING in client.get("/").body

    @pytest.mark.parametrize("name", ["example.com", "sub.dns.test", "localhost"])
    def test_tls_for_somebody_else(
        self, name: str, proxy: Proxy, place: tuple[str, int], stack: ExitStack
    ) -> None:
        client = stack.enter_context(Client.connect(place))
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            client.start_tls(name, proxy.ca_pem)

    def test_tls_for_nobody(self, place: tuple[str, int], proxy: Proxy) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(place, timeout=20) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock)

    def test_tls_in_pieces(self, place: tuple[str, int], proxy: Proxy, stack: ExitStack) -> None:
        """A ClientHello may come by more than one packet."""
        client = stack.enter_context(Client.connect(place, authority="dns.test"))
        tls = client._tls("dns.test", proxy.ca_pem, None, (), None)
        client.send(tls.hello(), piece=100)
        tls.handshake()
        client.layers.append(tls)
        assert client.get("/v1/").status == 405

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_tls_versions(
        self, version: ssl.TLSVersion, place: tuple[str, int], proxy: Proxy, stack: ExitStack
    ) -> None:
        context = ssl.create_default_context(cadata=proxy.ca_pem.decode())
        context.minimum_version = context.maximum_version = version
        client = stack.enter_context(Client.connect(place, authority="dns.test"))
        client.start_tls("dns.test", None, context=context, alpn=["h2", "http/1.1"])
        assert (client.tls.selected_alpn_protocol(), client.get("/v1/").status) == ("http/1.1", 405)

    def test_another_host_within_tls(self, place: tuple[str, int], proxy: Proxy, stack: ExitStack) -> None:
        client = self.through(proxy, place, "dns.test", stack)
        for host in ("more.test", "example.com"):
            assert client.get("/v2/", {"Host": host}).status == 421

    @pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "sub.dns.test", "localhost:443"])
    def test_plain_for_somebody_else(
        self, host: str, place: tuple[str, int], proxy: Proxy, registry: Origin, stack: ExitStack
    ) -> None:
        client = stack.enter_context(Client.connect(place))
        before = len(registry.requests)
        for target in ("/v2/", "/", "/ca.crt", f"http://{host}/v2/"):
            assert client.get(target, {"Host": host}).status == 421
        assert client.get("/v2/", {"Host": "dns.test"}).status in (200, 404)
        assert client.get("/v2/", {"Host": host}).status == 421
        assert len(registry.requests) == before + 1

    def test_no_connect(self, place: tuple[str, int], proxy: Proxy, stack: ExitStack) -> None:
        client = stack.enter_context(Client.connect(place))
        assert client.connect_to("dns.test:443").status == 405
        client = self.through(proxy, place, "dns.test", stack)
        assert client.connect_to("dns.test:443").status in (405, 421)

    def test_neither_tls_nor_http(self, place: tuple[str, int], proxy: Proxy, stack: ExitStack) -> None:
        client = stack.enter_context(Client.connect(place))
        client.send(b"nonsense\r\n\r\n")
        assert client.read_reply("GET").status == 400


@pytest.fixture(scope="module", params=["{}:{}", ":{1}", "localhost:{1}"])
def circle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("circle")
    place = free_address("127.0.0.1")
    toml = directory / "regproxy.toml"
    toml.write_text(f'[origin."dns.test"]\naddress = "{place[0]}"\nport = {place[1]}\nverify = false\n')
    env = {
        "REGPROXY_TRANSPARENT_LISTEN": request.param.format(*place),
        "REGPROXY_CONFIG": str(toml),
        "ALLOW_PUSH": "true",
    }
    with Proxy(directory, env, registries=("dns.test",)) as proxy:
        yield proxy


class TestCircles:
    """DNS that sends a registry's clients here sends this proxy here too: requests end with what is wrong."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
    @pytest.mark.parametrize(
        "path",
        ["/v2/a/manifests/{}", "/v2/a/blobs/sha256:{:064x}", "/v2/a/manifests/sha256:{:064x}",
         "/v2/a/tags/list", "/token?x={}"],
    )  # fmt: skip
    def test_one_request(self, method: str, path: str, circle: Proxy, stack: ExitStack) -> None:
        path = path.format(next(NUMBERS))
        client = stack.enter_context(circle.client("dns.test:443"))
        reply = client.request(method, path)
        assert reply.status in (502, 503)
        if method != "HEAD":
            assert b"is this proxy itself" in reply.body
        uri = path.partition("?")[0]
        assert len(circle.access_log(1, check=lambda line: line["uri"] == uri)) <= 24  # one for each test
