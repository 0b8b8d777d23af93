"""Whatever a client does, in whatever state: nothing stays open, and the next one is served."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.support.byte_streams import Plain, Tls
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import BIG, SMALL, SMALL_PATH, UPLOADS, Lane
from tests.support.trust import trusting


@pytest.fixture(scope="module")
def peer() -> Iterator[socket.socket]:
    """A listener for tunnels to go to."""
    with socket.create_server(free_address()) as listener:
        listener.settimeout(20)
        yield listener


@pytest.fixture(scope="module")
def dead() -> Iterator[tuple[str, int]]:
    """An address that never answers: the queue of its listener is full."""
    with ExitStack() as stack:
        address = free_address()
        stack.enter_context(socket.create_server(address, backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(address)
        yield address


@pytest.fixture(scope="module")
def proxy(lane: Lane, peer: socket.socket, dead: tuple[str, int]) -> Proxy:
    host, port = peer.getsockname()
    names = f"peer.test={host} dead.test={dead[0]} {lane.origin.name}={lane.origin.address[0]}"
    return lane.filled(
        ALLOW_PUSH="true",
        REGPROXY_CONNECT_PORTS=f"443 {port} {dead[1]}",
        REGPROXY_RESOLVE=names,
        PROXY_CONNECT_CONNECT_TIMEOUT="1s",
    )


@dataclass(frozen=True)
class Place:
    """Where a state is reached."""

    lane: Lane
    proxy: Proxy
    peer: socket.socket
    dead: tuple[str, int]
    hold: threading.Event
    stack: ExitStack

    def dial(self) -> Client:
        return self.stack.enter_context(Client.connect(self.proxy.address, recv_buffer=65_536))

    def connected(self) -> Client:
        client = self.dial()
        assert client.connect_to(self.lane.origin.authority).status == 200
        return client

    def talking(self) -> Client:
        client = self.connected()
        client.start_tls(self.lane.origin.name, self.proxy.ca_pem)
        return client

    def asked(self, path: str, *, begun: bool = True) -> Client:
        """Ask for a path; with `begun` the answer's head and some of its body have come."""
        client = self.talking()
        before = self.lane.origin.hits[path]
        client.ask("GET", path)
        if begun:
            assert client.read_head().status == 200
            assert len(client.read(1000)) == 1000
        else:
            self.lane.origin.wait_for(lambda origin: origin.hits[path] > before)
        return client

    def tunnel(self) -> Client:
        client = self.dial()
        assert client.connect_to(f"peer.test:{self.peer.getsockname()[1]}").status == 200
        self.other().send(b"x" * 10)
        return client

    def other(self) -> Plain:
        end = Plain(self.peer.accept()[0])
        self.stack.callback(end.close)
        return end


def accepted(at: Place) -> Client:
    return at.dial()


def connect_head(at: Place) -> Client:
    client = at.dial()
    client.send(b"CONNECT reg.test:443 HTTP/1.1\r\nHost: re")
    return client


def connected(at: Place) -> Client:
    return at.connected()


def hello(at: Place) -> Client:
    client = at.connected()
    data = Tls(client.stream, trusting(None), server_name=at.lane.origin.name).hello()
    client.send(data[: len(data) // 2])
    return client


def answered_hello(at: Place) -> Client:
    """The server's flight is out, ours is not."""
    client = at.connected()
    client.send(Tls(client.stream, trusting(None), server_name=at.lane.origin.name).hello())
    client.read(5)
    return client


def handshaken(at: Place) -> Client:
    return at.talking()


def request_head(at: Place) -> Client:
    client = at.talking()
    client.send(b"GET / HTTP/1.1\r\nHost: re")
    return client


def kept_alive(at: Place) -> Client:
    client = at.talking()
    assert client.get(SMALL_PATH).body == SMALL
    return client


def fill_head(at: Place) -> Client:
    return at.asked(at.lane.publish(300_000, hold_at=-1, hold=at.hold)[0], begun=False)


def small_fill(at: Place) -> Client:
    return at.asked(at.lane.publish(3_000, hold_at=1_000, hold=at.hold)[0], begun=False)


def head_only(at: Place) -> Client:
    path, _ = at.lane.publish(3_000, hold_at=-1, hold=at.hold)
    client = at.talking()
    client.ask("HEAD", path)
    at.lane.origin.wait_for(lambda origin: origin.hits[path] == 1)
    return client


def pass_head(at: Place) -> Client:
    at.lane.origin.on("/held", Answer(BIG, hold_at=-1, hold=at.hold))
    return at.asked("/held", begun=False)


def hit(at: Place) -> Client:
    path, body = at.lane.publish(20_000_000)
    assert at.talking().get(path).body == body
    at.proxy.wait_kept(digest_of(body))
    return at.asked(path)


def fill(at: Place) -> Client:
    return at.asked(at.lane.publish(300_000, hold_at=200_000, hold=at.hold)[0])


def chunked_fill(at: Place) -> Client:
    return at.asked(at.lane.publish(300_000, hold_at=200_000, hold=at.hold, framing="chunked")[0])


def fill_with_two(at: Place) -> Client:
    path, _ = at.lane.publish(300_000, hold_at=200_000, hold=at.hold)
    at.asked(path)
    return at.asked(path)


def large_fill(at: Place) -> Client:
    """More than fits into all buffers: the fill goes on without its reader."""
    return at.asked(at.lane.publish(20_000_000)[0])


def passed(at: Place) -> Client:
    at.lane.origin.on("/passed", Answer(BIG, hold_at=200_000, hold=at.hold))
    return at.asked("/passed")


def passed_chunked(at: Place) -> Client:
    at.lane.origin.on("/passed-chunked", Answer(BIG, hold_at=200_000, hold=at.hold, framing="chunked"))
    return at.asked("/passed-chunked")


def large_pass(at: Place) -> Client:
    """The origin is held back."""
    at.lane.origin.on("/large", Answer(BIG * 8))
    return at.asked("/large")


def push(at: Place) -> Client:
    client = at.talking()
    client.send(client.head("PUT", UPLOADS + "leak", [("Content-Length", "100000")]) + b"x" * 1_000)
    return client


def chunked_push(at: Place) -> Client:
    client = at.talking()
    client.send(client.head("PUT", UPLOADS + "leak", [("Transfer-Encoding", "chunked")]) + b"10\r\nabc")
    return client


def expecting_push(at: Place) -> Client:
    client = at.talking()
    headers = [("Expect", "100-continue"), ("Content-Length", "100000")]
    client.send(client.head("PUT", UPLOADS + "leak", headers))
    assert client.read_head().status == 100
    return client


def refused_push(at: Place) -> Client:
    """Refused, and the proxy reads on so that the client gets to see it."""
    client = at.talking()
    client.send(client.head("PUT", "/v1/x", [("Content-Length", "100000")]) + b"x" * 1_000)
    assert client.read_head().status == 405
    return client


def malformed(at: Place) -> Client:
    client = at.talking()
    client.send(b"nonsense\r\n\r\n")
    assert client.read_head().status == 400
    return client


def tunnelled(at: Place) -> Client:
    client = at.tunnel()
    assert len(client.read(10)) == 10
    return client


def tunnelling_much(at: Place) -> Client:
    """The client takes nothing, so the other end is held back."""
    client = at.dial()
    assert client.connect_to(f"peer.test:{at.peer.getsockname()[1]}").status == 200
    end = at.other()
    end.sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            end.sock.send(BIG)
    return client


def dialling(at: Place) -> Client:
    client = at.dial()
    client.send(f"CONNECT dead.test:{at.dead[1]} HTTP/1.1\r\n\r\n".encode())
    return client


STATES = [
    accepted,
    connect_head,
    connected,
    hello,
    answered_hello,
    handshaken,
    request_head,
    kept_alive,
    fill_head,
    small_fill,
    head_only,
    pass_head,
    hit,
    fill,
    chunked_fill,
    fill_with_two,
    large_fill,
    passed,
    passed_chunked,
    large_pass,
    push,
    chunked_push,
    expecting_push,
    refused_push,
    malformed,
    tunnelled,
    tunnelling_much,
    dialling,
]


def reset(client: Client) -> None:
    client.reset()


def vanish(client: Client) -> None:
    """Close without a close_notify, as a killed client does: a FIN, and a reset for what still comes."""
    client.layers[0].close()


def fin(client: Client) -> None:
    """A bare FIN; the client goes on reading until the proxy ends it too."""
    client.fin()


def counts(proxy: Proxy) -> dict[str, int]:
    """What is open, without the files of the store: it keeps what was used last."""
    live = json.loads(proxy.admin("/debug/live")[1])
    return {"ssl": live["ssl"], "streams": live["streams"], "fds": live["fds"] - live["files"]}


def no_more(now: dict[str, int], base: dict[str, int]) -> bool:
    """Return whether no count has grown. Fewer is fine: a thread may have had a file open when `base` was
    counted.
    """
    return all(now[name] <= base[name] for name in base)


def assert_nothing_left(lane: Lane, proxy: Proxy, base: dict[str, int]) -> None:
    lane.origin.wait_idle()
    lane.origin.cut_all()  # idle connections to it are kept on purpose
    try:
        wait_until(lambda: no_more(counts(proxy), base), "nothing is left open", timeout=10)
    except TimeoutError:
        assert counts(proxy) == base
    wait_until(lambda: proxy.parts() == [], "no part is left")
    files = json.loads(proxy.admin("/debug/live")[1])["files"]
    assert files <= len(proxy.blobs())


@pytest.fixture
def base(lane: Lane, proxy: Proxy) -> dict[str, int]:
    """What is open when nobody is there but who asks."""
    lane.origin.cut_all()
    wait_until(lambda: counts(proxy)["streams"] == 1, "only the admin's connection is open")
    return counts(proxy)


@pytest.mark.parametrize("leave", [reset, vanish, fin], ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_client_that_leaves(
    state: Callable[[Place], Client],
    leave: Callable[[Client], None],
    lane: Lane,
    proxy: Proxy,
    peer: socket.socket,
    dead: tuple[str, int],
    base: dict[str, int],
) -> None:
    hold = threading.Event()
    with ExitStack() as stack:
        try:
            client = state(Place(lane, proxy, peer, dead, hold, stack))
            wait_until(lambda: counts(proxy)["streams"] > base["streams"], "the client is counted")
            leave(client)
        finally:
            hold.set()
        if leave is fin:
            if state in (tunnelled, tunnelling_much):
                stack.close()  # the other end ends it
            else:
                client.read_end()
    assert_nothing_left(lane, proxy, base)
    with proxy.client(lane.origin.authority) as other:
        assert other.get(SMALL_PATH).body == SMALL


def test_all_of_them_at_once(
    lane: Lane, proxy: Proxy, peer: socket.socket, dead: tuple[str, int], base: dict[str, int]
) -> None:
    hold = threading.Event()
    with ExitStack() as stack:
        place = Place(lane, proxy, peer, dead, hold, stack)
        try:
            clients = [state(place) for state in STATES for _ in range(3)]
            for number, client in enumerate(clients):
                (reset, vanish)[number % 2](client)
        finally:
            hold.set()
    assert_nothing_left(lane, proxy, base)


def test_out_of_descriptors(lane: Lane, stack: ExitStack) -> None:
    """Whoever is connected is served or told; when there are descriptors again, so is everybody else."""
    proxy = lane.filled(KEEPALIVE_TIMEOUT="100s")
    with proxy.client(lane.origin.authority) as early:
        here = json.loads(proxy.admin("/debug/live")[1])["fds"]
        resource.prlimit(proxy.workers(1)[0], resource.RLIMIT_NOFILE, (here + 10, here + 1000))
        crowd = [stack.enter_context(Client.connect(proxy.address)) for _ in range(50)]
        wait_until(lambda: "out of file descriptors" in proxy.log(), "the limit is met")
        assert early.get(SMALL_PATH).body == SMALL
        lane.origin.cut_all()
        path, body = lane.publish(300_000)
        reply = early.get(path)
        assert reply.status in (200, 502, 503)
        print(reply, proxy.log()[-2000:])  # pytest shows it if what follows fails
        for client in crowd:
            client.reset()
        resource.prlimit(proxy.workers(1)[0], resource.RLIMIT_NOFILE, (here + 1000, here + 1000))
        assert early.get(path).body == body
    with proxy.client(lane.origin.authority) as late:
        assert late.get(path).body == body
    wait_until(lambda: counts(proxy)["streams"] <= 2, "the crowd is gone")


def test_fills_go_on_without_their_clients(lane: Lane, proxy: Proxy, stack: ExitStack) -> None:
    path, body = lane.publish(300_000, hold_at=200_000, hold=(hold := threading.Event()))
    with proxy.client(lane.origin.authority) as client:
        client.ask("GET", path)
        assert client.read_head().status == 200
        client.reset()
    hold.set()
    proxy.wait_kept(digest_of(body))
    with proxy.client(lane.origin.authority) as client:
        assert client.get(path).body == body
    assert lane.origin.hits[path] == 1
