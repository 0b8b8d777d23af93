"""Hits that are answered again without a look-up: nobody gets what another client was answered."""

from __future__ import annotations

import os
import signal
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import bcrypt
import pytest

from tests.support.client import Client, Reply
from tests.support.images import MANIFEST, make_image
from tests.support.origin import Answer, Origin, Seen, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.simulated_clock import MISSING, SimulatedClock

StartProxy = Callable[..., Proxy]
StartOrigin = Callable[..., Origin]
Talk = Callable[..., Client]

REPEATED = "regproxy_repeated_answers_total"
HIT = {"cache": "HIT"}
CACHED = {"ENABLE_MANIFEST_CACHE": "true", "MANIFEST_CACHE_DEFAULT_TIME": "1h"}
ACCEPT = [("Accept", MANIFEST)]
IMAGE, OTHER = make_image(size=900, layers=1, seed=801), make_image(size=900, layers=1, seed=802)
TAG, BY_DIGEST = "/v2/team/a/manifests/v1", f"/v2/team/a/manifests/{IMAGE.digest}"
PATHS = [TAG, BY_DIGEST]
OWNER, STRANGER = [*ACCEPT, ("Authorization", "Bearer owner")], [*ACCEPT, ("Authorization", "Bearer other")]
WANTED = {"WWW-Authenticate": 'Basic realm="r"'}
# The same bytes mean whatever the connection is to.
WITHOUT_HOST = f"GET {TAG} HTTP/1.0\r\nConnection: keep-alive\r\nAccept: {MANIFEST}\r\n\r\n".encode()


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


def for_owners(seen: Seen) -> Answer:
    """A registry for the bearer of `owner`, and for Alice by her password."""
    if seen.get("authorization") not in ("Bearer owner", basic("alice:a")):
        return Answer(b"{}", 401, WANTED)
    return Answer(b"{}") if seen.path == "/v2/" else manifest_answer(IMAGE)


@pytest.fixture
def private(start_origin: StartOrigin) -> Origin:
    origin = start_origin("reg.test")
    origin.on("/v2/*", for_owners)
    return origin


def repeats(proxy: Proxy, ask: Callable[[], object], what: str = "answers are repeated") -> None:
    """Ask until answers have been sent again by the data plane."""
    before = proxy.metric(REPEATED)

    def again() -> bool:
        for _ in range(20):
            ask()
        return proxy.metric(REPEATED) > before

    wait_until(again, what)


def asks(client: Client, path: str, fields: list[tuple[str, str]]) -> Callable[[], Reply]:
    return lambda: client.get(path, fields)


class TestAccess:
    """Whom a registry lets in."""

    @pytest.mark.parametrize("path", PATHS)
    def test_what_an_owner_was_answered(
        self, path: str, private: Origin, start_proxy: StartProxy, talk: Talk
    ) -> None:
        proxy = start_proxy(private, REGPROXY_ACCESS="verified", **CACHED)
        owner, other = talk(proxy, private), talk(proxy, private)
        ask = asks(owner, path, OWNER)
        for _ in range(3):
            repeats(proxy, ask)
            for fields in (STRANGER, ACCEPT):
                ask()
                assert other.get(path, fields).status == 401
                assert owner.get(path, fields).status == 401
            assert ask().digest == IMAGE.digest

    def test_whom_a_login_is_lent_to(
        self, private: Origin, start_proxy: StartProxy, stack: ExitStack, tmp_path: Path
    ) -> None:
        """The same head of two users, of whom one has the proxy's own account."""
        users, config = tmp_path / "users", tmp_path / "regproxy.toml"
        lines = (f"{name}:{bcrypt.hashpw(b'pw', bcrypt.gensalt(4)).decode()}\n" for name in ("ci", "guest"))
        users.write_text("".join(lines))
        login = 'credentials = {username = "alice", password = "a", principals = ["ci"]}'
        config.write_text(f'[origin."{private.authority}"]\naccess = "verified"\n{login}\n')
        env = {"REGPROXY_CONFIG": str(config), "REGPROXY_HTPASSWD": str(users)}
        proxy = start_proxy(private, **env, **CACHED)

        def connect(*names: str) -> Client:
            client = stack.enter_context(Client.connect(proxy.address))
            shown = [("Proxy-Authorization", basic(f"{name}:pw")) for name in names]
            assert client.connect_to(private.authority, headers=shown).status == 200
            client.start_tls("reg.test", proxy.ca_pem)
            return client

        ci, others = connect("ci"), [connect("guest"), connect()]
        for path in PATHS:
            ask = asks(ci, path, ACCEPT)
            assert ask().digest == IMAGE.digest
            for _ in range(2):
                repeats(proxy, ask)
                assert [other.get(path, ACCEPT).status for other in others] == [401, 401]
                assert connect("guest").get(path, ACCEPT).status == 401
                assert connect("ci").get(path, ACCEPT).digest == IMAGE.digest


@pytest.mark.parametrize("way", ["connect", "mirror"])
def test_addresses_that_a_balancer_tells(
    way: str, private: Origin, start_proxy: StartProxy, stack: ExitStack, tmp_path: Path
) -> None:
    config = tmp_path / "regproxy.toml"
    login = 'credentials = {username = "alice", password = "a", principals = ["office"]}'
    table = f'[origin."{private.authority}"]\naccess = "verified"\n{login}\n'
    config.write_text(f'{table}[principal.office]\naddresses = ["192.0.2.0/24"]\n')
    env = {"REGPROXY_CONFIG": str(config), "REGPROXY_PROXY_PROTOCOL": "127.0.0.0/8"}
    proxy = start_proxy(private, **env, **CACHED)

    def connect(source: str) -> Client:
        client = stack.enter_context(Client.connect(proxy.address))
        client.send(f"PROXY TCP4 {source} 198.51.100.2 4711 3128\r\n".encode())
        if way == "connect":
            assert client.connect_to(private.authority).status == 200
            client.start_tls("reg.test", proxy.ca_pem)
        return client

    path = TAG if way == "connect" else f"{TAG}?ns={private.authority.replace(':', '%3A')}"
    office, others = connect("192.0.2.77"), connect("203.0.113.9")
    ask = asks(office, path, ACCEPT)
    assert ask().digest == IMAGE.digest
    for _ in range(3):
        if way == "connect":
            repeats(proxy, ask)
        for _ in range(5):
            assert ask().digest == IMAGE.digest
            assert others.get(path, ACCEPT).status in (401, 403)
    logged = {line["remote_addr"] for line in proxy.access_log(10) if line["status"] == "200"}
    assert logged == {"192.0.2.77"}


def test_equal_heads_to_several_registries(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, stack: ExitStack
) -> None:
    """And to none, on connections that are all answered again."""
    images = {}
    for seed, name in enumerate(["one.test", "two.test", "three.test"]):
        image = make_image(size=900, layers=1, seed=810 + seed)
        origin = start_origin(name)
        origin.publish("team/a", image, "v1")
        images[origin] = image
    proxy = start_proxy(*images, REGPROXY_MIRROR_REGISTRIES="off", **CACHED)
    plain = stack.enter_context(Client.connect(proxy.address))
    clients = {origin: talk(proxy, origin) for origin in images}

    def ask(client: Client) -> Reply:
        client.send(WITHOUT_HOST)
        return client.read_reply("GET")

    def round_about() -> None:
        for origin, client in clients.items():
            reply = ask(client)
            assert (reply.digest, reply.get("connection")) == (images[origin].digest, "keep-alive")
        assert ask(plain).get("content-type") == "text/plain; charset=utf-8"

    round_about()
    for _ in range(2):
        repeats(proxy, round_about)


def test_a_connect_behind_a_mirrors_requests(
    start_origin: StartOrigin, start_proxy: StartProxy, stack: ExitStack
) -> None:
    """In one connection: what was answered before TLS is another matter than what is answered within."""
    one, other = start_origin("reg.test"), start_origin("other.test")
    one.publish("team/a", IMAGE, "v1")
    other.publish("team/a", OTHER, "v1")
    proxy = start_proxy(one, other, **CACHED)
    head = f"GET {TAG}?ns={one.authority} HTTP/1.0\r\nConnection: keep-alive\r\nAccept: {MANIFEST}\r\n\r\n"
    for _ in range(3):
        client = stack.enter_context(Client.connect(proxy.address))

        def ask(client: Client = client) -> Reply:
            client.send(head.encode())
            return client.read_reply("GET")

        repeats(proxy, lambda: ask().digest == IMAGE.digest or pytest.fail("another image"))
        assert client.connect_to(other.authority).status == 200
        client.start_tls("other.test", proxy.ca_pem)
        replies = [ask() for _ in range(6)]
        # A query that names a registry is the registry's own business within a CONNECT.
        assert all(reply.digest != IMAGE.digest for reply in replies)
        client.close()


class TestLog:
    """Each answer that went out has one line, and is counted once."""

    @pytest.fixture
    def origin(self, start_origin: StartOrigin) -> Origin:
        origin = start_origin("reg.test")
        origin.publish("team/a", IMAGE, "v1")
        return origin

    @pytest.mark.parametrize("log_format", ["regproxy", "rp"])
    def test_at_the_end(self, log_format: str, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        """No line is lost by SIGTERM, whatever was answered until then."""
        proxy = start_proxy(origin, REGPROXY_ACCESS_LOG_FORMAT=log_format, **CACHED)
        client, answered = talk(proxy, origin), 0

        def ask() -> None:
            nonlocal answered
            for _ in range(100):
                client.ask("GET", TAG, ACCEPT)
            for _ in range(100):
                assert client.read_reply().digest == IMAGE.digest
            answered += 100

        repeats(proxy, ask)
        ask()
        proxy.signal(signal.SIGTERM)
        client.read_end()
        assert proxy.stop() == 0
        lines = proxy.access_log()
        assert len(lines) == answered
        assert {line["bytes_sent"] for line in lines} == {str(len(IMAGE.manifest))}

    def test_a_client_that_takes_nothing(self, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        """The answer that does not go out ends by SEND_TIMEOUT, and has one line."""
        proxy = start_proxy(origin, SEND_TIMEOUT="1s", **CACHED)
        hot = talk(proxy, origin)
        repeats(proxy, asks(hot, TAG, ACCEPT))
        others = proxy.metric("regproxy_connections_open")
        slow = talk(proxy, origin, recv_buffer=4096, timeout=0.3)
        with suppress(TimeoutError, ConnectionError):
            for _ in range(1000):
                hot.get(TAG, ACCEPT)
                slow.send(100 * slow.head("GET", TAG, ACCEPT))
        wait_until(lambda: proxy.metric("regproxy_connections_open") <= others, "it is cut")
        assert proxy.metric(REPEATED) > 1000
        hits = int(proxy.metric("regproxy_requests_total", **HIT))
        assert proxy.stop() == 0
        lines = [line for line in proxy.access_log() if line["upstream_cache_status"] == "HIT"]
        assert len(lines) == hits
        assert {(line["status"], line["bytes_sent"]) for line in lines} == {("200", str(len(IMAGE.manifest)))}

    def test_no_log(self, origin: Origin, start_proxy: StartProxy, talk: Talk) -> None:
        proxy = start_proxy(origin, REGPROXY_ACCESS_LOG="off", **CACHED)
        repeats(proxy, asks(talk(proxy, origin), TAG, ACCEPT))

    def test_a_pipe_that_nobody_reads(
        self, origin: Origin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            proxy = start_proxy(origin, REGPROXY_ACCESS_LOG=str(pipe), **CACHED)
            client = talk(proxy, origin)
            for _ in range(3):
                repeats(proxy, asks(client, TAG, ACCEPT))
        finally:
            os.close(fd)


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_clock_that_is_set(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk, tmp_path: Path
) -> None:
    """A tag whose time is over is looked up again, also if that time has gone in a moment."""
    origin, clock = start_origin("reg.test"), SimulatedClock(tmp_path / "clock")
    origin.publish("team/a", IMAGE, "v1")
    proxy = start_proxy(origin, **clock.env, **CACHED)
    ask = asks(talk(proxy, origin), TAG, ACCEPT)
    repeats(proxy, ask)
    origin.publish("team/a", OTHER, "v1")
    assert ask().digest == IMAGE.digest
    clock.advance(7200)
    wait_until(lambda: ask().digest == OTHER.digest, "the tag is looked up again")
    repeats(proxy, ask)


def test_content_that_is_found_to_be_broken(
    start_origin: StartOrigin, start_proxy: StartProxy, talk: Talk
) -> None:
    """What a command takes out of the cache is gone, while it is being asked for again and again."""
    origin = start_origin("reg.test")
    origin.publish("team/a", IMAGE, "v1")
    proxy = start_proxy(origin, **CACHED)
    client = talk(proxy, origin)
    for path in PATHS:
        repeats(proxy, asks(client, path, ACCEPT))
    (file,) = (proxy.cache_dir / "blobs").glob(f"**/{IMAGE.digest[7:]}")
    file.chmod(0o600)
    file.write_bytes(bytes(len(IMAGE.manifest)))
    for path in PATHS:
        origin.on(path, Answer(b"{}", 404))
    done = proxy.command("cache", "verify")
    assert (done.returncode, file.exists()) == (1, False), done

    def gone() -> bool:
        return all(client.get(path, ACCEPT).status == 404 for path in PATHS)

    wait_until(gone, "it is gone")
    for _ in range(5):
        assert gone()
