"""Tunnels: CONNECT to hosts that are not intercepted. The test itself is both ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.byte_streams import End, Plain
from tests.support.client import Client
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import ended

DATA = random.Random(3).randbytes(8_000_000)
PIPE = 524_288  # what waits in the proxy for one direction, at most
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


def digest(stream: Plain) -> tuple[str, int]:
    """Read to the end: SHA-256 and size."""
    sha256, size = hashlib.sha256(), 0
    while data := stream.recv():
        sha256.update(data)
        size += len(data)
    return sha256.hexdigest(), size


def fill(sender: Plain) -> int:
    """Send until nothing is taken any more; how much was."""
    sender.sock.settimeout(0.3)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 10 * len(DATA):
            sent += sender.sock.send(DATA[sent % len(DATA) :])
    sender.sock.settimeout(20)
    return sent


def sent_by_fill(size: int) -> bytes:
    return (DATA * (size // len(DATA) + 1))[:size]


def live(proxy: Proxy) -> dict[str, int]:
    found: dict[str, int] = json.loads(proxy.admin("/debug/live")[1])
    return found


def resident(pid: int) -> int:
    """Return the memory of a process, in bytes."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


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

    def test_100_mb_both_ways_at_once(self, ends: Ends) -> None:
        client, other = ends()
        near, want = client.layers[0], hashlib.sha256()
        assert isinstance(near, Plain)
        times = 100_000_000 // len(DATA) + 1
        for _ in range(times):
            want.update(DATA)

        def send_all(end: Plain) -> None:
            for _ in range(times):
                end.send(DATA)
            end.fin()

        got: dict[str, tuple[str, int]] = {}
        jobs = [threading.Thread(target=send_all, args=(end,)) for end in (near, other)]
        jobs.append(threading.Thread(target=lambda: got.update(up=digest(other))))
        for job in jobs:
            job.start()
        got["down"] = digest(near)
        for job in jobs:
            job.join(60)
        assert got["up"] == got["down"] == (want.hexdigest(), times * len(DATA))
        assert near.end is other.end is End.FIN

    @pytest.mark.parametrize("size", [1, 1_400, 5_000])
    def test_many_small_pieces(self, size: int, ends: Ends) -> None:
        """Each takes a page of the pipe, however small it is."""
        client, other = ends()
        data = DATA[: 300 * size]

        def send_all() -> None:
            for at in range(0, len(data), size):
                client.send(data[at : at + size])

        sender = threading.Thread(target=send_all)
        sender.start()
        assert receive(other, len(data)) == data
        sender.join(20)

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

    @pytest.mark.parametrize("sending", ["client", "peer"])
    @pytest.mark.parametrize("leaving", ["sender", "reader"])
    def test_a_reset_while_much_waits(self, sending: str, leaving: str, ends: Ends) -> None:
        client, other = ends(recv_buffer=65_536)
        near, far = (client.layers[0], other) if sending == "client" else (other, client.layers[0])
        assert isinstance(near, Plain)
        assert isinstance(far, Plain)
        fill(near)
        if leaving == "sender":
            near.reset()
            assert end_of(far) is End.RST
        else:
            far.reset()
            assert end_of(near) is End.RST

    @pytest.mark.parametrize("sending", ["client", "peer"])
    def test_an_end_behind_much_that_waits(self, sending: str, ends: Ends) -> None:
        """The pipe is full when it comes. The other direction goes on meanwhile, and afterwards."""
        client, other = ends(recv_buffer=65_536)
        near, far = (client.layers[0], other) if sending == "client" else (other, client.layers[0])
        assert isinstance(near, Plain)
        assert isinstance(far, Plain)
        sent = fill(near)
        near.fin()
        far.send(b"meanwhile")
        assert receive(near, 9) == b"meanwhile"
        assert receive(far, sent) == sent_by_fill(sent)
        assert (far.recv(), far.end) == (b"", End.FIN)
        far.send(b"afterwards")
        far.fin()
        assert receive(near, 11) == b"afterwards"
        assert near.end is End.FIN

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


class TestResources:
    """What tunnels cost, and what is left of them."""

    def test_clients_that_take_nothing(self, ends: Ends, started: Started) -> None:
        """What waits for them is in the kernel: a pipe each, and what the sockets hold."""
        proxy, count = started(), 40
        pid = proxy.workers(1)[0]
        opened = [ends(recv_buffer=65_536) for _ in range(count)]
        before = resident(pid)
        with ThreadPoolExecutor(count) as pool:
            sent = list(pool.map(fill, [other for _, other in opened]))
        assert 0 < min(sent) <= max(sent) < 10 * len(DATA)
        assert live(proxy)["pipes"] == count
        assert resident(pid) - before < count * PIPE / 4
        for client, other in opened:
            client.reset()
            other.close()
        wait_until(lambda: live(proxy)["pipes"] == 0, "no pipe is left")

    def test_200_tunnels(self, ends: Ends, started: Started) -> None:
        proxy = started()
        wait_until(lambda: live(proxy)["streams"] == 1, "the admin's stream alone")
        before = live(proxy)
        for number in range(200):
            client, other = ends()
            client.send(DATA[:1000])
            assert receive(other, 1000) == DATA[:1000]
            other.send(DATA[:300_000])
            if number % 3 == 0:
                other.reset()
            elif number % 3 == 1:
                assert client.read(300_000) == DATA[:300_000]
                client.reset()
            else:
                other.fin()
                client.fin()
                assert client.read_end() == (DATA[:300_000], End.FIN)
        wait_until(lambda: live(proxy) == before, f"as before: {before}")

    def test_idle_ones_have_no_pipes(self, ends: Ends, started: Started) -> None:
        proxy = started()
        wait_until(lambda: live(proxy)["pipes"] == 0, "those before are gone")
        for _ in range(30):
            client, other = ends()
            client.send(b"x")
            assert other.recv() == b"x"
            other.send(b"y")
            assert client.read(1) == b"y"
        assert live(proxy)["pipes"] <= 8


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
        up, down = 300_000, 5_000_000
        client.send(DATA[:up])
        assert receive(other, up) == DATA[:up]
        sender = threading.Thread(target=other.send, args=(DATA[:down],))
        sender.start()
        assert client.read(down) == DATA[:down]
        sender.join(20)
        wait_until(lambda: proxy.metric("regproxy_tunnels_open") == 1, "a tunnel is open")
        other.fin()
        client.fin()
        client.read_end()
        (line,) = proxy.access_log(1)
        assert (line["method"], line["request_type"], line["status"]) == ("CONNECT", "tunnel", "200")
        assert (line["host"], line["bytes_sent"], line["upstream"]) == (
            f"peer.test:{peer.address[1]}",
            str(down),
            peer.address[0],
        )
        assert (line["uri"], line["upstream_cache_status"]) == ("", "")
        wait_until(lambda: proxy.metric("regproxy_tunnels_open") == 0, "it is closed")
        assert proxy.metric("regproxy_tunnel_bytes_total", direction="up") == up
        assert proxy.metric("regproxy_tunnel_bytes_total", direction="down") == down

    def test_nothing_is_left(self, started: Started, ends: Ends) -> None:
        proxy = started()
        wait_until(lambda: b'"streams": 1,' in proxy.admin("/debug/live")[1], "the admin's stream alone")
        for _ in range(20):
            client, other = ends()
            client.send(b"x")
            other.reset()
        wait_until(lambda: b'"streams": 1,' in proxy.admin("/debug/live")[1], "the admin's stream alone")
