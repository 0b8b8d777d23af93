"""Who a client is: logins by every way in, addresses; who is let in where unknown clients are not."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import bcrypt
import pytest

from tests.support.client import Client, Reply
from tests.support.docker_registry import Registry
from tests.support.images import Image, digest_of
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Podman, Skopeo, client_env, run
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane
from tests.support.two_workers import stopped

StartProxy = Callable[..., Proxy]
StartRegistry = Callable[..., Registry]

PASSWORD = "correct horse"


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "htpasswd"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    path.write_text(f"alice:{hashed}\n")
    return path


Ask = Callable[[Lane, Proxy, list[tuple[str, str]]], Reply]


def by_connect(lane: Lane, proxy: Proxy, headers: list[tuple[str, str]]) -> Reply:
    """The answer to a CONNECT, or to a request in the tunnel where there is one."""
    with Client.connect(proxy.address) as client:
        reply = client.connect_to(lane.origin.authority, headers=headers)
        if reply.status != 200:
            return reply
        client.start_tls("reg.test", proxy.ca_pem)
        return client.get(SMALL_PATH)


def by_early_connect(lane: Lane, proxy: Proxy, headers: list[tuple[str, str]]) -> Reply:
    """The same with the ClientHello in the CONNECT's packet, if it is let in."""
    with Client.connect(proxy.address) as client:
        tls = client._tls("reg.test", proxy.ca_pem, None, (), None)
        reply = client.connect_to(lane.origin.authority, headers=headers, extra=tls.hello())
        if reply.status != 200:
            return reply
        tls.handshake()
        client.layers.append(tls)
        return client.get(SMALL_PATH)


def by_absolute(lane: Lane, proxy: Proxy, headers: list[tuple[str, str]]) -> Reply:
    with Client.connect(proxy.address) as client:
        return client.get(f"http://{lane.origin.authority}{SMALL_PATH}", headers)


def by_mirror(lane: Lane, proxy: Proxy, headers: list[tuple[str, str]]) -> Reply:
    with Client.connect(proxy.address) as client:
        return client.get(f"{SMALL_PATH}?ns={lane.origin.authority.replace(':', '%3A')}", headers)


def by_mirror_itself(lane: Lane, proxy: Proxy, headers: list[tuple[str, str]]) -> Reply:
    """The proxy is asked as a registry is."""
    return by_mirror(lane, proxy, [(name.removeprefix("Proxy-"), value) for name, value in headers])


def by_a_pages_path(lane: Lane, proxy: Proxy, headers: list[tuple[str, str]]) -> Reply:
    with Client.connect(proxy.address) as client:
        return client.get("/v2/", [(name.removeprefix("Proxy-"), value) for name, value in headers])


WAYS: dict[str, tuple[Ask, int]] = {
    # way in: how, and the status of a refusal
    "connect": (by_connect, 407),
    "early connect": (by_early_connect, 407),
    "absolute": (by_absolute, 407),
    "mirror": (by_mirror, 401),
    "mirror itself": (by_mirror_itself, 401),
    "ping": (by_a_pages_path, 401),
}
SHOWN = {
    "none": [],
    "right": [("Proxy-Authorization", basic(f"alice:{PASSWORD}"))],
    "lower case": [("proxy-authorization", basic(f"alice:{PASSWORD}").replace("Basic", "basic"))],
    "wrong": [("Proxy-Authorization", basic("alice:wrong"))],
    "unknown": [("Proxy-Authorization", basic(f"bob:{PASSWORD}"))],
    "malformed": [("Proxy-Authorization", "Basic ???")],
    "empty": [("Proxy-Authorization", "Basic ")],
    "two": [("Proxy-Authorization", basic(f"alice:{PASSWORD}")), ("Proxy-Authorization", basic("bob:x"))],
}


@pytest.mark.parametrize("unknown", ["allow", "deny"])
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("way", WAYS)
def test_logins(way: str, shown: str, unknown: str, lane: Lane, users: Path) -> None:
    proxy = lane.proxy(REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS=unknown)
    ask, refusal = WAYS[way]
    headers = SHOWN[shown]
    itself = way in ("mirror itself", "ping")
    if itself:
        headers = [(name.title(), value) for name, value in headers]
    before = proxy.metric("regproxy_refused_logins_total", kind="basic")
    reply = ask(lane, proxy, headers)
    refused = proxy.metric("regproxy_refused_logins_total", kind="basic") - before
    allowed = shown in ("right", "lower case") or (shown == "none" and unknown == "allow")
    # skopeo 1.9 shows a registry an empty login where it has none.
    allowed = allowed or (shown == "empty" and itself and unknown == "allow")
    assert reply.status == (200 if allowed else refusal), reply
    shows_nothing = shown == "none" or (shown == "empty" and itself)  # and is asked for its login
    assert refused == (not allowed and not shows_nothing)
    asked = {name: reply.get(name) for name in ("Proxy-Authenticate", "WWW-Authenticate")}
    question = 'Basic realm="regproxy", charset="UTF-8"'
    assert asked == {
        "Proxy-Authenticate": question if not allowed and refusal == 407 else None,
        "WWW-Authenticate": question if not allowed and refusal == 401 else None,
    }
    if allowed and way != "ping":
        assert reply.body == SMALL
    elif not allowed and "connect" not in way:
        assert reply.json()["errors"][0]["code"] == "UNAUTHORIZED"


def test_no_login_reaches_a_registry_or_the_logs(lane: Lane, users: Path) -> None:
    proxy = lane.proxy(REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS="allow")
    asked = [(ask, [*headers]) for ask, _ in WAYS.values() for headers in SHOWN.values()]
    with ThreadPoolExecutor(8) as pool:  # wrong logins have to wait
        for done in [pool.submit(ask, lane, proxy, headers) for ask, headers in asked]:
            done.result()
    path, _ = lane.publish(500)
    with Client.connect(proxy.address) as client:
        for where in (f"http://{lane.origin.authority}{path}", f"http://{lane.origin.authority}/token"):
            assert client.get(where, SHOWN["right"]).status == 200
    with Client.connect(proxy.address) as client:
        assert client.connect_to(lane.origin.authority, headers=SHOWN["right"]).status == 200
        client.start_tls("reg.test", proxy.ca_pem)
        assert client.get("/pass", SHOWN["right"]).status == 200
    names = {name.lower() for seen in lane.origin.requests for name, _ in seen.headers}
    assert not {name for name in names if name.startswith("proxy-")}
    every = str(lane.origin.requests) + proxy.log() + (proxy.directory / "access.log").read_text()
    secrets = [PASSWORD, basic(f"alice:{PASSWORD}")[6:], basic("alice:wrong")[6:], "alice:wrong"]
    assert [secret for secret in secrets if secret in every] == []


def test_each_request_of_a_connection_is_its_own_clients(lane: Lane, users: Path) -> None:
    """A balancer may send requests of many clients over one connection."""
    proxy = lane.proxy(REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS="deny")
    where = f"http://{lane.origin.authority}{SMALL_PATH}"
    with Client.connect(proxy.address) as client:
        for shown, want in [("right", 200), ("none", 407), ("right", 200), ("wrong", 407), ("right", 200)]:
            assert client.get(where, SHOWN[shown]).status == want
        # Pipelined, too.
        for shown in ("right", "none", "right"):
            client.ask("GET", where, SHOWN[shown])
        assert [client.read_reply().status for _ in range(3)] == [200, 407, 200]


@pytest.mark.parametrize("way", ["connect", "absolute"])
@pytest.mark.parametrize("end", ["half_close", "reset", "close"])
def test_a_client_that_leaves_while_its_login_is_verified(
    end: str, way: str, lane: Lane, tmp_path: Path
) -> None:
    """It harms nobody, and the next one is who it is."""
    path = tmp_path / "htpasswd"
    path.write_text(f"alice:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(11)).decode()}\n")
    proxy = lane.proxy(REGPROXY_HTPASSWD=str(path), REGPROXY_UNKNOWN_CLIENTS="deny")
    where = f"http://{lane.origin.authority}{SMALL_PATH}"
    for _ in range(3):
        with Client.connect(proxy.address) as client:
            if way == "connect":
                authority, login = lane.origin.authority, SHOWN["right"][0][1]
                head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
                client.send(f"{head}Proxy-Authorization: {login}\r\n\r\n".encode())
            else:
                client.ask("GET", where, SHOWN["right"])
            getattr(client, end)()
    with Client.connect(proxy.address) as client:
        assert [client.get(where, SHOWN[each]).status for each in ("wrong", "right")] == [407, 200]
    assert "Traceback" not in proxy.log()


def test_pages_are_for_everybody(lane: Lane, users: Path) -> None:
    proxy = lane.proxy(REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS="deny")
    with Client.connect(proxy.address) as client:
        assert client.get("/ca.crt").body == proxy.ca_pem
        assert client.get("/setup").status == 200
        assert client.get("/v2/lib/app/manifests/1?ns=other.example").status == 401


def test_without_a_file_no_login_means_anything(lane: Lane) -> None:
    """As with docker-registry-proxy, which asks for none."""
    proxy = lane.proxy()
    for shown, headers in SHOWN.items():
        assert by_connect(lane, proxy, headers).status == 200, shown
        assert by_mirror_itself(lane, proxy, headers).status == 200, shown


# --- two workers ------------------------------------------------------------------------------------------


def line(user: str, password: str) -> str:
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


def of_worker(proxy: Proxy, pid: int, stack: ExitStack) -> Client:
    """A client without CONNECT, so that each request shows a login, whose worker is this one."""
    with stopped(*(other for other in proxy.workers(2) if other != pid)):
        client = stack.enter_context(Client.connect(proxy.address))
        assert client.get("/ca.crt").status == 200
        return client


def test_what_changes_in_the_file_changes_in_both_workers(
    lane: Lane, tmp_path: Path, stack: ExitStack
) -> None:
    """Also what a worker has found right before, and remembers."""
    path, draft = tmp_path / "htpasswd", tmp_path / "draft"
    path.write_text(line("alice", "old") + line("bob", PASSWORD))
    env = {"REGPROXY_HTPASSWD": str(path), "REGPROXY_UNKNOWN_CLIENTS": "deny", "REGPROXY_WORKERS": "2"}
    proxy = stack.enter_context(lane.new_proxy(**env))
    where = f"http://{lane.origin.authority}{SMALL_PATH}"

    def status(client: Client, user: str, password: str) -> int:
        return client.get(where, [("Proxy-Authorization", basic(f"{user}:{password}"))]).status

    both = [of_worker(proxy, pid, stack) for pid in proxy.workers(2)]
    assert len({proxy.owner(client) for client in both}) == 2
    for client in both:
        assert [status(client, "alice", "old"), status(client, "bob", PASSWORD)] == [200, 200]
        assert status(client, "carol", PASSWORD) == 407
    draft.write_text(line("alice", "new") + line("carol", PASSWORD))
    draft.replace(path)
    for client in both:
        for gone in (("alice", "old"), ("bob", PASSWORD)):  # each is remembered for a second of its own
            wait_until(lambda: status(client, *gone) == 407, "the new file counts")  # noqa: B023
        assert [status(client, "alice", "new"), status(client, "carol", PASSWORD)] == [200, 200]
    path.write_text("nonsense\n")  # what can't be parsed leaves the former users
    assert [status(client, "alice", "new") for client in both] == [200, 200]
    path.unlink()
    for client in both:
        wait_until(lambda: status(client, "alice", "new") == 503, "there is no file")  # noqa: B023
    path.write_text(line("alice", "new"))
    for client in both:
        wait_until(lambda: status(client, "alice", "new") == 200, "there is one again")  # noqa: B023
        wait_until(lambda: status(client, "carol", PASSWORD) == 407, "she is not in it")  # noqa: B023


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(lane: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy for clients of 127.0.1.0/24 alone."""
    path = tmp_path_factory.mktemp("toml") / "regproxy.toml"
    path.write_text('[principal.office]\naddresses = ["127.0.1.0/24"]\n')
    yield lane.proxy(REGPROXY_CONFIG=str(path), REGPROXY_UNKNOWN_CLIENTS="deny")


def curl(proxy: Proxy, *words: str) -> tuple[str, str]:
    """Return the status and what curl said."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_connect} %{http_code}", "-q", *words]
    env = {"PATH": "/usr/bin:/bin", "CURL_CA_BUNDLE": str(proxy.ca_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    return done.stdout, done.stderr


ADDRESSES = [("127.0.1.9", True), ("127.0.2.9", False), ("127.0.0.1", False)]


@pytest.mark.parametrize("address, known_there", ADDRESSES)
def test_addresses(address: str, known_there: bool, known: Proxy, lane: Lane) -> None:
    here = f"http://{known.address[0]}:{known.port}"
    ways = ["--interface", address]
    got, _ = curl(known, *ways, "-x", here, f"https://{lane.origin.authority}{SMALL_PATH}")
    assert got == ("200 200" if known_there else "403 000")
    got, _ = curl(known, *ways, f"{here}{SMALL_PATH}?ns={lane.origin.authority.replace(':', '%3A')}")
    assert got == ("000 200" if known_there else "000 403")
    got, _ = curl(known, *ways, f"{here}/ca.crt")
    assert got == "000 200"


def test_transparent_clients_are_known_by_their_address(
    lane: Lane, tmp_path: Path, users: Path, stack: ExitStack
) -> None:
    path = tmp_path / "regproxy.toml"
    path.write_text('[principal.office]\naddresses = ["127.0.1.0/24"]\n')
    host, port = free_address()
    proxy = stack.enter_context(
        lane.new_proxy(
            REGPROXY_CONFIG=str(path),
            REGPROXY_HTPASSWD=str(users),
            REGPROXY_UNKNOWN_CLIENTS="deny",
            REGPROXY_TRANSPARENT_LISTEN=f"{host}:{port}",
            REGPROXY_RESOLVE=f"transparent.test={lane.origin.address[0]}",
            REGISTRIES="transparent.test",
        )
    )
    words = [
        "--resolve",
        f"transparent.test:{port}:{host}",
        f"https://transparent.test:{port}/v2/a/manifests/1",
    ]
    login = ["-H", f"Proxy-Authorization: {basic(f'alice:{PASSWORD}')}", "-u", f"alice:{PASSWORD}"]
    assert curl(proxy, *words, *login)[0] == "000 403"
    # Let in, it would be sent on to port 443 of the registry, where nobody is.
    assert curl(proxy, "--interface", "127.0.1.9", *words)[0] == "000 502"


# --- real clients -------------------------------------------------------------------------------------------

CURL = [
    ("right", f"alice:{PASSWORD}", "200 200"),
    ("wrong", "alice:wrong", "407 000"),
    ("unknown", f"bob:{PASSWORD}", "407 000"),
    ("none", "", "407 000"),
]


@pytest.mark.parametrize("login, want", [row[1:] for row in CURL], ids=[row[0] for row in CURL])
def test_curl(login: str, want: str, lane: Lane, users: Path) -> None:
    proxy = lane.proxy(REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS="deny")
    words = ["-x", proxy.url, *(["--proxy-user", login] if login else [])]
    assert curl(proxy, *words, f"https://{lane.origin.authority}{SMALL_PATH}")[0] == want
    if login:
        mirror = f"{proxy.url}{SMALL_PATH}?ns={lane.origin.authority.replace(':', '%3A')}"
        assert curl(proxy, "-u", login, mirror)[0] == f"000 {'200' if '200' in want else '401'}"


REFUSALS = [("", "407|Proxy Authentication Required"), ("alice:wrong@", "407|Proxy Authentication Required")]


def test_skopeo_and_podman_by_proxy(
    start_registry: StartRegistry,
    start_proxy: StartProxy,
    stack: ExitStack,
    users: Path,
    image: Image,
    tmp_path: Path,
) -> None:
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    proxy = start_proxy(registry, REGPROXY_HTPASSWD=str(users), REGPROXY_UNKNOWN_CLIENTS="deny")
    name = f"{registry.authority}/lib/app:v1"
    here = f"{proxy.address[0]}:{proxy.port}"
    right = f"http://alice:{quote(PASSWORD)}@{here}"
    assert Skopeo(tmp_path / "right", proxy=right, ca=proxy.ca_path).copy(name).digest == image.digest
    podman = stack.enter_context(Podman(proxy=right, ca=proxy.ca_path))
    assert f"sha256:{podman.pull(name)}" in image.blobs
    for number, (login, want) in enumerate(REFUSALS):
        skopeo = Skopeo(tmp_path / f"wrong-{number}", proxy=f"http://{login}{here}", ca=proxy.ca_path)
        with pytest.raises(AssertionError, match=want):
            skopeo.copy(name)


def test_skopeo_by_mirror(
    start_registry: StartRegistry, start_proxy: StartProxy, users: Path, image: Image, tmp_path: Path
) -> None:
    """It asks /v2/ first, and shows what it was given where that wants a login."""
    registry = start_registry()
    registry.push("lib/app", "v1", image)
    toml = tmp_path / "regproxy.toml"
    toml.write_text(f'[origin."reg.test"]\nport = {registry.authority.rpartition(":")[2]}\n')
    closed = {"REGPROXY_HTPASSWD": str(users), "REGPROXY_UNKNOWN_CLIENTS": "deny"}
    proxy = start_proxy(registry, registries=("reg.test",), REGPROXY_CONFIG=str(toml), **closed)
    name = f"{proxy.address[0]}:{proxy.port}/reg.test/lib/app:v1"
    env = client_env(tmp_path / "home", proxy="", ca=None)
    command = ["skopeo", "--insecure-policy", "inspect", "--tls-verify=false", "--raw"]
    inspect = [*command, "--creds", f"alice:{PASSWORD}", f"docker://{name}"]
    assert digest_of(run(inspect, env)) == image.digest
    for creds in ([], ["--creds", "alice:wrong"]):
        with pytest.raises(
            AssertionError, match=r"(?i)authentication required|unauthorized|invalid username"
        ):
            run([*command, *creds, f"docker://{name}"], env)
