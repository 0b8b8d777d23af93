"""How the proxy stops: nobody new, what runs is finished, and a second signal cuts."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.support.byte_streams import End, Plain
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin
from tests.support.processes import accepts, free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, UPLOADS, Lane, ended

Talk = Callable[..., Client]
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture(scope="module")
def origin(lane: Lane) -> Origin:
    return lane.origin


@pytest.fixture
def peer(stack: ExitStack) -> socket.socket:
    """A listener for tunnels to go to."""
    listener = stack.enter_context(socket.create_server(free_address()))
    listener.settimeout(20)
    return listener


@pytest.fixture
def proxy(lane: Lane, peer: socket.socket, stack: ExitStack) -> Proxy:
    """A proxy that this test stops; whatever becomes of the test, it is ended."""
    host, port = peer.getsockname()
    proxy = lane.new_proxy(
        ALLOW_PUSH="true",
        REGPROXY_CONNECT_PORTS=f"443 {port}",
        REGPROXY_RESOLVE=f"peer.test={host} {lane.origin.name}={lane.origin.address[0]}",
    )
    stack.callback(proxy.kill)
    return proxy


def stop(proxy: Proxy, number: signal.Signals = TERM) -> None:
    """Signal it, and wait until it takes nobody any more."""
    proxy.signal(number)
    wait_until(lambda: not accepts(proxy.address), "it does not listen any more")


def code(proxy: Proxy) -> int:
    """Wait for its end; its exit code. Also says that nothing crashed and no process was left."""
    result = proxy.daemon.wait(20)
    assert not proxy.daemon.group_alive()
    assert "Traceback" not in proxy.log(), proxy.log()
    return result


class TestIdle:
    """With nothing to finish it stops at once."""

    @pytest.mark.parametrize("number", [TERM, INT], ids=str)
    def test_nobody_is_connected(self, number: signal.Signals, proxy: Proxy) -> None:
        stop(proxy, number)
        assert code(proxy) == 0
        assert proxy.parts() == []
        assert "0 connections and fills were cut" in proxy.log()

    def test_idle_connections_are_closed(
        self, proxy: Proxy, origin: Origin, talk: Talk, stack: ExitStack
    ) -> None:
        used, fresh = talk(proxy, origin), talk(proxy, origin)
        assert used.get(SMALL_PATH).body == SMALL
        origin.cut_all()  # what is left open to the origin would be counted
        silent = stack.enter_context(Client.connect(proxy.address))
        wait_until(lambda: b'"streams": 4' in proxy.admin("/debug/live")[1], "it is accepted too")
        stop(proxy)
        assert (ended(used), ended(fresh)) == (End.CLOSE_NOTIFY, End.CLOSE_NOTIFY)
        assert ended(silent) is End.FIN
        assert code(proxy) == 0

    def test_connected_without_a_handshake(self, proxy: Proxy, origin: Origin, stack: ExitStack) -> None:
        """Such a client would hold everything up; it can try again elsewhere."""
        client = stack.enter_context(Client.connect(proxy.address))
        assert client.connect_to(origin.authority).status == 200
        stop(proxy)
        client.read_end()
        assert code(proxy) == 0

    def test_what_it_says_meanwhile(
        self, proxy: Proxy, origin: Origin, talk: Talk, hold: threading.Event
    ) -> None:
        origin.on("/held", Answer(b"x", hold_at=-1, hold=hold))
        before = len(origin.requests)
        client = talk(proxy, origin)
        client.ask("GET", "/held")
        origin.wait_for(lambda seen: len(seen.requests) > before)
        assert proxy.admin("/readyz")[0] == 200
        stop(proxy)
        status, text = proxy.admin("/readyz")
        assert (status, b"shutting down" in text) == (503, True)
        assert proxy.admin("/healthz")[0] == 200
        assert proxy.admin("/metrics")[0] == 200
        hold.set()
        assert client.read_reply().body == b"x"
        assert code(proxy) == 0


class TestRunning:
    """What has begun is finished, and then the connection ends."""

    def test_a_slow_download(
        self, lane: Lane, proxy: Proxy, origin: Origin, talk: Talk, hold: threading.Event
    ) -> None:
        """Its first reader, one that joined, and one that reads slowly what is kept."""
        path, body = lane.publish(2_000_000, hold_at=500_000, hold=hold)
        first, second, third = talk(proxy, origin), talk(proxy, origin), talk(proxy, origin)
        other_path, other = lane.publish(20_000_000)
        third.ask("GET", other_path)
        for client in (first, second):
            client.ask("GET", path)
            assert client.read_head().status == 200
            assert client.read(1000) == body[:1000]
        proxy.wait_kept(digest_of(other))
        stop(proxy)
        hold.set()
        for client in (first, second):
            assert client.read(len(body) - 1000) == body[1000:]
            assert ended(client) is End.CLOSE_NOTIFY
        assert third.read_reply().body == other
        assert ended(third) is End.CLOSE_NOTIFY
        assert code(proxy) == 0
        assert proxy.blobs()[digest_of(body)] == len(body)

    def test_an_answer_that_has_not_begun(
        self, lane: Lane, proxy: Proxy, origin: Origin, talk: Talk, hold: threading.Event
    ) -> None:
        """It says that the connection closes; a request behind it is not answered any more."""
        path, body = lane.publish(300_000, hold_at=-1, hold=hold)
        client = talk(proxy, origin)
        client.send(client.head("GET", path) + client.head("GET", SMALL_PATH))
        origin.wait_for(lambda seen: seen.hits[path] == 1)
        stop(proxy)
        hold.set()
        reply = client.read_reply("GET")
        assert (reply.body, reply.get("Connection")) == (body, "close")
        assert ended(client) is End.CLOSE_NOTIFY
        assert code(proxy) == 0

    def test_a_push(self, proxy: Proxy, origin: Origin, talk: Talk) -> None:
        client, body = talk(proxy, origin), b"x" * 100_000
        client.send(client.head("PUT", UPLOADS + "drain", [("Content-Length", "100000")]) + body[:1000])
        wait_until(lambda: b'"ssl": 2' in proxy.admin("/debug/live")[1], "the origin is connected to")
        stop(proxy)
        client.send(body[1000:])
        assert client.read_reply("PUT").body.decode() == digest_of(body)
        assert ended(client) is End.CLOSE_NOTIFY
        assert code(proxy) == 0

    def test_a_tunnel(self, proxy: Proxy, peer: socket.socket, stack: ExitStack) -> None:
        client = stack.enter_context(Client.connect(proxy.address))
        assert client.connect_to(f"peer.test:{peer.getsockname()[1]}").status == 200
        other = Plain(peer.accept()[0])
        stack.callback(other.close)
        stop(proxy)
        for _ in range(3):
            client.send(b"ping")
            assert other.recv() == b"ping"
            other.send(b"pong")
            assert client.read(4) == b"pong"
        client.fin()
        assert other.recv() == b""
        other.fin()
        assert ended(client) is End.FIN
        assert code(proxy) == 0

    def test_a_download_whose_client_has_gone(
        self, lane: Lane, proxy: Proxy, origin: Origin, talk: Talk, hold: threading.Event
    ) -> None:
        """It is nearly paid for: the next start has it."""
        path, body = lane.publish(300_000, hold_at=100_000, hold=hold)
        client = talk(proxy, origin)
        client.ask("GET", path)
        assert client.read_head().status == 200
        client.reset()
        stop(proxy)
        hold.set()
        assert code(proxy) == 0
        assert proxy.blobs() == {digest_of(body): len(body)}
        assert proxy.parts() == []


class TestCut:
    """The second signal ends it at once, and the log says what was lost."""

    @pytest.mark.parametrize("first, second", [(TERM, TERM), (INT, INT), (TERM, INT)], ids=str)
    def test_a_download(
        self,
        first: signal.Signals,
        second: signal.Signals,
        lane: Lane,
        proxy: Proxy,
        origin: Origin,
        talk: Talk,
        hold: threading.Event,
    ) -> None:
        path, body = lane.publish(300_000, hold_at=200_000, hold=hold)
        client = talk(proxy, origin)
        client.ask("GET", path)
        assert client.read_head().status == 200
        stop(proxy, first)
        proxy.signal(second)
        rest, end = client.read_end()
        assert end is not End.CLOSE_NOTIFY  # never to be taken for complete
        assert len(rest) < len(body)
        assert code(proxy) == 1
        cut = [line for line in proxy.log().splitlines() if "cut: " in line]
        assert any("reg.test" in line and path in line for line in cut)
        assert any(f"fill of {digest_of(body)}" in line for line in cut)
        # What there is of it is where the next start takes it up.
        name = digest_of(body).removeprefix("sha256:")
        assert [path.name for path in proxy.parts()] == [f"{name}.meta", f"{name}.part"]
        assert digest_of(body) not in proxy.blobs()

    def test_a_download_that_takes_too_long(
        self, lane: Lane, origin: Origin, talk: Talk, hold: threading.Event, stack: ExitStack
    ) -> None:
        """Once REGPROXY_DRAIN_TIMEOUT is over, without a second signal."""
        proxy = lane.new_proxy(REGPROXY_DRAIN_TIMEOUT="300ms")
        stack.callback(proxy.kill)
        path, body = lane.publish(300_000, hold_at=200_000, hold=hold)
        client = talk(proxy, origin)
        client.ask("GET", path)
        assert client.read_head().status == 200
        proxy.signal(TERM)
        rest, end = client.read_end()
        assert (len(rest) < len(body), end is End.CLOSE_NOTIFY) == (True, False)
        assert code(proxy) == 1
        assert "draining for up to 0.3 s" in proxy.log()
        assert path in "".join(line for line in proxy.log().splitlines() if "cut: " in line)

    def test_a_worker_that_hangs(self, lane: Lane, stack: ExitStack) -> None:
        """It is killed a little later, long before it would count as hung."""
        proxy = lane.new_proxy(REGPROXY_DRAIN_TIMEOUT="0")
        stack.callback(proxy.kill)
        (worker,) = proxy.workers(1)
        os.kill(worker, signal.SIGSTOP)
        proxy.signal(TERM)
        assert code(proxy) == 1
        assert "is killed: it does not end" in proxy.log()

    def test_everything_at_once(
        self,
        lane: Lane,
        proxy: Proxy,
        origin: Origin,
        peer: socket.socket,
        talk: Talk,
        hold: threading.Event,
        stack: ExitStack,
    ) -> None:
        """Waiting, passing, pushing, tunnelling: every one is cut and named."""
        waiting_path, _ = lane.publish(300_000, hold_at=-1, hold=hold)
        origin.on("/passes", Answer(b"x" * 300_000, hold_at=100_000, hold=hold))
        waiting, passing, pushing = (talk(proxy, origin) for _ in range(3))
        waiting.ask("GET", waiting_path)
        passing.ask("GET", "/passes")
        assert passing.read_head().status == 200
        pushing.send(pushing.head("PUT", UPLOADS + "cut?_state=secret", [("Content-Length", "1000")]) + b"x")
        tunnel = stack.enter_context(Client.connect(proxy.address))
        assert tunnel.connect_to(f"peer.test:{peer.getsockname()[1]}").status == 200
        other = Plain(peer.accept()[0])
        stack.callback(other.close)
        origin.wait_for(lambda seen: seen.hits[waiting_path] == 1)
        stop(proxy)
        proxy.signal(TERM)
        for client in (waiting, passing, pushing, tunnel):
            assert client.read_end()[1] is not End.CLOSE_NOTIFY
        while other.recv():
            pass
        assert code(proxy) == 1
        cut = "\n".join(line for line in proxy.log().splitlines() if "cut: " in line)
        for part in (waiting_path, "/passes", UPLOADS + "cut", "tunnel"):
            assert part in cut
        assert "secret" not in proxy.log()

    def test_who_stops_reading_does_not_hold_it_up_for_ever(
        self, lane: Lane, proxy: Proxy, origin: Origin, talk: Talk
    ) -> None:
        path, _ = lane.publish(20_000_000)
        client = talk(proxy, origin, recv_buffer=4096)
        client.ask("GET", path)
        assert client.read_head().status == 200
        stop(proxy)
        proxy.signal(TERM)
        assert code(proxy) == 1
        assert path in proxy.log()
