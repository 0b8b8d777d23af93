"""The hot paths that are counted, as work on a proxy; each gives the instructions for one unit."""

from __future__ import annotations

import re
import socket
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from bench.errors import BenchError
from bench.guard.counting import CRYPTO, Counted
from bench.loadgen import HEADERS
from bench.material import HOST, Item, Material, make_identity
from bench.servers import SlowOrigin

BLOB = 200_000
FILLED = 8_000_000
TRIES = 50
UNLIMITED = 10**13  # bytes/s
Counts = dict[str, int]  # "all", and "without libcrypto"


class Client:
    """A client that is through CONNECT and TLS to the origin's host, and asks one thing at a time."""

    def __init__(self, proxy: Counted, origin: SlowOrigin) -> None:
        self._proxy = proxy
        route = proxy.route(origin.port)
        address, _, port = route.address.rpartition(":")
        self._host = route.host
        plain = socket.create_connection((address, int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proxy.rest()
        plain.sendall(f"CONNECT {route.host} HTTP/1.1\r\nHost: {route.host}\r\n\r\n".encode())
        if not plain.recv(4096).startswith(b"HTTP/1.1 200"):
            raise BenchError("CONNECT was refused")
        proxy.rest()
        context = ssl.create_default_context(cafile=str(route.ca))
        self._tls = context.wrap_socket(plain, server_hostname=HOST)
        proxy.rest()

    def get(self, item: Item) -> None:
        fields = "\r\n".join(HEADERS)
        self._tls.sendall(f"GET {item.path} HTTP/1.1\r\nHost: {self._host}\r\n{fields}\r\n\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._receive()
        head, _, body = got.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(got.decode(errors="replace"))
        left = item.size - len(body)
        while left > 0:
            left -= len(self._receive())
        self._proxy.rest()

    def _receive(self) -> bytes:
        data = self._tls.recv(1 << 18)
        if not data:
            raise BenchError("the proxy has closed the connection")
        return data

    def close(self) -> None:
        self._tls.close()
        self._proxy.rest()


def per_unit(proxy: Counted, work: Callable[[], None], times: int, groups: int = 3) -> Counts:
    """Instructions for one of `times` units, in the cheapest of several groups.

    Where the client lacks the processor, the proxy has to wait for it within an answer, and to go on: that
    costs more, and is nothing that the proxy does worse.
    """

    def group() -> None:
        for _ in range(times):
            work()

    return least(summary(proxy.count(group), times) for _ in range(groups))


def least(found: Iterable[Counts]) -> Counts:
    """Return the smallest of each count."""
    every = list(found)
    return {name: min(counts[name] for counts in every) for name in every[0]}


def summary(found: Counter[str], units: int) -> Counts:
    crypto = sum(n for name, n in found.items() if name.startswith(CRYPTO))
    return {"all": found.total() // units, "without libcrypto": (found.total() - crypto) // units}


def blob_hit(proxy: Counted, origin: SlowOrigin, material: Material) -> Counts:
    """A cached blob of 200 kB: from its file, and as much as TCP takes at once."""
    item = material.blob(BLOB)
    with closing(Client(proxy, origin)) as client:
        for _ in range(10):
            client.get(item)
        return per_unit(proxy, lambda: client.get(item), 5)


def manifest_hit(proxy: Counted, origin: SlowOrigin, material: Material) -> Counts:
    """A cached manifest of 2.7 kB, answered by the session: the first time in a second of the clock."""
    item = material.manifest()

    def in_the_next_second() -> None:
        time.sleep(1.001 - time.time() % 1)
        client.get(item)

    with closing(Client(proxy, origin)) as client:
        for _ in range(20):
            client.get(item)
        before = repeated(proxy)
        found = per_unit(proxy, in_the_next_second, 1, 8)
        if repeated(proxy) != before:
            raise BenchError("an answer was repeated a second later")
        return found


def repeated_hit(proxy: Counted, origin: SlowOrigin, material: Material) -> Counts:
    """The same again within that second: groups in which one answer was not a repeated one do not count."""
    item, asked = material.manifest(), 25
    found: list[Counts] = []
    with closing(Client(proxy, origin)) as client:
        for _ in range(TRIES):
            client.get(item)
            before = repeated(proxy)
            client.get(item)
            counts = per_unit(proxy, lambda: client.get(item), asked, 1)
            if repeated(proxy) == before + asked + 1:
                found.append(counts)
            if len(found) == 3:
                return least(found)
    raise BenchError("answers that come again are not repeated")


def repeated(proxy: Counted) -> int:
    """How many answers were repeated so far."""
    with urllib.request.urlopen(proxy.metrics_url, timeout=60) as answer:
        text = answer.read().decode()
    proxy.rest()
    found = re.search(r"^regproxy_repeated_answers_total (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def new_connection(proxy: Counted, origin: SlowOrigin, material: Material) -> Counts:
    """CONNECT and TLS handshake, without a request."""
    for _ in range(3):
        Client(proxy, origin).close()
    return per_unit(proxy, lambda: Client(proxy, origin).close(), 5)


def fill(proxy: Counted, origin: SlowOrigin, material: Material) -> Counts:
    """A blob of 8 MB that is not in the cache: received, verified, written, sent."""
    blobs = iter([material.blob(FILLED, seed) for seed in range(5)])
    with closing(Client(proxy, origin)) as client:
        client.get(next(blobs))
        return per_unit(proxy, lambda: client.get(next(blobs)), 1, 4)


def count_all(directory: Path) -> dict[str, Counts]:
    """Count every path, with servers of its own below `directory`."""
    material, identity = Material(directory / "material"), make_identity(directory / "identity")
    origin = SlowOrigin(directory / "origin", material.root, identity, UNLIMITED)
    proxy: Counted | None = None
    try:
        proxy = Counted(directory / "proxy", identity, origin.port)
        proxy.start({})
        return {
            "cached blob, 200 kB": blob_hit(proxy, origin, material),
            "cached manifest, by the session": manifest_hit(proxy, origin, material),
            "cached manifest, repeated": repeated_hit(proxy, origin, material),
            "CONNECT and handshake": new_connection(proxy, origin, material),
            "cold blob, 8 MB": fill(proxy, origin, material),
        }
    finally:
        if proxy is not None:
            proxy.stop()
        origin.process.stop()
