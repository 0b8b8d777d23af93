"""Balancers that say who connects: on each port for clients, and from nobody else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.byte_streams import End, Plain
from tests.support.client import Client
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.shared_proxy import SMALL, SMALL_PATH, Lane

BALANCER = "127.0.3.3"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.77 198.51.100.2 4711 3128\r\n"
STRANGER = b"PROXY TCP4 203.0.113.9 198.51.100.2 4711 3128\r\n"
LONG = SIGNATURE + b"\x21\x11" + struct.pack(">H", 200) + bytes(200)  # a header of 216 bytes
LOCAL = SIGNATURE + b"\x20\x00\0\0"


def binary(source: str) -> bytes:
    rest = socket.inet_aton(source) + socket.inet_aton("198.51.100.2") + struct.pack(">HH", 4711, 3128)
    return SIGNATURE + b"\x21\x11" + struct.pack(">H", len(rest) + 6) + rest + b"\x04\0\x03abc"


@pytest.fixture(scope="module")
def balanced(lane: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    """A proxy behind BALANCER, for clients of 192.0.2.0/24 alone, with all ports that there are."""
    path = tmp_path_factory.mktemp("toml") / "regproxy.toml"
    path.write_text('[principal.office]\naddresses = ["192.0.2.0/24"]\n')
    yield Balanced(lane, path)


class Balanced:
    def __init__(self, lane: Lane, toml: Path) -> None:
        self.lane = lane
        self.ports = {name: free_address() for name in ("tls", "transparent")}
        text = {name: f"{host}:{port}" for name, (host, port) in self.ports.items()}
        self.proxy: Proxy = lane.proxy(
            REGPROXY_CONFIG=str(toml),
            REGPROXY_UNKNOWN_CLIENTS="deny",
            REGPROXY_PROXY_PROTOCOL=f"{BALANCER} 127.0.4.0/24",
            REGPROXY_TLS_LISTEN=text["tls"],
            REGPROXY_TRANSPARENT_LISTEN=text["transparent"],
        )
        self.ports["proxy"] = self.proxy.address

    def connect(self, port: str = "proxy", source: str = BALANCER) -> Client:
        sock = socket.create_connection(self.ports[port], 20, source_address=(source, 0))
        names = {"tls": "localhost", "transparent": "auth.docker.io"}
        return Client(Plain(sock), authority=names.get(port, "proxy.test"))

    @property
    def mirror(self) -> str:
        return f"{SMALL_PATH}?ns={self.lane.origin.authority.replace(':', '%3A')}"


HEADERS = [
    ("line", LINE, 200, "192.0.2.77"),
    ("binary", binary("192.0.2.78"), 200, "192.0.2.78"),
    ("six", b"PROXY TCP6 ::ffff:192.0.2.79 ::1 1 2\r\n", 200, "192.0.2.79"),
    ("stranger", STRANGER, 403, "203.0.113.9"),
    ("local", LOCAL, 403, BALANCER),
    ("unknown", b"PROXY UNKNOWN\r\n", 403, BALANCER),
]


@pytest.mark.parametrize("pieces", ["together", "apart", "bytes"])
@pytest.mark.parametrize("header, want, peer", [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS])
def test_who_connects(header: bytes, want: int, peer: str, pieces: str, balanced: Balanced) -> None:
    with balanced.connect() as client:
        request = client.head("GET", balanced.mirror)
        if pieces == "together":
            client.send(header + request)
        else:
            client.send(header, piece=1 if pieces == "bytes" else None)
            client.send(request)
        reply = client.read_reply("GET")
        assert reply.status == want
        assert want != 200 or reply.body == SMALL
    balanced.proxy.access_log(1, check=lambda line: line["remote_addr"] == peer)


def test_connect(balanced: Balanced) -> None:
    with balanced.connect() as client:
        client.send(LINE)
        assert client.connect_early(balanced.lane.origin.authority, balanced.proxy.ca_pem).status == 200
        assert client.get(SMALL_PATH).body == SMALL
    with balanced.connect() as client:
        client.send(STRANGER)
        assert client.connect_to(balanced.lane.origin.authority).status == 403


@pytest.mark.parametrize("port", ["tls", "transparent"])
def test_other_ports(port: str, balanced: Balanced) -> None:
    name = "localhost" if port == "tls" else "auth.docker.io"
    for header, want in ((LINE, True), (STRANGER, False)):
        with balanced.connect(port) as client:
            client.send(header)
            client.start_tls(name, balanced.proxy.ca_pem)
            client.authority = name
            reply = client.get(balanced.mirror if port == "tls" else "/v2/")
            assert (reply.status != 403) is want, reply


@pytest.mark.parametrize("port", ["proxy", "tls", "transparent"])
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01", b"PROXY TCP4 x\r\n"])
def test_a_balancer_has_to_say_it(data: bytes, port: str, balanced: Balanced) -> None:
    with balanced.connect(port) as client:
        client.send(data)
        assert client.read_end() == (b"", End.RST)
    told = (
        "127.0.3.3 is in REGPROXY_PROXY_PROTOCOL and has to begin with a header of the PROXY protocol: what"
    )
    wait_until(lambda: told in balanced.proxy.log(), told)
    assert balanced.proxy.metric("regproxy_refused_logins_total", kind="preface") > 0


def test_a_look_whether_it_listens_is_nothing(balanced: Balanced) -> None:
    with balanced.connect() as client:
        client.fin()
        assert client.read_end() == (b"", End.FIN)
    with balanced.connect() as client:
        client.send(LINE[:20])
        client.fin()
        assert client.read_end() == (b"", End.FIN)


@pytest.mark.parametrize("header", [LINE, binary("192.0.2.78")])
def test_nobody_else_is_believed(header: bytes, balanced: Balanced) -> None:
    with balanced.connect(source="127.0.3.4") as client:
        client.send(header + client.head("GET", balanced.mirror))
        assert client.read_reply("GET").status in (400, 403, 501)
    with balanced.connect(source="127.0.3.4") as client:
        assert client.get(balanced.mirror).status == 403


@pytest.mark.parametrize("port", ["proxy", "tls", "transparent"])
def test_a_header_that_does_not_come(port: str, balanced: Balanced, stack: ExitStack) -> None:
    """A byte now and then prolongs nothing; and the limit is over for a header that has come."""
    parts = (b"", LINE[:1], LINE[:-1], SIGNATURE, binary("192.0.2.78")[:-1])
    known = stack.enter_context(balanced.connect(port))
    known.send(LINE)
    others = [stack.enter_context(balanced.connect(port)) for _ in parts]
    drawn_out = stack.enter_context(balanced.connect(port))
    for client, part in zip(others, parts, strict=True):
        client.send(part)
    assert cut(drawn_out, LONG)
    assert [client.read_end() for client in others] == [(b"", End.RST)] * len(parts)
    told = f"{BALANCER} is in REGPROXY_PROXY_PROTOCOL and has to begin with a header of the PROXY protocol: "
    wait_until(lambda: f"{told}none came in time" in balanced.proxy.log(), told)
    if port != "proxy":
        known.start_tls(known.authority, balanced.proxy.ca_pem)
    reply = known.get(balanced.mirror if port != "transparent" else "/v2/")
    assert reply.status not in (403, 408), reply


def cut(client: Client, header: bytes) -> bool:
    """Send a byte every 0.1 s; tell whether the proxy ended the connection before all of them were sent."""
    client.layers[0].sock.settimeout(0.1)  # type: ignore[attr-defined]
    for at in range(len(header)):
        try:
            client.send(header[at : at + 1])
            if client.stream.recv() == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_header_is_read_once(balanced: Balanced) -> None:
    with balanced.connect() as client:
        client.send(LINE + LINE + client.head("GET", balanced.mirror))
        assert client.read_reply("GET").status != 200
