"""The way to an origin: plain HTTP, certificates, timeouts, parent proxies, addresses and their order."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.support.client import Client, Reply
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.parent_proxies import ESTABLISHED, TINYPROXY, Parent, Tinyproxy
from tests.support.processes import free_address
from tests.support.proxy import Proxy
from tests.support.trust import Trust

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]

BODY = random.Random("dialing").randbytes(5000)
DIGEST = digest_of(BODY)
PATH = f"/v2/app/blobs/{DIGEST}"
SECRET = "hunter2"


@pytest.fixture
def start(start_proxy: StartProxy, tmp_path: Path) -> StartProxy:
    """Start a proxy that intercepts reg.test: `start(TOML text, origins..., VAR="value")`."""

    def run(toml: str = "", *before: Origin, **env: str | None) -> Proxy:
        path = tmp_path / "regproxy.toml"
        path.write_text(toml)
        return start_proxy(*before, registries=("reg.test",), REGPROXY_CONFIG=str(path), **env)

    return run


@pytest.fixture
def pull(stack: ExitStack) -> Callable[..., Reply]:
    """Ask for the blob through a proxy, as a client that knows reg.test alone."""

    def ask(proxy: Proxy, path: str = PATH) -> Reply:
        client: Client = stack.enter_context(proxy.client("reg.test:443"))
        return client.get(path)

    return ask


def table(*lines: str, name: str = "reg.test") -> str:
    return "\n".join([f'[origin."{name}"]', *lines, ""])


def at(origin: Origin, *lines: str) -> str:
    """Return a table that says where reg.test really is."""
    return table(f'address = "{origin.address[0]}"', f"port = {origin.port}", *lines)


def filled(origin: Origin) -> Origin:
    origin.on(PATH, blob_answer(DIGEST, BODY))
    return origin


@pytest.fixture
def origin(start_origin: StartOrigin) -> Origin:
    return filled(start_origin("reg.test"))


def message(reply: Reply) -> str:
    (error,) = reply.json()["errors"]
    return str(error["message"])


# --- settings of one origin ------------------------------------------------------------------------------


def test_plain_http(start: StartProxy, start_origin: StartOrigin, pull: Callable[..., Reply]) -> None:
    plain = filled(start_origin("reg.test", tls=False))
    proxy = start(at(plain, 'scheme = "http"'), AUTH_REGISTRIES="reg.test:u:p")
    reply = pull(proxy)
    assert (reply.status, reply.digest) == (200, DIGEST)
    (seen,) = plain.requests
    # It is who it is to its clients, wherever it is; and that it is asked in plain text was somebody's will.
    assert (seen.get("host"), seen.get("authorization")) == ("reg.test", "Basic dTpw")
    assert proxy.metric("regproxy_upstream_requests_total", host="reg.test") == 1


@pytest.mark.parametrize("where", ["http://reg.test/kept", "https://reg.test/kept", "/kept"])
def test_redirects_of_a_registry_behind_plain_http(
    where: str, start: StartProxy, start_origin: StartOrigin, pull: Callable[..., Reply]
) -> None:
    """It takes itself for http://, as it can't know better; these are the same registry."""
    plain = start_origin("reg.test", tls=False)
    plain.on(PATH, redirect(where, 307))
    plain.on("/kept", blob_answer(DIGEST, BODY))
    proxy = start(at(plain, 'scheme = "http"'), AUTH_REGISTRIES="reg.test:u:p")
    assert pull(proxy).digest == DIGEST
    assert [seen.get("authorization") for seen in plain.requests] == ["Basic dTpw"] * 2
    assert plain.connections == 1


def test_redirects_to_anybody_elses_plain_http_are_not_followed(
    start: StartProxy, start_origin: StartOrigin, pull: Callable[..., Reply]
) -> None:
    plain = start_origin("reg.test", tls=False)
    plain.on(PATH, redirect("http://other.test/kept", 307))
    reply = pull(start(at(plain, 'scheme = "http"'), REGPROXY_ALLOW_HTTP_REDIRECTS="off"))
    assert reply.status == 502
    assert "redirects to plain HTTP at other.test: not followed" in message(reply)


def test_plain_http_is_not_tried_by_itself(
    start: StartProxy, start_origin: StartOrigin, pull: Callable[..., Reply]
) -> None:
    plain = filled(start_origin("reg.test", tls=False))
    reply = pull(start(at(plain, 'connect_timeout = "300ms"')))
    assert reply.status == 504
    assert "reg.test:443: the TLS handshake took too long" in message(reply)
    assert plain.requests == []


def test_ca_file(
    start: StartProxy, origin: Origin, pull: Callable[..., Reply], trust: Trust, stack: ExitStack
) -> None:
    without = {"REGPROXY_UPSTREAM_CA_FILE": None}
    assert pull(start(at(origin), **without)).status == 502
    assert pull(start(at(origin, f'ca_file = "{trust.path}"'), **without)).status == 200
    assert origin.requests[0].server_name == "reg.test"


def test_verify_is_one_origins_own(start: StartProxy, origin: Origin, pull: Callable[..., Reply]) -> None:
    proxy = start(at(origin, "verify = false"), REGPROXY_UPSTREAM_CA_FILE=None)
    assert pull(proxy).status == 200
    assert "reg.test: verify is off" in proxy.log()


class Mutual:
    """Serves as `trust` does, and wants certificates of clients that `clients` has signed."""

    def __init__(self, trust: Trust, clients: Trust) -> None:
        self._trust, self._clients = trust, clients

    def server_context(self, *names: str) -> ssl.SSLContext:
        context = self._trust.server_context(*names)
        context.load_verify_locations(self._clients.path)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("clients"), "CA of clients")


@pytest.fixture
def mutual(trust: Trust, clients: Trust) -> Iterator[Origin]:
    with Origin(cast(Trust, Mutual(trust, clients)), "reg.test") as origin:
        yield filled(origin)


@pytest.mark.parametrize("files", [1, 2])
def test_client_certificates(
    files: int,
    start: StartProxy,
    mutual: Origin,
    clients: Trust,
    pull: Callable[..., Reply],
    tmp_path: Path,
) -> None:
    pair = clients.client("proxy.test")
    lines = [f'client_cert_file = "{pair.chain}"', f'client_key_file = "{pair.key}"']
    if files == 1:
        both = tmp_path / "both.pem"
        both.write_bytes(pair.key.read_bytes() + pair.chain.read_bytes())
        lines = [f'client_cert_file = "{both}"']
    assert pull(start(at(mutual, *lines))).status == 200


def test_no_client_certificate(
    start: StartProxy, mutual: Origin, pull: Callable[..., Reply], trust: Trust
) -> None:
    reply = pull(start(at(mutual)))
    assert (reply.status, mutual.requests) == (502, [])
    # Only somebody whom the registry does not trust.
    other = trust.client("proxy.test")
    files = f'client_cert_file = "{other.chain}"', f'client_key_file = "{other.key}"'
    assert pull(start(at(mutual, *files))).status == 502


# (lines, what the error says)
BAD_FILES = [
    ('ca_file = "{none}"', "origin.\"reg.test\".ca_file='{none}': can't be read: No such file"),
    ('ca_file = "{text}"', "{text}: no CA certificates could be read"),
    ('client_cert_file = "{none}"', "origin.\"reg.test\".client_cert_file='{none}': can't be read"),
    (
        'client_cert_file = "{cert}"',
        "origin.\"reg.test\".client_cert_file='{cert}': a certificate in PEM with the key in {cert}: no",
    ),
    ('client_cert_file = "{text}"', "no certificate in the PEM text"),
    ('client_cert_file = "{cert}"\nclient_key_file = "{none}"', "client_key_file='{none}': can't be read"),
    ('client_cert_file = "{cert}"\nclient_key_file = "{other}"', "OpenSSL refuses the key"),
    ('client_cert_file = "{cert}"\nclient_key_file = "{locked}"', "no private key in the PEM text"),
]


@pytest.mark.parametrize("lines, want", BAD_FILES, ids=lambda value: value[:60])
def test_bad_files(lines: str, want: str, clients: Trust, trust: Trust, tmp_path: Path) -> None:
    from regproxy.config.sources.assembly import load
    from regproxy.core.errors import ConfigError
    from regproxy.tls.client_contexts import Trust as Contexts

    pair, other = clients.client("a.test"), clients.client("b.test")
    (text := tmp_path / "text").write_text("nothing")
    (locked := tmp_path / "locked").write_bytes(_locked())
    places = {
        "none": tmp_path / "none",
        "text": text,
        "cert": pair.chain,
        "other": other.key,
        "locked": locked,
    }
    with pytest.raises(ConfigError) as caught:
        Contexts(load({}, table(lines.format(**places))))
    assert want.format(**places) in str(caught.value)


def _locked() -> bytes:
    """A key that only a passphrase opens."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    lock = forms.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, lock)


def test_bad_files_end_it_at_the_start(stack: ExitStack, tmp_path: Path) -> None:
    (path := tmp_path / "regproxy.toml").write_text(table('ca_file = "/does/not/exist"'))
    proxy = Proxy(tmp_path / "proxy", {"REGPROXY_CONFIG": str(path)}, ready=False)
    stack.callback(proxy.daemon.kill_group)
    assert proxy.daemon.wait() != 0
    assert "origin.\"reg.test\".ca_file='/does/not/exist': can't be read: No such file" in proxy.log()


def test_timeouts(start: StartProxy, origin: Origin, pull: Callable[..., Reply]) -> None:
    never = threading.Event()
    origin.on("/v2/app/manifests/latest", Answer(b"", hold_at=-1, hold=never))
    reply = pull(start(at(origin, 'read_timeout = "300ms"')), "/v2/app/manifests/latest")
    never.set()
    assert reply.status == 504
    assert "sent nothing for 0.3 s" in message(reply)


# --- addresses -------------------------------------------------------------------------------------------


def test_an_address_that_is_dead(
    start: StartProxy, start_origin: StartOrigin, pull: Callable[..., Reply]
) -> None:
    dead, _ = free_address()
    origin = filled(start_origin("reg.test"))
    proxy = start(
        table(f"port = {origin.port}"),
        REGPROXY_RESOLVE=f"reg.test={dead} reg.test={origin.address[0]}",
        REGPROXY_ALLOW_TARGETS="reg.test",
    )
    assert pull(proxy).status == 200


def test_nobody_there(start: StartProxy, pull: Callable[..., Reply]) -> None:
    host, port = free_address()
    reply = pull(start(table(f'address = "{host}"', f"port = {port}")))
    assert reply.status == 502
    assert f"reg.test (at {host}, port {port}): Connection refused" in message(reply)


# --- parent proxies --------------------------------------------------------------------------------------


@pytest.fixture
def parents(stack: ExitStack) -> Callable[..., Parent]:
    return lambda *args, **options: stack.enter_context(Parent(*args, **options))


def test_the_environments_proxy(
    start: StartProxy, origin: Origin, parents: Callable[..., Parent], pull: Callable[..., Reply]
) -> None:
    # The name is one that only the parent knows.
    parent = parents({"reg.test": origin.address})
    proxy = start(HTTPS_PROXY=parent.url(f"u:{SECRET}"))
    reply = pull(proxy)
    assert (reply.status, reply.digest) == (200, DIGEST)
    (asked,) = parent.asked
    assert asked.target == "reg.test:443"
    assert asked.fields == {"host": "reg.test:443", "proxy-authorization": "Basic dTpodW50ZXIy"}
    assert origin.requests[0].server_name == "reg.test"
    assert origin.requests[0].get("proxy-authorization") is None
    (line,) = proxy.access_log(1)
    said = f"{line}{proxy.log()}{proxy.admin('/metrics')}"
    assert SECRET not in said and "dTpodW50ZXIy" not in said


def test_who_is_reached_without_it(
    start: StartProxy, origin: Origin, parents: Callable[..., Parent], pull: Callable[..., Reply]
) -> None:
    parent = parents()
    assert pull(start(at(origin), HTTPS_PROXY=parent.url())).status == 200, "it is on a loopback address"
    assert pull(start(at(origin, 'parent_proxy = ""'), https_proxy=parent.url())).status == 200
    assert parent.asked == []


def test_an_origins_own_proxy(
    start: StartProxy, origin: Origin, parents: Callable[..., Parent], pull: Callable[..., Reply]
) -> None:
    theirs, own = parents(), parents()
    toml = at(origin, f'parent_proxy = "{own.url()}"')
    assert pull(start(toml, HTTPS_PROXY=theirs.url())).status == 200
    assert own.targets == [f"{origin.address[0]}:{origin.port}"]
    assert theirs.asked == []


def test_plain_http_through_a_proxy(
    start: StartProxy, start_origin: StartOrigin, parents: Callable[..., Parent], pull: Callable[..., Reply]
) -> None:
    plain, parent = filled(start_origin("reg.test", tls=False)), parents()
    toml = at(plain, 'scheme = "http"', f'parent_proxy = "{parent.url()}"')
    assert pull(start(toml)).status == 200
    assert parent.targets == [f"{plain.address[0]}:{plain.port}"]


def test_connections_through_a_proxy_are_kept(
    start: StartProxy, origin: Origin, parents: Callable[..., Parent], pull: Callable[..., Reply]
) -> None:
    parent = parents({"reg.test": origin.address})
    proxy = start(HTTPS_PROXY=parent.url())
    for number in range(3):
        assert pull(proxy, f"/v2/app/manifests/{number}").status == 404
    assert len(parent.asked) == 1


# (what the parent says, what is said of it)
REFUSALS = [
    (b"HTTP/1.1 403 Filtered\r\n\r\n", "does not allow this (403)"),
    (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants other credentials (407)"),
    (b"HTTP/1.0 502 Bad\r\nContent-Length: 3\r\n\r\nbad", "answered 502 to CONNECT"),
    (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "answered 302 to CONNECT"),
    (b"", "closed the connection instead of opening a tunnel"),
    (b"HTTP/1.1 200 OK\r\n", "closed the connection instead of opening a tunnel"),
    (b"SSH-2.0-x\r\n\r\n", "answered is not HTTP"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "is larger than 16384 bytes"),
]


class Deaf(Parent):
    def _relay(self, client: socket.socket, target: str) -> None:
        """Nothing follows."""


@pytest.fixture(scope="module")
def refused(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, list[Deaf]]]:
    """A proxy that reaches r0.test, r1.test... through parents, each of which gives one of REFUSALS."""
    place = tmp_path_factory.mktemp("refused")
    with ExitStack() as stack:
        parents = [stack.enter_context(Deaf(answer=answer)) for answer, _ in REFUSALS]
        urls = {f"r{number}.test": parent.url(f"u:{SECRET}") for number, parent in enumerate(parents)}
        toml = "".join(table(f'parent_proxy = "{url}"', name=name) for name, url in urls.items())
        (place / "regproxy.toml").write_text(toml)
        env = {"REGPROXY_CONFIG": str(place / "regproxy.toml")}
        proxy = Proxy(place / "proxy", env, registries=tuple(urls), ca=trust.path)
        yield stack.enter_context(proxy), parents


@pytest.mark.parametrize("number", range(len(REFUSALS)), ids=lambda number: repr(REFUSALS[number])[1:40])
def test_refusals(number: int, refused: tuple[Proxy, list[Deaf]]) -> None:
    proxy, parents = refused
    _, want = REFUSALS[number]
    host, port = parents[number].address
    with proxy.client(f"r{number}.test:443") as client:
        reply = client.get(PATH)
    assert reply.status == 502
    assert message(reply).startswith(f"r{number}.test:443: ")
    assert f"the proxy {host}:{port}" in message(reply) and want in message(reply)
    assert SECRET not in message(reply) + proxy.log()


def test_a_refusal_of_the_environments_proxy(start: StartProxy, pull: Callable[..., Reply]) -> None:
    answer, want = REFUSALS[0]
    with Deaf(answer=answer) as parent:
        proxy = start(HTTPS_PROXY=parent.url(f"u:{SECRET}"))
        reply = pull(proxy)
        host, port = parent.address
        assert reply.status == 502
        assert message(reply).startswith(f"reg.test:443: the proxy {host}:{port} ")
        assert want in message(reply)
        assert SECRET not in message(reply) + proxy.log()


def test_a_proxy_that_is_not_there(start: StartProxy, pull: Callable[..., Reply]) -> None:
    host, port = free_address()
    reply = pull(start(HTTPS_PROXY=f"http://{host}:{port}"))
    assert reply.status == 502
    why = f"reg.test:443: no connection to the proxy {host}:{port}: Connection refused"
    assert message(reply).startswith(f"{why} (request ")


def test_an_answer_in_pieces(
    start: StartProxy, origin: Origin, parents: Callable[..., Parent], pull: Callable[..., Reply]
) -> None:
    parent = parents({"reg.test": origin.address}, piece=1, answer=ESTABLISHED[:-2] + b"X: y\r\n\r\n")
    assert pull(start(HTTPS_PROXY=parent.url())).status == 200


def test_never_through_itself(start: StartProxy, pull: Callable[..., Reply], tmp_path: Path) -> None:
    # Told by what it is connected to: the name could be anything.
    address, admin = free_address(), free_address()
    (path := tmp_path / "own.toml").write_text(table(f'parent_proxy = "http://{address[0]}:{address[1]}"'))
    env = {"REGPROXY_CONFIG": str(path)}
    with Proxy(tmp_path / "p", env, registries=("reg.test",), addresses=(address, admin)) as proxy:
        reply = pull(proxy)
        assert reply.status == 502
        assert "to go through, is this proxy itself" in message(reply)


@contextmanager
def greeter(greeting: bytes) -> Iterator[tuple[str, int]]:
    """Somebody who speaks first, and then says what is said to him."""
    address = free_address()

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(greeting)
            while data := sock.recv(1000):
                sock.sendall(data)

    with socket.create_server(address) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield address
        thread.join(20)


@pytest.mark.parametrize("answer", [ESTABLISHED, ESTABLISHED + b"HELLO "])
def test_tunnels_go_through_it_too(
    answer: bytes, start: StartProxy, parents: Callable[..., Parent], stack: ExitStack
) -> None:
    """What comes in one piece with the proxy's answer is the other side's."""
    with greeter(b"welcome") as address:
        parent = parents({"other.test": address}, answer=answer)
        proxy = start(HTTPS_PROXY=parent.url())
        with Client.connect(proxy.address) as client:
            assert client.connect_to("other.test:443").status == 200
            want = answer[len(ESTABLISHED) :] + b"welcome"
            assert client.read(len(want)) == want
            client.send(b"and you")
            assert client.read(7) == b"and you"
        assert parent.targets == ["other.test:443"]


@pytest.mark.parametrize("target", ["169.254.169.254:443", "[fd00:ec2::254]:443"])
def test_literal_addresses_are_looked_at_all_the_same(
    target: str, start: StartProxy, parents: Callable[..., Parent]
) -> None:
    parent = parents()
    proxy = start(HTTPS_PROXY=parent.url())
    with Client.connect(proxy.address) as client:
        assert client.connect_to(target).status == 403
    assert parent.asked == []


@pytest.fixture(scope="module")
def tinyproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tinyproxy]:
    with Tinyproxy(tmp_path_factory.mktemp("tinyproxy"), "user", SECRET) as running:
        yield running


@pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed")
class TestTinyproxy:
    """A proxy that others have made."""

    def test_pull(
        self, start: StartProxy, origin: Origin, tinyproxy: Tinyproxy, pull: Callable[..., Reply]
    ) -> None:
        proxy = start(at(origin, f'parent_proxy = "{tinyproxy.url()}"'))
        reply = pull(proxy)
        assert (reply.status, reply.digest) == (200, DIGEST)
        assert f"CONNECT {origin.address[0]}:{origin.port}" in tinyproxy.log()
        assert SECRET not in proxy.log()

    @pytest.mark.parametrize(
        "pair, want", [("user:wrong", "wants other credentials (401)"), ("", "wants credentials (407)")]
    )
    def test_credentials(
        self,
        pair: str,
        want: str,
        start: StartProxy,
        origin: Origin,
        tinyproxy: Tinyproxy,
        pull: Callable[..., Reply],
    ) -> None:
        reply = pull(start(at(origin, f'parent_proxy = "{tinyproxy.url(pair)}"')))
        assert reply.status == 502
        assert want in message(reply)
        assert "wrong" not in message(reply)

    def test_nobody_there(self, start: StartProxy, tinyproxy: Tinyproxy, pull: Callable[..., Reply]) -> None:
        host, port = free_address()
        toml = table(f'address = "{host}"', f"port = {port}", f'parent_proxy = "{tinyproxy.url()}"')
        reply = pull(start(toml))
        assert reply.status == 502
        assert "the proxy" in message(reply)
