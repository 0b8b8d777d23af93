"""netem.py is a line between two networks, as bad as it is told to be."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import netem
from tests.support.byte_streams import End
from tests.support.client import Client
from tests.support.netem import FAR, NEAR, Fault, Lab, Way
from tests.support.origin import Answer, Origin
from tests.support.tcp_packets import RST, Segment, make_reset

BODY = random.Random(3).randbytes(300_000)
PORT = 8080
Start = Callable[..., Lab]

MISSING = netem.missing()
needs_lab = pytest.mark.skipif(MISSING is not None, reason=f"no bad lines here: {MISSING}")


@pytest.fixture
def start(stack: ExitStack) -> Start:
    """Start a line, with an origin of BODY at its far end; the test goes on at the near one."""

    def start(**way: float) -> Lab:
        lab = stack.enter_context(Lab(Way(**way)))
        with lab.far.entered():
            origin = stack.enter_context(Origin(None, "far.test", address=(FAR, PORT)))
        origin.on("/", Answer(BODY))
        stack.enter_context(lab.near.entered())
        return lab

    return start


def dial() -> Client:
    return Client.connect((FAR, PORT), authority="far.test")


def check() -> None:
    """All of it arrives as it was sent."""
    with dial() as client:
        reply = client.get("/")
    assert (reply.status, reply.complete) == (200, True)
    assert reply.body == BODY


@needs_lab
def test_each_end_is_in_a_network_of_its_own(start: Start) -> None:
    network = Path("/proc/thread-self/ns/net")
    outside = network.readlink()
    lab = start()
    near = network.readlink()
    with lab.far.entered():
        far = network.readlink()
    assert network.readlink() == near
    assert len({outside, near, far}) == 3
    check()


@needs_lab
def test_packets_are_late(start: Start) -> None:
    start(delay=0.1)
    began = time.monotonic()
    dial().close()
    assert time.monotonic() - began >= 0.2  # SYN there, SYN and ACK back


@needs_lab
def test_packets_are_lost_and_come_all_the_same(start: Start) -> None:
    lab = start(loss=0.05)
    check()
    check()
    assert lab.line.lost > 0


@needs_lab
def test_no_more_passes_than_the_rate(start: Start) -> None:
    start(rate=1_000_000)
    began = time.monotonic()
    check()
    assert time.monotonic() - began >= len(BODY) / 1_000_000


@needs_lab
def test_a_reset_ends_connections_for_both_sides_and_refuses_new_ones(start: Start) -> None:
    lab = start(rate=200_000)
    with dial() as client:
        client.ask("GET", "/")
        client.read(50_000)
        lab.line.break_now(Fault("reset", 60))
        reply = client.read_end()
        assert reply[1] is End.RST
        with pytest.raises(ConnectionRefusedError):
            dial()
    lab.line.heal()
    dial().close()


@needs_lab
def test_an_idle_connection_is_reset_too(start: Start) -> None:
    lab = start()
    with dial() as client:
        client.ask("HEAD", "/")
        assert client.read_reply().status == 200
        lab.line.break_now(Fault("reset"))
        assert client.read_end() == (b"", End.RST)
    check()


@needs_lab
def test_a_line_that_carries_nothing_for_a_while(start: Start) -> None:
    lab = start()
    with dial() as client:
        lab.line.break_now(Fault("drop", 60))
        client.ask("GET", "/")
        with pytest.raises(TimeoutError):
            Client.connect((FAR, PORT), timeout=0.2)
        lab.line.heal()
        assert client.read_reply().body == BODY
    assert lab.line.faults == {"drop": 1}


@needs_lab
def test_a_plague_breaks_again_and_again(start: Start) -> None:
    lab = start()
    lab.line.plague(50_000, [Fault("drop", 0.1), Fault("drop", 0.1), Fault("reset")])
    with dial() as client:
        reply = client.get("/")
    assert (reply.complete, reply.end) == (False, End.RST)
    assert lab.line.faults == {"drop": 2, "reset": 1}
    check()


def test_a_reset_is_a_packet_as_the_kernel_makes_it() -> None:
    """The checksums of a packet with them in it are zero (RFC 1071)."""
    packet = make_reset((FAR, PORT), (NEAR, 40000), 0xFFFFFFF0)
    segment = Segment.parse(packet)
    assert segment == Segment((FAR, PORT), (NEAR, 40000), 0xFFFFFFF0, 0, RST, 0)
    assert sum(int.from_bytes(packet[at : at + 2], "big") for at in range(0, 20, 2)) % 0xFFFF == 0
    pseudo = packet[12:20] + bytes([0, 6, 0, 20]) + packet[20:]
    assert sum(int.from_bytes(pseudo[at : at + 2], "big") for at in range(0, len(pseudo), 2)) % 0xFFFF == 0
    assert Segment.parse(packet[:30]) is None
