"""Tunnels: CONNECT to hosts that are not intercepted. The test itself is both ends."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.byte_streams import End, Plain
from tests.support.client import Client
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import ended

DATA = random.Random(3).randbytes(8_000_000)
Started = Callable[..., Proxy]


class Peer:
    """The host that tunnels go to: `accept()` gives the other end."""

    def __init__(self) -> None:
        self.address = free_address()
        self.authority = f"peer.test:{self.address[1]}"
        self.listener = socket.create_server(self.address)
        self.listener.settimeout(20)

    def accept(self) -> Plain:
        return Plain(self.listener.accept()[0])


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.listener.close()


@pytest.fixture(scope="module")
def started(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Start a proxy that tunnels to the peer, one for each set of variables."""
    with ExitStack() as stack:
        known: dict[tuple[tuple[str, str], ...], Proxy] = {}

        def start(**env: str) -> Proxy:
            key = tuple(env.items())
            if key not in known:
                settings = {
                    "REGPROXY_DEBUG": "1",
                    "REGPROXY_CONNECT_PORTS": f"443 {peer.address[1]}",
                    "REGPROXY_RESOLVE": f"peer.test={peer.address[0]}",
                    **env,
                }
                known[key] = stack.enter_context(Proxy(tmp_path_factory.mktemp("proxy"), settings))
            return known[key]

        yield start


@pytest.fixture
def ends(started: Started, peer: Peer, stack: ExitStack) -> Callable[..., tuple[Client, Plain]]:
    """Open a tunnel: (client, the peer's end)."""

    def open_ends(extra: bytes = b"", recv_buffer: int | None = None, **env: str) -> tuple[Client, Plain]:
        client = stack.enter_context(Client.connect(started(**env).address, recv_buffer=recv_buffer))
        assert client.connect_to(peer.authority, extra=extra).status == 200
        other = peer.accept()
        stack.callback(other.close)
        return client, other

    return open_ends


Ends = Callable[..., tuple[Client, Plain]]


def end_of(stream: Plain) -> End | None:
    """Read to the end, and return how it came."""
    while stream.recv():
        pass
    return stream.end


def receive(stream: Plain, size: int) -> bytes:
    parts, got = [], 0
    while got < size and (data := stream.recv()):
        parts.append(data)
        got += len(data)
    return b"".join(parts)


class TestBytes:
    """What goes in comes out."""

    def test_the_peer_may_speak_first(self, ends: Ends) -> None:
        client, other = ends()
        other.send(b"220 ready\r\n")
        assert client.read(11) == b"220 ready\r\n"

    def test_what_came_with_the_connect(self, ends: Ends) -> None:
        client, other = ends(extra=b"early" * 5_000)
        assert receive(other, 25_000) == b"early" * 5_000
        client.send(b"late")
        assert other.recv() == b"late"

    def test_any_bytes(self, ends: Ends) -> None:
        """Nothing that looks like a message of ours is taken for one."""
        client, other = ends()
        for data in (
            b"CONNECT a:443 HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\0",
        ):
            client.send(data)
            assert receive(other, len(data)) == data
            other.send(data)
            assert client.read(len(data)) == data

    def test_much_both_ways_at_once(self, ends: Ends) -> None:
        client, other = ends()
        got: dict[str, bytes] = {}
        jobs = [
            threading.Thread(target=client.send, args=(DATA,)),
            threading.Thread(target=other.send, args=(DATA[::-1],)),
            threading.Thread(target=lambda: got.update(up=receive(other, len(DATA)))),
        ]
        for job in jobs:
            job.start()
        assert client.read(len(DATA)) == DATA[::-1]
        for job in jobs:
            job.join(20)
        assert got["up"] == DATA

    @pytest.mark.parametrize("direction", ["up", "down"])
    def test_a_slow_reader_holds_the_sender_back(self, direction: str, ends: Ends) -> None:
        """Without back-pressure all of it would sit in the proxy's memory."""
        client, other = ends(recv_buffer=65_536)
        sender, reader = (client.stream, other) if direction == "up" else (other, client.stream)
        assert isinstance(sender, Plain)
        assert isinstance(reader, Plain)
        sender.sock.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 10 * len(DATA):
                sent += sender.sock.send(DATA)
        assert sent < 10 * len(DATA)
        sender.fin()
        assert len(receive(reader, sent)) == sent


class TestEnds:
    """How a tunnel ends: both sides see what the other did."""

    @pytest.mark.parametrize("first", ["client", "peer"])
    def test_half_close_is_passed_on(self, first: str, ends: Ends) -> None:
        client, other = ends()
        near, far = (client.layers[0], other) if first == "client" else (other, client.layers[0])
        assert isinstance(near, Plain)
        assert isinstance(far, Plain)
        near.send(b"last words")
        near.fin()
        assert receive(far, 10) == b"last words"
        assert (far.recv(), far.end) == (b"", End.FIN)
        for _ in range(3):  # the other direction goes on
            far.send(DATA[:1_000_000])
            assert receive(near, 1_000_000) == DATA[:1_000_000]
        far.fin()
        assert (near.recv(), near.end) == (b"", End.FIN)

    @pytest.mark.parametrize("first", ["client", "peer"])
    def test_all_that_was_sent_before_an_end_arrives(self, first: str, ends: Ends) -> None:
        client, other = ends()
        near, far = (client.layers[0], other) if first == "client" else (other, client.layers[0])
        assert isinstance(near, Plain)
        assert isinstance(far, Plain)

        def send_all(near: Plain = near) -> None:
            near.send(DATA)
            near.fin()

        sender = threading.Thread(target=send_all)
        sender.start()
        assert receive(far, len(DATA)) == DATA
        far.fin()
        assert (end_of(far), end_of(near)) == (End.FIN, End.FIN)
        sender.join(20)

    @pytest.mark.parametrize("first", ["client", "peer"])
    def test_a_reset_ends_the_other_side_too(self, first: str, ends: Ends) -> None:
        client, other = ends()
        near, far = (client.layers[0], other) if first == "client" else (other, client.layers[0])
        assert isinstance(far, Plain)
        far.send(b"x" * 1000)
        near.reset()
        assert end_of(far) is End.RST

    def test_idle(self, ends: Ends) -> None:
        client, other = ends(PROXY_CONNECT_READ_TIMEOUT="500ms")
        client.send(b"x")
        assert other.recv() == b"x"
        client.read_end()
        end_of(other)

    @pytest.mark.parametrize("busy", ["client", "peer"])
    def test_one_busy_direction_keeps_it(self, busy: str, ends: Ends) -> None:
        client, other = ends(PROXY_CONNECT_READ_TIMEOUT="500ms")
        near, far = (client.layers[0], other) if busy == "client" else (other, client.layers[0])
        for _ in range(20):  # four times as long in all as a silence may be
            near.send(b"x")
            assert far.recv() == b"x"
            time.sleep(0.1)

    @pytest.mark.parametrize("first", ["client", "peer"])
    def test_idle_after_a_half_close(self, first: str, ends: Ends) -> None:
        client, other = ends(PROXY_CONNECT_READ_TIMEOUT="500ms")
        near, far = (client.layers[0], other) if first == "client" else (other, client.layers[0])
        near.fin()
        assert isinstance(near, Plain)
        assert isinstance(far, Plain)
        end_of(far)
        end_of(near)

    @pytest.mark.parametrize("stuck", ["client", "peer"])
    def test_a_side_that_stops_reading(self, stuck: str, ends: Ends) -> None:
        client, other = ends(PROXY_CONNECT_SEND_TIMEOUT="500ms", recv_buffer=65_536)
        near = other if stuck == "client" else client.layers[0]
        with pytest.raises(ConnectionError):
            while True:
                near.send(DATA)


class TestRefusals:
    """Hosts that can't be reached, and what the client is told."""

    def test_nobody_listens(self, started: Started, stack: ExitStack) -> None:
        host, port = free_address()
        proxy = started(REGPROXY_RESOLVE=f"gone.test={host}", REGPROXY_CONNECT_PORTS=str(port))
        client = stack.enter_context(Client.connect(proxy.address))
        reply = client.connect_to(f"gone.test:{port}")
        assert (reply.status, reply.get("Connection")) == (502, "close")
        assert f"gone.test:{port}" in reply.body.decode()
        assert "refused" in reply.body.decode()
        assert ended(client) is End.FIN

    def test_nobody_answers(self, started: Started, stack: ExitStack) -> None:
        """A listener whose queue is full drops what comes, as a firewall does."""
        address = free_address()
        full = stack.enter_context(socket.create_server(address, backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(address)
        assert full.fileno() >= 0
        proxy = started(
            REGPROXY_RESOLVE=f"full.test={address[0]}",
            REGPROXY_CONNECT_PORTS=str(address[1]),
            PROXY_CONNECT_CONNECT_TIMEOUT="500ms",
        )
        client = stack.enter_context(Client.connect(proxy.address))
        reply = client.connect_to(f"full.test:{address[1]}")
        assert reply.status == 504
        assert "full.test" in reply.body.decode()

    def test_the_first_address_of_two_does_not_answer(
        self, started: Started, peer: Peer, stack: ExitStack
    ) -> None:
        """Happy eyeballs (RFC 8305): the next address is tried."""
        gone, _ = free_address()
        resolve = f"peer.test={gone} peer.test={peer.address[0]}"
        client = stack.enter_context(Client.connect(started(REGPROXY_RESOLVE=resolve).address))
        assert client.connect_to(peer.authority).status == 200
        with contextlib.closing(peer.accept()) as other:
            other.send(b"here")
            assert client.read(4) == b"here"

    @pytest.mark.parametrize("allowed", ["", "peer.test", "other.test", "peer.test:1"])
    def test_a_loopback_address_by_name(
        self, allowed: str, started: Started, peer: Peer, stack: ExitStack
    ) -> None:
        """Whoever owns a name may point it at the proxy's own host: only hosts that are named get there."""
        host = "localhost"  # the one name that resolves to a loopback address everywhere
        rules = allowed.replace("peer.test", host)
        port = peer.address[1]
        proxy = started(REGPROXY_ALLOW_TARGETS=rules, REGPROXY_CONNECT_PORTS=str(port), REGPROXY_RESOLVE="")
        client = stack.enter_context(Client.connect(proxy.address))
        reply = client.connect_to(f"{host}:{port}")
        assert reply.status == (502 if allowed == "peer.test" else 403)  # nobody listens on 127.0.0.1 itself
        if reply.status == 403:
            assert "REGPROXY_ALLOW_TARGETS" in reply.body.decode()


class TestAccounts:
    """What the log and the metrics say of a tunnel."""

    def test_log_and_metrics(self, ends: Ends, started: Started, peer: Peer) -> None:
        proxy = started(REGPROXY_LOG_LEVEL="info")
        client, other = ends(REGPROXY_LOG_LEVEL="info")
        client.send(b"u" * 3_000)
        assert len(receive(other, 3_000)) == 3_000
        other.send(b"d" * 5_000)
        assert len(client.read(5_000)) == 5_000
        wait_until(lambda: proxy.metric("regproxy_tunnels_open") == 1, "a tunnel is open")
        other.fin()
        client.fin()
        client.read_end()
        (line,) = proxy.access_log(1)
        assert (line["method"], line["request_type"], line["status"]) == ("CONNECT", "tunnel", "200")
        assert (line["host"], line["bytes_sent"], line["upstream"]) == ("peer.test", "5000", peer.address[0])
        assert (line["uri"], line["upstream_cache_status"]) == ("", "")
        wait_until(lambda: proxy.metric("regproxy_tunnels_open") == 0, "it is closed")
        assert proxy.metric("regproxy_tunnel_bytes_total", direction="up") == 3_000
        assert proxy.metric("regproxy_tunnel_bytes_total", direction="down") == 5_000

    def test_nothing_is_left(self, started: Started, ends: Ends) -> None:
        proxy = started()
        wait_until(lambda: b'"streams": 1,' in proxy.admin("/debug/live")[1], "the admin's stream alone")
        for _ in range(20):
            client, other = ends()
            client.send(b"x")
            other.reset()
        wait_until(lambda: b'"streams": 1,' in proxy.admin("/debug/live")[1], "the admin's stream alone")
