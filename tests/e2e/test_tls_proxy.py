"""The proxy as https://: CONNECT within TLS, and clients that are known by their certificates."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.client_certificates import DAY, ClientCa
from tests.support.docker_registry import Registry
from tests.support.images import Image
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Skopeo
from tests.support.shared_proxy import BIG, BIG_PATH, SMALL, SMALL_PATH, Lane
from tests.support.trust import trusting


class Port:
    """A proxy with REGPROXY_TLS_LISTEN, and what clients need for it."""

    def __init__(self, lane: Lane, directory: Path, **env: str) -> None:
        directory.mkdir(exist_ok=True)
        self.lane, self.ca = lane, ClientCa(directory)
        self.cas = directory / "cas.pem"
        self.certificate = self.ca.issue("builder")
        self.revoked = self.ca.issue("builder")
        self.cas.write_bytes(self.ca.pem + self.ca.crl(self.revoked))
        self.users = directory / "users"
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
        self.users.write_text(f"alice:{hashed}\n")
        toml = directory / "regproxy.toml"
        toml.write_text('[principal.ci]\ncertificates = ["CN:builder"]\n')
        self.address = free_address()
        self.proxy: Proxy = lane.proxy(
            REGPROXY_TLS_LISTEN=f"{self.address[0]}:{self.address[1]}",
            REGPROXY_CONFIG=str(toml),
            REGPROXY_CLIENT_CA_FILE=str(self.cas),
            REGPROXY_HTPASSWD=str(self.users),
            **env,
        )

    @property
    def url(self) -> str:
        return f"https://{self.address[0]}:{self.address[1]}"

    def connect(self, certificate: Path | None = None) -> Client:
        """A client that is through the outer TLS."""
        context = trusting(self.proxy.ca_pem)
        if certificate is not None:
            context.load_cert_chain(certificate)
        client = Client.connect(self.address)
        client.start_tls(self.address[0], None, context=context)
        return client

    def curl(self, *words: str, path: str = SMALL_PATH, proxy: str = "") -> tuple[str, str]:
        """Return both statuses, and what curl said."""
        command = ["curl", "-q", "-sS", "-o", "/dev/null", "-w", "%{http_connect} %{http_code}"]
        command += ["-x", proxy or self.url, "--proxy-cacert", str(self.proxy.ca_path)]
        command += ["--cacert", str(self.proxy.ca_path), *words]
        command.append(f"https://{self.lane.origin.authority}{path}")
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin"}
        )
        return done.stdout, done.stderr


@pytest.fixture(scope="module")
def closed(lane: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    yield Port(lane, tmp_path_factory.mktemp("closed"), REGPROXY_UNKNOWN_CLIENTS="deny")


@pytest.fixture(scope="module")
def opened(lane: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    yield Port(lane, tmp_path_factory.mktemp("opened"))


@pytest.fixture(scope="module")
def required(lane: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    yield Port(lane, tmp_path_factory.mktemp("required"), REGPROXY_CLIENT_CERTS="required")


LOGINS = {
    "none": ([], "200 200", "407 000"),
    "right": (["--proxy-user", "alice:secret"], "200 200", "200 200"),
    "wrong": (["--proxy-user", "alice:wrong"], "407 000", "407 000"),
    "unknown": (["--proxy-user", "bob:secret"], "407 000", "407 000"),
    "malformed": (["--proxy-header", "Proxy-Authorization: Basic ?"], "407 000", "407 000"),
}


@pytest.mark.parametrize("login", LOGINS)
def test_curl_with_logins(login: str, opened: Port, closed: Port) -> None:
    words, by_open, by_closed = LOGINS[login]
    assert opened.curl(*words)[0] == by_open
    assert closed.curl(*words)[0] == by_closed


def test_curl_with_a_certificate(opened: Port, closed: Port, required: Port) -> None:
    for port in (opened, closed, required):
        shown = ["--proxy-cert", str(port.certificate)]
        assert port.curl(*shown)[0] == "200 200"
        assert port.curl(*shown, path=BIG_PATH)[0] == "200 200"
        assert port.curl(*shown, "--proxy-user", "alice:wrong")[0] == "407 000"
    code, said = required.curl()
    assert code == "000 000" and "certificate required" in said


WRONG = ["expired", "not yet", "revoked", "another CA's", "a server's"]


@pytest.mark.parametrize("which", WRONG)
def test_certificates_that_are_refused(which: str, opened: Port, closed: Port, tmp_path: Path) -> None:
    for port in (opened, closed):
        certificate = wrong_certificate(which, port, tmp_path)
        assert port.curl("--proxy-cert", str(certificate))[0] == "000 000"
        wait_until(partial(says_refused, port), "the refusal is logged")  # after the alert that ends curl


def says_refused(port: Port) -> bool:
    return "certificate is refused" in port.proxy.log()


def wrong_certificate(which: str, port: Port, directory: Path) -> Path:
    if which == "expired":
        return port.ca.issue("builder", start=-2 * DAY, end=-DAY)
    if which == "not yet":
        return port.ca.issue("builder", start=DAY, end=2 * DAY)
    if which == "another CA's":
        return ClientCa(directory).issue("builder")
    if which == "a server's":
        return port.ca.issue("builder", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    return port.revoked


def test_the_file_of_cas_is_read_again(lane: Lane, tmp_path: Path) -> None:
    port = Port(lane, tmp_path / "again", REGPROXY_CLIENT_CERTS="required")
    shown = ["--proxy-cert", str(port.certificate)]
    assert port.curl(*shown)[0] == "200 200"
    port.cas.write_bytes(port.ca.pem + port.ca.crl(port.certificate))
    wait_until(lambda: port.curl(*shown)[0] == "000 000", "the certificate is revoked")
    port.cas.unlink()
    wait_until(lambda: "no TLS: " in (port.curl(*shown), port.proxy.log())[1], "nobody is believed")
    assert [port.curl(*shown)[0] for _ in range(3)] == ["000 000"] * 3
    assert port.proxy.log().count("no TLS: ") == 1  # not a line for each of a client's attempts
    port.cas.write_bytes(port.ca.pem)
    wait_until(lambda: port.curl(*shown)[0] == "200 200", "it is believed again")


def test_a_certificate_without_a_table_is_its_own_principal(closed: Port) -> None:
    for names in (["other"], ["", x509.DNSName("a.example")]):
        certificate = closed.ca.issue(names[0], *names[1:])  # type: ignore[arg-type]
        assert closed.curl("--proxy-cert", str(certificate))[0] == "200 200"
    assert closed.curl("--proxy-cert", str(closed.ca.issue("")))[0] == "407 000"


# --- CONNECT within TLS -------------------------------------------------------------------------------------


def test_a_tunnel_within_tls(opened: Port) -> None:
    with opened.connect() as client:
        reply = client.connect_early(opened.lane.origin.authority, opened.proxy.ca_pem)
        assert reply.status == 200
        for path, body in ((SMALL_PATH, SMALL), (BIG_PATH, BIG), (SMALL_PATH, SMALL)):
            assert client.get(path).body == body
        assert client.get(BIG_PATH, {"Range": "bytes=1000-1999"}).body == BIG[1000:2000]
        # The end of the inner connection is that of both.
        assert client.get(BIG_PATH, {"Connection": "close"}).body == BIG
        assert client.read_end()[1] is End.CLOSE_NOTIFY
    opened.proxy.access_log(1, check=lambda line: line["remote_addr"] == "127.0.0.1")


def test_a_slow_client_gets_all_of_the_last_answer(opened: Port) -> None:
    """The proxy has closed its end of the pair before the client has taken what is in it."""
    with opened.connect() as client:
        assert client.connect_to(opened.lane.origin.authority).status == 200
        client.start_tls("reg.test", opened.proxy.ca_pem)
        client.ask("GET", BIG_PATH, {"Connection": "close"})
        reply = client.read_reply(rate=3_000_000)
        assert reply.complete and reply.body == BIG


def test_hosts_that_are_not_intercepted(opened: Port, closed: Port) -> None:
    for port in (opened, closed):
        with port.connect(port.certificate) as client:
            assert client.connect_to("nowhere.invalid:443").status == 502
        with port.connect(port.certificate) as client:
            assert client.connect_to("reg.test:22").status == 403
        with port.connect(port.certificate) as client:
            client.send(b"CONNECT nonsense HTTP/1.1\r\n\r\n")
            assert client.read_reply("CONNECT").status == 400


def test_plain_text_is_told_so(opened: Port) -> None:
    with Client.connect(opened.address) as client:
        reply = client.connect_to("reg.test:443")
        assert reply.status == 400 and b"this port speaks TLS" in reply.body


def test_mirror_requests_know_the_certificate(closed: Port) -> None:
    where = f"{SMALL_PATH}?ns={closed.lane.origin.authority.replace(':', '%3A')}"
    with closed.connect(closed.certificate) as client:
        assert client.get(where).body == SMALL
        assert client.get(where, {"Authorization": "Basic ?"}).status == 401
        assert client.get(where).status == 200
    with closed.connect() as client:
        assert client.get(where).status == 401


def test_an_end_of_the_client_ends_everything(opened: Port) -> None:
    """The module's proxies are checked for what is left open when they stop."""

    def live() -> dict[str, int]:
        found: dict[str, int] = json.loads(opened.proxy.admin("/debug/live")[1])
        return found

    before = live()
    for leave in ("close", "reset", "fin"):
        client = opened.connect()
        assert client.connect_early(opened.lane.origin.authority, opened.proxy.ca_pem).status == 200
        client.ask("GET", BIG_PATH)
        client.read_head()
        getattr(client, leave)()
        if leave != "close":
            client.layers[0].close()

    def gone() -> bool:
        now = live()
        return now["streams"] <= before["streams"] and now["ssl"] <= before["ssl"]

    wait_until(gone, f"no more is open than before: {before}")


def test_skopeo(
    start_registry: Callable[..., Registry],
    start_proxy: Callable[..., Proxy],
    image: Image,
    tmp_path: Path,
) -> None:
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    host, port = free_address()
    users = tmp_path / "users"
    users.write_text("alice:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() + "\n")
    proxy = start_proxy(
        registry,
        REGPROXY_TLS_LISTEN=f"{host}:{port}",
        REGPROXY_HTPASSWD=str(users),
        REGPROXY_UNKNOWN_CLIENTS="deny",
    )
    name = f"{registry.authority}/lib/app:v1"
    right = Skopeo(tmp_path / "right", proxy=f"https://alice:secret@{host}:{port}", ca=proxy.ca_path)
    assert right.copy(name).digest == image.digest
    wrong = Skopeo(tmp_path / "wrong", proxy=f"https://{host}:{port}", ca=proxy.ca_path)
    with pytest.raises(AssertionError, match="Proxy Authentication Required"):
        wrong.copy(name)
