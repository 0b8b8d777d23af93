"""What origins are asked, over which connections, where redirects lead, and what if nobody answers."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.known_addresses import KnownAddresses
from tests.support.origin import Answer, Origin, Seen, blob_answer, redirect
from tests.support.processes import free_address, wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

OWN = "Bearer the-clients-own"
REG_PAIR = "Basic dTpw"  # u:p
CDN_PAIR = "Basic eDp5"  # x:y
SIZE = 5000
LARGE = 400_000
SEEDS = itertools.count()


class Cold(NamedTuple):
    path: str
    digest: str
    body: bytes


def blob(size: int = SIZE) -> Cold:
    """Content of its own for a test."""
    body = random.Random(f"upstream-{next(SEEDS)}").randbytes(size)
    return Cold(f"/v2/app/blobs/{digest_of(body)}", digest_of(body), body)


def cold(origin: Origin, size: int = SIZE, **faults: object) -> Cold:
    """The same, and the origin has it."""
    item = blob(size)
    origin.on(item.path, blob_answer(item.digest, item.body, **faults))
    return item


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def cdn(trust: Trust) -> Iterator[Origin]:
    """A storage host that registries redirect to; it is known to the proxy but not intercepted."""
    with Origin(trust, "cdn.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def inner(trust: Trust) -> Iterator[Origin]:
    """Something on a loopback address that nobody allowed."""
    with Origin(trust, "inner.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxies(
    origin: Origin, cdn: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Proxy]]:
    """With and without credentials of its own; each fails at the end where anything was left open."""
    with ExitStack() as entered:
        yield {
            name: entered.enter_context(
                Proxy(
                    tmp_path_factory.mktemp("proxy"),
                    {"REGPROXY_DEBUG": "1", "AUTH_REGISTRIES": pairs},
                    registries=(origin.authority, cdn.authority),
                    resolve=origin.resolve | cdn.resolve,
                    ca=trust.path,
                )
            )
            for name, pairs in (("plain", ""), ("pairs", "reg.test:u:p cdn.test:x:y"))
        }


@pytest.fixture
def proxy(proxies: dict[str, Proxy]) -> Proxy:
    return proxies["plain"]


@pytest.fixture
def client(proxy: Proxy, origin: Origin, stack: ExitStack) -> Client:
    return stack.enter_context(proxy.client(origin.authority))


def asked(origin: Origin, path: str) -> list[Seen]:
    return [seen for seen in origin.requests if seen.path == path]


def error_of(reply: Reply) -> str:
    """The message of an OCI error (distribution spec, error codes)."""
    assert reply.get("Content-Type") == "application/json"
    (error,) = reply.json()["errors"]
    assert error["code"]
    return str(error["message"])


class TestRedirects:
    """Followed by the proxy, and nothing of the client's goes along to another host."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("where", ["other host", "absolute", "relative", "relative to the path"])
    def test_followed(self, where: str, status: int, client: Client, origin: Origin, cdn: Origin) -> None:
        item = blob()
        place = {
            "other host": f"{cdn.url}/kept/{item.digest}",
            "absolute": f"{origin.url}/kept/{item.digest}",
            "relative": f"/kept/{item.digest}",
            "relative to the path": f"../../../kept/{item.digest}",
        }[where]
        to = cdn if where == "other host" else origin
        origin.on(item.path, redirect(f"{place}?sig=a%2Fb&x=%20#part", status))
        to.on(f"/kept/{item.digest}", Answer(item.body))
        headers = {"Authorization": OWN, "Cookie": "a=b", "Referer": "https://x.test/", "User-Agent": "t/1"}
        reply = client.get(item.path, headers)
        assert (reply.status, reply.digest, reply.get("Location")) == (200, item.digest, None)
        (seen,) = asked(to, f"/kept/{item.digest}")
        assert seen.target == f"/kept/{item.digest}?sig=a%2Fb&x=%20"
        assert (seen.method, seen.server_name, seen.get("Host")) == ("GET", to.name, to.authority)
        assert seen.get("Authorization") == (None if to is cdn else OWN)
        assert seen.get("Cookie") is None
        assert (seen.get("Accept-Encoding"), seen.get("User-Agent")) == ("identity", "t/1")
        if to is cdn:
            assert seen.get("Referer") is None
        assert said(client.get(item.path))[0] == "HIT"
        assert origin.hits[item.path] == 1

    def test_a_head_stays_a_head(self, client: Client, origin: Origin, cdn: Origin) -> None:
        item = blob()
        origin.on(item.path, redirect(f"{cdn.url}{item.path}"))
        cdn.on(item.path, blob_answer(item.digest, item.body))
        reply = client.request("HEAD", item.path)
        assert (reply.status, reply.get("Content-Length")) == (200, str(SIZE))
        assert [seen.method for at in (origin, cdn) for seen in asked(at, item.path)] == ["HEAD", "HEAD"]

    def test_a_chain(self, client: Client, origin: Origin) -> None:
        item = blob()
        steps = [item.path, *(f"/step/{item.digest}/{number}" for number in range(5))]
        for step, following in itertools.pairwise(steps):
            origin.on(step, redirect(following))
        origin.on(steps[-1], Answer(item.body))
        assert client.get(item.path).digest == item.digest
        assert [origin.hits[step] for step in steps] == [1] * 6

    @pytest.mark.parametrize("length", [1, 2])
    def test_a_loop(self, length: int, client: Client, origin: Origin) -> None:
        item = blob()
        steps = [item.path, *(f"/loop/{item.digest}/{number}" for number in range(length - 1))]
        for number, step in enumerate(steps):
            origin.on(step, redirect(steps[(number + 1) % length]))
        reply = client.get(item.path)
        assert reply.status == 502
        assert "redirect" in error_of(reply)
        assert 1 < sum(origin.hits[step] for step in steps) < 20

    @pytest.mark.parametrize(
        "location",
        [
            "ftp://{cdn}/kept",
            "https://user:pass@{cdn}/kept",
            "https://",
            "https://{cdn_name}:99999/kept",
            "https://[/kept",
            "https://{cdn_name}:0x1bb/kept",
        ],
    )
    def test_not_followed(self, location: str, client: Client, origin: Origin, cdn: Origin) -> None:
        item, before = blob(), cdn.connections
        origin.on(item.path, redirect(location.format(cdn=cdn.authority, cdn_name=cdn.name)))
        reply = client.get(item.path)
        assert reply.status == 502
        assert error_of(reply)
        assert cdn.connections == before

    def test_without_a_location(self, client: Client, origin: Origin) -> None:
        item = blob()
        origin.on(item.path, Answer(b"go away", 307))
        assert client.get(item.path).status == 502

    @pytest.mark.parametrize("path", ["/kept/a b", "/kept/\xe4", "/kept/a\tb HTTP/1.1"])
    def test_a_location_can_not_break_the_request_line(
        self, path: str, client: Client, origin: Origin
    ) -> None:
        item = blob()
        origin.on(item.path, redirect(f"{path}{item.digest}"))
        before = len(origin.requests)
        reply = client.get(item.path)
        assert reply.status in (404, 502)
        for seen in origin.requests[before + 1 :]:
            assert seen.target.isascii()
            assert " " not in seen.target

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "{inner}", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0", "2130706433"]
    )
    def test_to_an_address_that_nobody_allowed(
        self, host: str, client: Client, origin: Origin, inner: Origin
    ) -> None:
        item, before = blob(), inner.connections
        origin.on(item.path, redirect(f"https://{host.format(inner=inner.address[0])}:{inner.port}/x"))
        reply = client.get(item.path)
        assert reply.status in (403, 502)
        assert "REGPROXY_ALLOW_TARGETS" in error_of(reply)
        assert inner.connections == before

    def test_to_a_metadata_service(self, client: Client, origin: Origin) -> None:
        for host in ("169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "168.63.129.16"):
            item = blob()
            origin.on(item.path, redirect(f"https://{host}/latest/meta-data/"))
            reply = client.get(item.path)
            assert reply.status in (403, 502)
            assert host.strip("[]") in error_of(reply)

    def test_elsewhere_they_are_the_clients(self, client: Client, origin: Origin, cdn: Origin) -> None:
        before = cdn.connections
        origin.on("/v2/_catalog", redirect(f"{cdn.url}/x"))
        reply = client.get("/v2/_catalog")
        assert (reply.status, reply.get("Location")) == (307, f"{cdn.url}/x")
        assert cdn.connections == before


class TestCredentials:
    """A pair goes to exactly the host that it names, and only where the client has none of its own."""

    PATHS = ("/v2/", "/v2/app/manifests/latest", "/v2/app/blobs/sha256:" + "0" * 64)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("path", PATHS)
    def test_the_clients_own_wins(
        self,
        path: str,
        method: str,
        proxies: dict[str, Proxy],
        origin: Origin,
        cdn: Origin,
        stack: ExitStack,
    ) -> None:
        for at, pair in ((origin, REG_PAIR), (cdn, CDN_PAIR)):
            client = stack.enter_context(proxies["pairs"].client(at.authority))
            before = len(at.requests)
            assert client.request(method, path).status == 404
            assert client.request(method, path, {"Authorization": OWN}).status == 404
            # A HEAD that is refused may be followed by a GET.
            sent = [seen.get("Authorization") for seen in at.requests[before:]]
            assert list(dict.fromkeys(sent)) == [pair, OWN]

    @pytest.mark.parametrize("own", [None, OWN])
    def test_not_across_a_redirect(
        self, own: str | None, proxies: dict[str, Proxy], origin: Origin, cdn: Origin, stack: ExitStack
    ) -> None:
        """Not even the pair of the host that it leads to: S3 refuses a request that has one."""
        item = blob()
        origin.on(item.path, redirect(f"{cdn.url}{item.path}"))
        cdn.on(item.path, Answer(item.body))
        client = stack.enter_context(proxies["pairs"].client(origin.authority))
        headers = {} if own is None else {"Authorization": own}
        assert client.get(item.path, headers).digest == item.digest
        assert [seen.get("Authorization") for seen in asked(origin, item.path)] == [own or REG_PAIR]
        assert [seen.get("Authorization") for seen in asked(cdn, item.path)] == [None]

    def test_along_a_redirect_of_the_same_origin(
        self, proxies: dict[str, Proxy], origin: Origin, stack: ExitStack
    ) -> None:
        """Artifact Registry redirects to a path of its own, which wants the credentials again."""
        item = blob()
        origin.on(item.path, redirect(f"/kept/{item.digest}"))
        origin.on(f"/kept/{item.digest}", Answer(item.body))
        client = stack.enter_context(proxies["pairs"].client(origin.authority))
        assert client.get(item.path).digest == item.digest
        assert [seen.get("Authorization") for seen in asked(origin, f"/kept/{item.digest}")] == [REG_PAIR]

    def test_hosts_and_ports_are_exact(
        self, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        one = start_origin("same.test")
        two = start_origin("same.test", address=free_address(one.address[0]))
        others = [start_origin(name) for name in ("sub.same.test", "me.test", "same.test.evil.test")]
        pair = f"same.test:{one.port}:::u:::p"
        proxy = start_proxy(
            one, two, *others, AUTH_REGISTRIES=pair, AUTH_REGISTRY_DELIMITER=":::", REGPROXY_DEBUG="1"
        )
        for origin in (one, two, *others):
            assert talk(proxy, origin).get("/v2/").status == 404
            want = REG_PAIR if origin is one else None
            assert [seen.get("Authorization") for seen in origin.requests] == [want]
        assert "dTpw" not in proxy.log()


class TestPool:
    """Connections to origins are kept and used again, and never once they are out of step."""

    @pytest.fixture
    def origin(self, start_origin: StartOrigin, addresses: KnownAddresses) -> Origin:
        """A host of the test's own, so that all connections to it are, too."""
        return start_origin("reg.test", address=addresses.take())

    @pytest.fixture
    def proxy(self, shared: Proxies) -> Proxy:
        return shared(ALLOW_PUSH="true")

    def test_reuse(self, origin: Origin, client: Client) -> None:
        origin.on("/v2/", Answer(b"{}"))
        for answer in ("length", "chunked"):
            assert client.get(cold(origin, framing=answer).path).status == 200
            assert client.get(cold(origin, LARGE, framing=answer).path).status == 200
        assert client.request("HEAD", cold(origin).path).status == 200
        assert client.get("/v2/").status == 200
        assert client.get("/v2/app/manifests/none").status == 404
        item = blob()
        origin.on(item.path, redirect(f"/kept/{item.digest}"))
        origin.on(f"/kept/{item.digest}", Answer(item.body))
        assert client.get(item.path).digest == item.digest
        assert {seen.connection for seen in origin.requests} == {1}

    @pytest.mark.parametrize("ends", [{"close": True}, {"framing": "eof"}])
    def test_no_reuse(self, ends: dict[str, Any], origin: Origin, client: Client) -> None:
        items = [cold(origin, **ends), cold(origin, LARGE, **ends), cold(origin)]
        assert [client.get(item.path).digest for item in items] == [item.digest for item in items]
        assert [seen.connection for seen in origin.requests] == [1, 2, 3]

    def test_http_1_0(self, origin: Origin, client: Client) -> None:
        for _ in range(2):
            item = blob()
            head = f"HTTP/1.0 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode()
            origin.on(item.path, Answer(raw=head + item.body, cut=End.CLOSE_NOTIFY))
            assert client.get(item.path).digest == item.digest
        assert origin.connections == 2

    def test_closed_by_the_origin_while_idle(self, origin: Origin, client: Client) -> None:
        assert client.get(cold(origin).path).status == 200
        wait_until(lambda: origin.open_connections == 1, "one is kept")
        origin.cut_all()
        wait_until(lambda: origin.open_connections == 0, "and gone")
        item = cold(origin)
        assert client.get(item.path).digest == item.digest
        assert [seen.connection for seen in origin.requests] == [1, 2]

    @pytest.mark.parametrize("cut", [End.FIN, End.RST, End.CLOSE_NOTIFY])
    def test_closed_by_the_origin_as_the_request_came(self, cut: End, origin: Origin, client: Client) -> None:
        """The client need not know."""
        assert client.get(cold(origin).path).status == 200
        item = blob()
        origin.on(item.path, Answer(cut_at=-1, cut=cut), blob_answer(item.digest, item.body))
        assert client.get(item.path).digest == item.digest
        assert [seen.connection for seen in origin.requests] == [1, 1, 2]

    def test_a_few_more_tries_and_no_others(self, origin: Origin, client: Client) -> None:
        """One as the connection was an old one, two as it may have been a stumble."""
        assert client.get(cold(origin).path).status == 200
        item = blob()
        origin.on(item.path, Answer(cut_at=-1))
        assert client.get(item.path).status == 502
        assert origin.hits[item.path] == 4
        assert client.get(item.path.replace("/app/", "/other/")).status == 404

    @pytest.mark.parametrize("body", [b"", b"grant_type=password"])
    def test_a_post_is_not_sent_twice(self, body: bytes, origin: Origin, client: Client) -> None:
        """RFC 9110 9.2.2: a proxy must not retry what is not idempotent."""
        assert client.get(cold(origin).path).status == 200
        origin.on("/v2/app/blobs/uploads/", Answer(cut_at=-1))
        reply = client.request("POST", "/v2/app/blobs/uploads/", body=body)
        assert reply.status == 502
        assert origin.hits["/v2/app/blobs/uploads/"] == 1

    def test_bounded(self, origin: Origin, proxy: Proxy, stack: ExitStack) -> None:
        go = threading.Event()
        items = [cold(origin, hold_at=0, hold=go) for _ in range(40)]
        clients = [stack.enter_context(proxy.client(origin.authority)) for _ in items]
        for client, item in zip(clients, items, strict=True):
            client.ask("GET", item.path)
        origin.wait_for(lambda origin: len(origin.requests) == len(items), "all of them at once")
        assert origin.open_connections == len(items)
        go.set()
        assert all(
            client.read_reply().digest == item.digest for client, item in zip(clients, items, strict=True)
        )
        wait_until(lambda: 0 < origin.open_connections <= 32, "only some are kept")
        assert clients[0].get(cold(origin).path).status == 200
        assert origin.connections == len(items)


class TestHeads:
    """Response heads as registries send them, and beyond."""

    @pytest.mark.parametrize("size, fits", [(100, True), (200, False)])
    @pytest.mark.parametrize("kind", ["blob", "other", "HEAD"])
    def test_large(self, kind: str, size: int, fits: bool, client: Client, origin: Origin) -> None:
        item = blob()
        path = item.path if kind != "other" else f"/v2/app/tags/list-{size}"
        fields = tuple((f"X-Filler-{number}", "x" * 8192) for number in range(size // 8))
        origin.on(path, Answer(item.body, headers=fields))
        reply = client.request("HEAD" if kind == "HEAD" else "GET", path)
        assert reply.status == (200 if fits else 502)
        if not fits and kind != "HEAD":
            assert "head" in error_of(reply)
        assert client.get(cold(origin).path).status == 200

    @pytest.mark.parametrize("path", ["/v2/", "/v2/app/blobs/sha256:" + "1" * 64])
    def test_what_goes_on_and_what_does_not(self, path: str, client: Client, origin: Origin) -> None:
        origin.on(path, Answer(b"no", 404, {"X-Origin": "1", "Set-Cookie": "a=b", "Keep-Alive": "timeout=9"}))
        headers = {
            "Connection": "keep-alive, X-Hop",
            "X-Hop": "1",
            "X-End": "2",
            "Proxy-Authorization": "Basic eDp5",
            "TE": "trailers",
            "Upgrade": "h2c",
            "User-Agent": "t/1",
        }
        reply = client.get(path, headers)
        assert (reply.status, reply.get("X-Origin")) == (404, "1")
        assert reply.get("Set-Cookie") is reply.get("Keep-Alive") is None
        seen = asked(origin, path)[-1]
        assert (seen.get("X-End"), seen.get("User-Agent"), seen.get("Host")) == ("2", "t/1", origin.authority)
        for name in ("X-Hop", "Proxy-Authorization", "TE", "Upgrade"):
            assert seen.get(name) is None


CAUSES = {
    "ca": ("certificate", "issuer|self-signed|unknown"),
    "name": ("certificate", "mismatch"),
    "date": ("certificate", "expired"),
}


class TestTls:
    """Whom the proxy believes."""

    @pytest.fixture
    def origins(self, stack: ExitStack, tmp_path: Path, trust: Trust) -> dict[str, Origin]:
        """By what is wrong with the certificate; "name" is right for another name than it is asked as."""
        return {
            "ca": stack.enter_context(Origin(Trust(tmp_path / "unknown"), "ca.test")),
            "name": stack.enter_context(Origin(trust, "another.test")),
            "date": stack.enter_context(expired(tmp_path / "expired", "date.test")),
            "right": stack.enter_context(Origin(trust, "right.test")),
        }

    @pytest.fixture
    def start(
        self, origins: dict[str, Origin], trust: Trust, tmp_path: Path, stack: ExitStack
    ) -> Callable[..., Proxy]:
        """A proxy that trusts the test's CA and the one behind the expired certificate."""
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(trust.pem + (tmp_path / "expired" / "ca.pem").read_bytes())

        def start(**env: str) -> Proxy:
            return stack.enter_context(
                Proxy(
                    tmp_path / "proxy",
                    {"REGPROXY_DEBUG": "1", **env},
                    registries=tuple(f"{name}.test:{origin.port}" for name, origin in origins.items()),
                    resolve={f"{name}.test": origin.address[0] for name, origin in origins.items()},
                    ca=bundle,
                )
            )

        return start

    def test_errors_name_host_and_cause(
        self, origins: dict[str, Origin], start: Callable[..., Proxy], stack: ExitStack
    ) -> None:
        proxy = start()
        for wrong, (what, causes) in CAUSES.items():
            client = stack.enter_context(proxy.client(f"{wrong}.test:{origins[wrong].port}"))
            for path in ("/v2/app/tags/list", "/v2/app/manifests/v1", blob().path):
                reply = client.get(path, {"Authorization": OWN})
                message = error_of(reply)
                assert reply.status in (502, 503)  # after three failures in a row nobody is asked
                assert f"{wrong}.test" in message
                assert what in message
                assert any(cause in message for cause in causes.split("|")), message
            assert origins[wrong].requests == []
        client = stack.enter_context(proxy.client(f"right.test:{origins['right'].port}"))
        item = cold(origins["right"])
        assert client.get(item.path).digest == item.digest

    def test_an_unknown_ca_is_told_in_one_line(
        self, origins: dict[str, Origin], start: Callable[..., Proxy], stack: ExitStack
    ) -> None:
        """However many requests fail for it; each of their errors names the setting, too."""
        proxy = start(ENABLE_MANIFEST_CACHE="true")
        setting = "add that CA to the file in REGPROXY_UPSTREAM_CA_FILE"
        client = stack.enter_context(proxy.client(f"ca.test:{origins['ca'].port}"))
        for path in ("/v2/", "/v2/app/manifests/v1", "/v2/app/tags/list", blob().path) * 2:
            assert client.request("HEAD", path).status in (200, 502, 503)  # /v2/: in its place
            reply = client.get(path)
            assert reply.status == 200 or setting in error_of(reply)
        (line,) = (line for line in proxy.log().splitlines() if "ca.test" in line and " WARNING " in line)
        assert f"ca.test:{origins['ca'].port}: its certificate is not signed by a CA" in line
        assert setting in line and "certificate verify failed" in line
        # One that fails otherwise is told of as ever.
        other = stack.enter_context(proxy.client(f"date.test:{origins['date'].port}"))
        assert "REGPROXY_UPSTREAM_CA_FILE" not in error_of(other.get("/v2/app/tags/list"))
        wait_until(lambda: "date.test" in proxy.log(), "its line")

    def test_an_unknown_ca_where_a_registry_leads(
        self, origins: dict[str, Origin], start: Callable[..., Proxy], stack: ExitStack
    ) -> None:
        """The log says which: its own lines are none. Nobody else's error names it."""
        proxy, (right, led) = start(), (origins["right"], origins["ca"])
        item = blob()
        right.on(item.path, redirect(f"https://ca.test:{led.port}/x"))
        client = stack.enter_context(proxy.client(f"right.test:{right.port}"))
        other = stack.enter_context(proxy.client(f"ca.test:{led.port}"))
        for asking, path in ((client, item.path), (other, "/v2/app/tags/list")) * 3:
            message = error_of(asking.get(path))
            assert f"ca.test:{led.port}: its certificate is not signed by a CA" in message
            assert "right.test" not in message
        wait_until(
            lambda: f"ca.test:{led.port} (right.test:{right.port} leads there): its" in proxy.log(), "it"
        )

    def test_not_verified(
        self, origins: dict[str, Origin], start: Callable[..., Proxy], stack: ExitStack
    ) -> None:
        proxy = start(VERIFY_SSL="false")
        for name in ("ca", "name", "date", "right"):
            item = cold(origins[name])
            client = stack.enter_context(proxy.client(f"{name}.test:{origins[name].port}"))
            assert client.get(item.path).digest == item.digest
            assert origins[name].requests[0].server_name == f"{name}.test"


class Nowhere(NamedTuple):
    """Names that lead to trouble, and how the proxy is to call it."""

    name: str
    status: int
    words: tuple[str, ...]


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, tuple[str, int]]]:
    """Addresses where nobody answers as an origin does, each in a way of its own."""
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(free_address(), backlog=0))
        for _ in range(4):  # more than its queue takes: the next SYN gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        mute = stack.enter_context(socket.create_server(free_address()))
        plain = stack.enter_context(socket.create_server(free_address()))
        stack.callback(plain.shutdown, socket.SHUT_RDWR)  # closing alone does not end an accept
        threading.Thread(target=_greet, args=(plain,), daemon=True).start()
        listeners = {"deaf": deaf, "mute": mute, "plain": plain}
        yield {"closed": free_address()} | {name: sock.getsockname() for name, sock in listeners.items()}


@pytest.fixture(scope="module")
def before_nobody(
    places: dict[str, tuple[str, int]], trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy before all of them."""
    registries = [f"{name}.test:{port}" for name, (_, port) in places.items()]
    with Proxy(
        tmp_path_factory.mktemp("nowhere"),
        {"REGPROXY_DEBUG": "1", "PROXY_CONNECT_TIMEOUT": "1s"},
        registries=(*registries, "nowhere.invalid"),
        resolve={f"{name}.test": address for name, (address, _) in places.items()},
        ca=trust.path,
    ) as proxy:
        yield proxy


class TestNobodyThere:
    """No connection, no name, no answer: said at once, and clearly."""

    @pytest.mark.parametrize(
        "where",
        [
            Nowhere("closed", 502, ("refused",)),
            Nowhere("deaf", 504, ("no connection within 1 s",)),
            Nowhere("mute", 504, ("handshake",)),
            Nowhere("plain", 502, ("TLS handshake failed", "wrong version number")),
            Nowhere("nowhere.invalid", 502, ("name resolution",)),
        ],
        ids=lambda where: where.name,
    )
    def test_a_clear_error(
        self,
        where: Nowhere,
        places: dict[str, tuple[str, int]],
        before_nobody: Proxy,
        stack: ExitStack,
    ) -> None:
        proxy = before_nobody
        host, port = (where.name, 443) if "." in where.name else (f"{where.name}.test", places[where.name][1])
        asks = (
            ("GET", blob().path),
            ("GET", "/v2/app/manifests/v1"),
            ("GET", "/v2/a/tags/list"),
            ("HEAD", blob().path),
        )
        clients = [stack.enter_context(proxy.client(f"{host}:{port}")) for _ in asks]
        for client, (method, path) in zip(clients, asks, strict=True):
            client.ask(method, path)
        for client, (method, _) in zip(clients, asks, strict=True):
            reply = client.read_reply()
            assert reply.status in (where.status, 503)  # after three failures in a row nobody is asked
            if method == "GET":
                message = error_of(reply)
                assert host in message
                assert all(word in message for word in where.words), message

    def test_silence(self, start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk) -> None:
        never = threading.Event()
        origin = start_origin("reg.test")
        proxy = start_proxy(origin, PROXY_READ_TIMEOUT="1s", REGPROXY_RESUME_TIME="500ms", REGPROXY_DEBUG="1")
        client = talk(proxy, origin)
        reply = client.get(cold(origin, hold_at=-1, hold=never).path)
        assert (reply.status, "sent nothing for 1 s" in error_of(reply)) == (504, True)
        reply = client.get(cold(origin, hold_at=10, hold=never).path)
        assert (reply.status, "sent nothing for 1 s" in error_of(reply)) == (504, True)
        large = cold(origin, LARGE, hold_at=LARGE // 2, hold=never, ranges=False)
        assert not client.get(large.path).complete
        # Half of it is there, for the next one who asks.
        assert LARGE // 2 in [path.stat().st_size for path in proxy.parts() if path.suffix == ".part"]
        client = talk(proxy, origin)
        slow = cold(origin, LARGE, rate=LARGE / 2)  # two seconds, without a pause of one
        assert client.get(slow.path).digest == slow.digest

    def test_another_address_of_the_name(
        self, start_origin: StartOrigin, trust: Trust, tmp_path: Path, stack: ExitStack
    ) -> None:
        origin = start_origin("many.test")
        closed = free_address()[0]
        proxy = stack.enter_context(
            Proxy(
                tmp_path / "proxy",
                {
                    "REGPROXY_DEBUG": "1",
                    "REGPROXY_RESOLVE": f"many.test=::1 many.test={closed} many.test={origin.address[0]}",
                },
                registries=(origin.authority,),
                ca=trust.path,
            )
        )
        item = cold(origin)
        reply = stack.enter_context(proxy.client(origin.authority)).get(item.path)
        assert (reply.status, reply.digest) == (200, item.digest)
        (line,) = proxy.access_log(1)
        assert line["upstream"] == origin.address[0]


def _greet(listener: socket.socket) -> None:
    """Say something that is not TLS to whoever comes."""
    with suppress(OSError):  # the listener is closed
        while True:
            peer, _ = listener.accept()
            with peer, suppress(OSError):
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port")
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass


@contextmanager
def expired(directory: Path, name: str) -> Iterator[Origin]:
    """An origin whose certificate ran out yesterday; its CA, in `directory`/ca.pem, is good."""
    directory.mkdir()
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "past CA")])
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 9 * day)
        )

    ca = (
        builder(issuer, ca_key.public_key())
        .not_valid_after(now + 9 * day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        builder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), key.public_key())
        .not_valid_after(now - day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(ca.public_bytes(pem))
    pair = directory / "pair.pem"
    pair.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(pem)
    )
    with Origin(_Past(pair), name) as origin:  # type: ignore[arg-type]
        yield origin


class _Past:
    """Stands in for a Trust with one pair."""

    def __init__(self, pair: Path) -> None:
        self._pair = pair

    def server_context(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pair)
        return context
