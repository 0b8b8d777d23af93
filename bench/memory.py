"""What connections cost in memory: idle ones, and ones whose clients take nothing of what they asked for.

Memory is the proportional set size of a server's whole process tree (proc(5), smaps_rollup); the kernel's
socket buffers are not in it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from bench.cpu import tree
from bench.errors import BenchError
from bench.figures import Figure, Side, Target
from bench.lab import SETTLE, Lab
from bench.loadgen import Route
from bench.material import HOST, Item
from bench.scenarios import BLOB, Plan, at_most

ROUNDS = 5
WARM = 20  # connections that are there before anything counts
TIMEOUT = 30.0  # s
DEAF_BUFFER = 65_536  # bytes of a receive buffer, SO_RCVBUF
GRAIN = 256  # kB; a server's logs and counters grow by less
FULL = 0.6  # s in which a server fills what a client does not empty

Add = Callable[[ExitStack, Route], None]  # one more client, until the stack ends


def idle_connections(lab: Lab, plan: Plan) -> list[Figure]:
    """S9: kB for each of `plan.idle` idle TLS connections that have had one manifest."""
    manifest = lab.material.manifest()
    lab.warm(manifest)

    def idle(stack: ExitStack, route: Route) -> None:
        client = stack.enter_context(connected(route))
        ask(client, route, manifest)
        receive(client, manifest.size)

    return [both(lab, manifest, ("S9", "idle connection, memory", "kB"), plan.idle, idle, at_most(20))]


def slow_readers(lab: Lab, plan: Plan) -> list[Figure]:
    """S10: kB for each of `plan.deaf` clients that ask for 32 MB and take nothing: a connection, no body."""
    blob = lab.material.blob(BLOB)
    lab.warm(blob)

    def deaf(stack: ExitStack, route: Route) -> None:
        ask(stack.enter_context(connected(route)), route, blob)

    return [both(lab, blob, ("S10", "client that takes nothing, memory", "kB"), plan.deaf, deaf, at_most(40))]


def both(lab: Lab, item: Item, name: tuple[str, str, str], count: int, add: Add, *targets: Target) -> Figure:
    """The growth by each of `count` clients that `add` adds, of both servers, which have just started."""
    own, peer = [], []
    for _ in range(ROUNDS):
        lab.restart()
        lab.warm(item)
        own.append(growth(lab.subject.pid, lab.through(lab.origin), count, add))
        renew(lab.peer.process.pid)
        peer.append(growth(lab.peer.process.pid, lab.peer.route(), count, add))
    return Figure(*name, tuple(own), (Side("nginx", tuple(peer)),), targets)


def growth(pid: int, route: Route, count: int, add: Add) -> float:
    """kB for each client, while all of them are there."""
    with ExitStack() as stack:
        for _ in range(WARM):
            add(stack, route)
        before = settled(pid)
        for _ in range(count):
            add(stack, route)
        return (settled(pid) - before) / count


def renew(nginx: int) -> None:
    """Have nginx start new workers, whose memory nobody used, and wait for the end of the old ones."""
    old, deadline = set(tree(nginx)) - {nginx}, time.monotonic() + TIMEOUT
    os.kill(nginx, signal.SIGHUP)
    while old & tree(nginx).keys():
        if time.monotonic() > deadline:
            raise BenchError("nginx's old workers do not end")
        time.sleep(SETTLE)


def settled(pid: int) -> float:
    """kB in use once they have not grown for FULL seconds."""
    most, since = tree_memory(pid), time.monotonic()
    while time.monotonic() - since < FULL:
        time.sleep(SETTLE)
        if (now := tree_memory(pid)) > most + GRAIN:
            most, since = now, time.monotonic()
    return tree_memory(pid)


def tree_memory(root: int) -> float:
    """kB of proportional set size of a process and its descendants."""
    total = 0.0
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) * 1.024 if found else 0
    return total


@contextmanager
def connected(route: Route) -> Iterator[ssl.SSLSocket]:
    """A TLS connection by `route`, CONNECT first where it says so."""
    host, _, port = route.address.rpartition(":")
    with socket.socket() as plain:
        plain.settimeout(TIMEOUT)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DEAF_BUFFER)
        # A request follows the handshake's last message at once: it is not to wait for that one's ACK.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.connect((host, int(port)))
        if route.connect:
            plain.sendall(f"CONNECT {route.host} HTTP/1.1\r\nHost: {route.host}\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (got := plain.recv(1)):
                    raise BenchError(f"CONNECT {route.host}: closed after {head!r}")
                head += got
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise BenchError(f"CONNECT {route.host}: {head!r}")
        with trusting(str(route.ca)).wrap_socket(plain, server_hostname=HOST) as client:
            yield client


@cache
def trusting(ca: str) -> ssl.SSLContext:
    """One for all connections: what is measured is the server, but its client has memory too."""
    return ssl.create_default_context(cafile=ca)


def ask(client: ssl.SSLSocket, route: Route, item: Item) -> None:
    client.sendall(f"GET {item.path} HTTP/1.1\r\nHost: {route.host}\r\n\r\n".encode())


def receive(client: ssl.SSLSocket, size: int) -> None:
    """Take a whole answer; BenchError unless it is a 200 with a body of `size` bytes."""
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0 or len(got) < end + 4 + size:
        if not (more := client.recv(65_536)):
            break
        got += more
    if not got.startswith(b"HTTP/1.1 200 ") or len(got) != end + 4 + size:
        raise BenchError(f"a wrong answer of {len(got)} bytes: {got[:100]!r}")
