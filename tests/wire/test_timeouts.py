"""Nothing waits for ever, and what moves is let be."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

import pytest

from tests.support.byte_streams import End, Tls
from tests.support.client import Client
from tests.support.images import digest_of
from tests.support.origin import Answer, Origin
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, UPLOADS, Bare, Lane, ended, take_head
from tests.support.trust import Trust, trusting

Talk = Callable[..., Client]
Dial = Callable[[Proxy], Client]


@pytest.fixture(scope="module")
def hasty(lane: Lane) -> Proxy:
    """One that does not wait long for origins."""
    return lane.proxy(PROXY_READ_TIMEOUT="500ms", REGPROXY_RESUME_TIME="100ms", ALLOW_PUSH="true")


class TestClients:
    """Clients that say nothing, or take nothing."""

    @pytest.mark.parametrize("state", ["accepted", "connected", "hello", "handshaken"])
    def test_that_say_nothing(self, state: str, lane: Lane, origin: Origin, stack: ExitStack) -> None:
        proxy = lane.proxy(CLIENT_HEADER_TIMEOUT="500ms")
        client = stack.enter_context(Client.connect(proxy.address, timeout=8))
        if state != "accepted":
            assert client.connect_to(origin.authority).status == 200
        if state == "hello":
            hello = Tls(client.stream, trusting(None), server_name=origin.name).hello()
            client.send(hello[: len(hello) // 2])
        elif state == "handshaken":
            client.start_tls(origin.name, proxy.ca_pem)
        client.read_end()

    @pytest.mark.parametrize("state", ["connect", "connect after empty lines", "hello", "request"])
    def test_that_draw_it_out(self, state: str, lane: Lane, origin: Origin, stack: ExitStack) -> None:
        """A byte now and then does not prolong a head, or a handshake."""
        proxy = lane.proxy(CLIENT_HEADER_TIMEOUT="500ms")
        client = stack.enter_context(Client.connect(proxy.address, timeout=0.1))
        data = b"CONNECT reg.test:443 HTTP/1.1\r\nX: "
        if state in ("hello", "request"):
            client.layers[0].sock.settimeout(20)  # type: ignore[attr-defined]
            assert client.connect_to(origin.authority).status == 200
            data = Tls(client.stream, trusting(None), server_name=origin.name).hello()
            if state == "request":
                client.start_tls(origin.name, proxy.ca_pem)
                data = client.head("GET", "/" + "x" * 1000)
            client.layers[0].sock.settimeout(0.1)  # type: ignore[attr-defined]
        pieces = [b"\r\n"] * 60 if "empty lines" in state else [data[at : at + 1] for at in range(60)]
        assert self._cut(client, pieces)

    def _cut(self, client: Client, pieces: list[bytes]) -> bool:
        """Send a piece every 0.1 s; tell whether the proxy ended the connection before the last."""
        for piece in pieces:
            try:
                client.send(piece)
                if client.stream.recv() == b"":
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False

    def test_that_stay_without_asking(self, lane: Lane, origin: Origin, talk: Talk) -> None:
        client = talk(lane.proxy(KEEPALIVE_TIMEOUT="500ms"), origin)
        assert client.get(SMALL_PATH).body == SMALL
        assert ended(client) is End.CLOSE_NOTIFY

    def test_that_stop_reading(self, lane: Lane, origin: Origin, talk: Talk) -> None:
        """They are cut; others that read the same fill are not."""
        proxy = lane.proxy(SEND_TIMEOUT="500ms")
        path, body = lane.publish(20_000_000)
        origin.on("/pass-large", Answer(body))
        stuck = [talk(proxy, origin, recv_buffer=4096) for _ in range(3)]
        stuck[0].ask("GET", path)
        stuck[1].ask("GET", "/pass-large")
        assert talk(proxy, origin).get(path).body == body
        proxy.wait_kept(digest_of(body))
        stuck[2].ask("GET", path)
        lines = proxy.access_log(4, check=lambda line: line["method"] == "GET")
        assert sorted(int(line["bytes_sent"]) < len(body) for line in lines) == [False, True, True, True]
        for client in stuck:
            assert client.read_reply().complete is False
        assert origin.hits[path] == 1

    def test_that_stop_sending(self, lane: Lane, origin: Origin, talk: Talk) -> None:
        client = talk(lane.proxy(CLIENT_BODY_TIMEOUT="500ms", ALLOW_PUSH="true"), origin)
        client.send(client.head("PUT", UPLOADS + "stuck", [("Content-Length", "50")]) + b"x")
        rest, _ = client.read_end()
        assert rest.startswith(b"HTTP/1.1 408 ") or rest == b""
        assert origin.count("PUT", "stuck") == 0

    def test_that_send_slowly(self, lane: Lane, hasty: Proxy, origin: Origin, talk: Talk) -> None:
        """An origin's time to answer begins with the end of the request."""
        client = talk(hasty, origin)
        client.send(client.head("PUT", UPLOADS + "slow", [("Content-Length", "50")]))
        for _ in range(50):
            client.send(b"x")
            time.sleep(0.02)  # twice as long in all as an origin may be silent
        assert client.read_reply("PUT").body.decode() == digest_of(b"x" * 50)


class TestOrigins:
    """Origins that say nothing, or stop."""

    @pytest.mark.parametrize("what", ["fill", "small fill", "pass"])
    def test_that_say_nothing(
        self, what: str, hold: threading.Event, lane: Lane, hasty: Proxy, origin: Origin, talk: Talk
    ) -> None:
        path, _ = lane.publish(200_000 if what == "fill" else 100, hold_at=-1, hold=hold)
        if what == "pass":
            path = "/held"
            origin.on(path, Answer(b"x", hold_at=-1, hold=hold))
        client = talk(hasty, origin)
        reply = client.get(path)
        hold.set()
        assert (reply.status, reply.complete) == (504, True)
        assert "reg.test" in reply.body.decode()
        assert client.get("/v2/").status == 200

    def test_that_say_nothing_after_a_push(
        self, hold: threading.Event, lane: Lane, hasty: Proxy, origin: Origin, talk: Talk
    ) -> None:
        """A push waits without a limit for a while; the next request on that connection does not."""
        client = talk(hasty, origin)
        for _ in range(50):
            client.send(client.head("PUT", UPLOADS + "1", [("Content-Length", "1")]))
            client.send(b"x")
            assert client.read_reply("PUT").status == 201
        path, _ = lane.publish(100, hold_at=-1, hold=hold)
        assert client.get(path).status == 504

    @pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
    @pytest.mark.parametrize("what", ["fill", "pass"])
    def test_that_stop(
        self,
        what: str,
        framing: Literal["length", "chunked", "eof"],
        hold: threading.Event,
        lane: Lane,
        hasty: Proxy,
        origin: Origin,
        talk: Talk,
    ) -> None:
        """A cut, and never a clean end."""
        path, body = lane.publish(200_000, hold_at=100_000, hold=hold, framing=framing, ranges=False)
        if what == "pass":
            path = f"/stops-{framing}"
            origin.on(path, Answer(body, hold_at=100_000, hold=hold, framing=framing))
        reply = talk(hasty, origin).get(path)
        hold.set()
        assert (reply.status, reply.complete) == (200, False)
        assert reply.end is not End.CLOSE_NOTIFY
        assert body.startswith(reply.body)
        # What has come of a fill is left to the next.
        wait_until(lambda: hasty.metric("regproxy_fills_active") == 0, "it is given up")

    def test_that_pause(self, lane: Lane, hasty: Proxy, origin: Origin, talk: Talk) -> None:
        """The time counts from byte to byte, not for all of the answer."""
        path, body = lane.publish(100_000, rate=80_000.0)
        assert talk(hasty, origin).get(path).body == body

    def test_that_stop_taking_a_push(self, lane: Lane, trust: Trust, talk: Talk) -> None:
        enough = threading.Event()

        def take_nothing(stream: Tls) -> None:
            take_head(stream)
            enough.wait(20)

        with Bare(trust, take_nothing) as bare:
            proxy = lane.proxy(PROXY_SEND_TIMEOUT="500ms", ALLOW_PUSH="true", **bare.env)
            client = talk(proxy, bare)
            client.send(client.head("PUT", UPLOADS, [("Content-Length", "50000000")]))
            piece = b"x" * 100_000
            with contextlib.suppress(OSError):
                for _ in range(500):
                    client.send(piece)
                    if select.select([client.stream], [], [], 0)[0]:
                        break
            reply = client.read_reply("PUT")
            enough.set()
        assert reply.status in (0, 504)
