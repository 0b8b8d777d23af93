"""Names that nobody answers for: who waits for them, who does not, and what is remembered."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import fake_dns as parts
from tests.support.byte_streams import Plain
from tests.support.client import Client, Reply
from tests.support.fake_dns import AWAY, HANGS, SimulatedNames
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin, blob_answer, redirect
from tests.support.processes import wait_until
from tests.support.proxy import Proxy

pytestmark = pytest.mark.skipif(parts.MISSING is not None, reason=str(parts.MISSING))

StartOrigin = Callable[..., Origin]
StartProxy = Callable[..., Proxy]
Talk = Callable[..., Client]

BODY = b"content " * 100
DIGEST = digest_of(BODY)
PATH = f"/v2/app/blobs/{DIGEST}"
EACH, SITE = 8, 4  # lookups of one client at a time, and of names of one domain


@pytest.fixture
def names(tmp_path: Path) -> Iterator[SimulatedNames]:
    """Names; those that still hang at the end are let go."""
    found = SimulatedNames(tmp_path / "names")
    yield found
    found.release()


@pytest.fixture
def origin(start_origin: StartOrigin, names: SimulatedNames) -> Origin:
    """The registry reg.test."""
    origin = start_origin("reg.test")
    origin.on(PATH, blob_answer(DIGEST, BODY))
    names.tell("reg.test", origin.address[0])
    return origin


@pytest.fixture
def start(start_proxy: StartProxy, names: SimulatedNames) -> StartProxy:
    """Start a proxy that asks those for names: `start(origins..., VAR="value")`."""

    def run(*before: Origin, **env: str) -> Proxy:
        settings = {"REGPROXY_RESOLVE": "", "REGPROXY_ALLOW_TARGETS": " ".join(o.authority for o in before)}
        return start_proxy(*before, **(settings | names.env | env))

    return run


@pytest.fixture
def tunnel(stack: ExitStack) -> Callable[..., Client]:
    """Ask for a tunnel, and do not wait for it: `tunnel(proxy, "name:443", source="127.0.0.2")`."""

    def ask(proxy: Proxy, target: str, source: str = "127.0.0.1") -> Client:
        sock = socket.create_connection(proxy.address, timeout=20, source_address=(source, 0))
        client = Client(Plain(sock))
        stack.callback(client.close)
        client.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return client

    return ask


def answer(client: Client, method: str = "CONNECT") -> Reply:
    return client.read_reply(method)


def message(reply: Reply) -> str:
    text: str = json.loads(reply.body)["errors"][0]["message"]
    return text


def hang(proxy: Proxy, names: SimulatedNames, tunnel: Callable[..., Client], *hosts: str) -> list[Client]:
    """Tunnels to names that hang, each of them being looked up."""
    names.tell_all(dict.fromkeys(hosts, HANGS))
    clients = [tunnel(proxy, f"{host}:443") for host in hosts]
    wait_until(lambda: set(names.asked()) >= set(hosts), "all are being looked up")
    return clients


def lookups(proxy: Proxy, **labels: str) -> float:
    return proxy.metric("regproxy_lookups_total", **labels)


@pytest.mark.parametrize("more", [0, 56])
@pytest.mark.parametrize("hanging", [0, 3, EACH])
def test_names_of_tunnels_that_hang_hold_up_nobody(
    start: StartProxy,
    origin: Origin,
    names: SimulatedNames,
    tunnel: Callable[..., Client],
    talk: Talk,
    hanging: int,
    more: int,
) -> None:
    proxy = start(origin)
    names.tell("other.example", None)
    clients = hang(proxy, names, tunnel, *(f"slow-{n}.example" for n in range(hanging)))
    if hanging == EACH:
        # Each waits for its turn first, which would come soon if names were answered.
        late = [tunnel(proxy, f"more-{n}.example:443") for n in range(more)]
        for reply in map(answer, late):
            assert reply.status == 503
            assert b"8 other names that 127.0.0.1 has asked for are not resolved yet" in reply.body
        assert lookups(proxy, lane="tunnel", outcome="refused") == more
    # A registry's name, and those of another client.
    assert talk(proxy, origin).get(PATH).status == 200
    assert answer(tunnel(proxy, "other.example:443", "127.0.0.2")).status == 502
    names.release()
    assert {answer(client).status for client in clients} <= {502}
    # All is as before.
    assert answer(tunnel(proxy, "other.example:443")).status == 502


def test_names_of_one_domain_leave_room_for_others(
    start: StartProxy, origin: Origin, names: SimulatedNames, tunnel: Callable[..., Client]
) -> None:
    proxy = start(origin)
    names.tell("other.example", None)
    hang(proxy, names, tunnel, *(f"slow-{n}.corp.example" for n in range(SITE)))
    reply = answer(tunnel(proxy, "more.corp.example:443"))
    assert reply.status == 503
    assert b"4 other names of its domain" in reply.body
    assert answer(tunnel(proxy, "other.example:443")).status == 502


def test_a_name_that_hangs_is_looked_up_once(
    start: StartProxy, origin: Origin, names: SimulatedNames, tunnel: Callable[..., Client]
) -> None:
    proxy = start(origin, PROXY_CONNECT_CONNECT_TIMEOUT="200ms")
    names.tell("slow.example", HANGS)
    for _ in range(EACH + 2):
        reply = answer(tunnel(proxy, "slow.example:443"))
        assert reply.status == 504
        assert b"no connection within 0.2 s" in reply.body
    assert names.asked().count("slow.example") == 1
    names.tell("slow.example", None)
    wait_until(lambda: lookups(proxy, lane="tunnel", outcome="missing") == 1, "the lookup ends")


def test_no_answer_is_remembered_too(
    start: StartProxy, origin: Origin, names: SimulatedNames, tunnel: Callable[..., Client]
) -> None:
    proxy = start(origin)
    names.tell_all({"dead.example": AWAY, "gone.example": None})
    for name in ("dead.example", "gone.example"):
        replies = [answer(tunnel(proxy, f"{name}:443")) for _ in range(5)]
        assert {reply.status for reply in replies} == {502}
        # Once, unless the machine is so slow that a second has passed; test_resolving has the clock for it.
        assert names.asked().count(name) < len(replies)


def test_names_that_a_mask_lets_clients_make_up(
    start: StartProxy, origin: Origin, names: SimulatedNames, stack: ExitStack, talk: Talk
) -> None:
    proxy = start(origin, REGISTRIES=f"{origin.authority} wild.*")
    hosts = [f"wild.{n}.example" for n in range(EACH)]
    names.tell_all(dict.fromkeys(hosts, HANGS))
    clients = [stack.enter_context(proxy.client(f"{host}:443")) for host in hosts]
    for n, client in enumerate(clients):
        client.ask("GET", f"/v2/app/blobs/{digest_of(b'%d' % n)}")
    wait_until(lambda: set(names.asked()) >= set(hosts), "all are being looked up")
    late = stack.enter_context(proxy.client("wild.more.example:443")).get("/v2/app/manifests/1")
    assert late.status == 503
    assert "8 other names that 127.0.0.1 has asked for are not resolved yet" in message(late)
    assert talk(proxy, origin).get(PATH).status == 200
    names.release()
    assert {answer(client, "GET").status for client in clients} == {502}


def test_names_in_the_answers_of_one_registry(
    start: StartProxy, start_origin: StartOrigin, origin: Origin, names: SimulatedNames, talk: Talk
) -> None:
    """A registry that redirects to where nobody is does that to its own pulls alone."""
    bad, cdn = start_origin("bad.test"), start_origin("cdn.test")
    names.tell_all({"bad.test": bad.address[0], "cdn.test": cdn.address[0]})
    other = digest_of(b"elsewhere")
    cdn.on("/elsewhere", Answer(b"elsewhere"))
    origin.on(f"/v2/app/blobs/{other}", redirect(f"{cdn.url}/elsewhere"))
    hosts = [f"cdn-{n}.example" for n in range(EACH)]
    names.tell_all(dict.fromkeys(hosts, HANGS))
    paths = [f"/v2/app/blobs/{digest_of(host.encode())}" for host in (*hosts, "cdn.example")]
    for path, host in zip(paths, (*hosts, "cdn.example"), strict=True):
        bad.on(path, redirect(f"https://{host}/x"))
    # By a mask, so that the CDN's name is not one that the settings have.
    allowed = f"{bad.authority} {origin.authority} .test"
    registries = f"{bad.authority} {origin.authority}"
    proxy = start(bad, origin, REGISTRIES=registries, REGPROXY_ALLOW_TARGETS=allowed)
    clients = [talk(proxy, bad) for _ in hosts]
    for path, client in zip(paths, clients, strict=False):
        client.ask("GET", path)
    wait_until(lambda: set(names.asked()) >= set(hosts), "all are being looked up")
    late = talk(proxy, bad).get(paths[-1])
    assert late.status == 503
    assert "8 other names that bad.test has asked for are not resolved yet" in message(late)
    assert talk(proxy, origin).get(f"/v2/app/blobs/{other}").status == 200
    assert lookups(proxy, lane="answer", outcome="found") == 1
    names.release()
    assert {answer(client, "GET").status for client in clients} == {502}


def test_lookups_that_hang_do_not_hold_up_the_end(
    start: StartProxy, origin: Origin, names: SimulatedNames, tunnel: Callable[..., Client]
) -> None:
    proxy = start(origin)
    for client in hang(proxy, names, tunnel, *(f"slow-{n}.example" for n in range(3))):
        client.reset()
    assert proxy.stop() == 0


def test_a_name_that_comes_up(start: StartProxy, origin: Origin, names: SimulatedNames, talk: Talk) -> None:
    names.tell("reg.test", AWAY)
    proxy = start(origin)
    client = talk(proxy, origin)
    assert client.get(PATH).status in (502, 503)
    names.tell("reg.test", origin.address[0])
    wait_until(lambda: talk(proxy, origin).get(PATH).status == 200, "it is found")
