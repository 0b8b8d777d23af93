"""What is checked inside the virtual machine. `main` is its process 1; `CHECKS` are the checks by name.

On the console each check has a line `ktls {"check": name, "error": text}`, with no text where all is well.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.support import ROOT
from tests.support.byte_streams import End
from tests.support.client import Client, Reply
from tests.support.images import Image, digest_of, make_image
from tests.support.origin import Answer, Origin, blob_answer
from tests.support.processes import wait_until
from tests.support.proxy import Proxy, said
from tests.support.trust import Trust, trusting

MARK: Final = "ktls "
ON: Final = "kTLS: the kernel encrypts"
# Bytes: least, first, most. With little room in the kernel it takes no more than a part of nearly everything.
SYSCTLS: Final = {"tcp_wmem": "4096 49152 49152", "tcp_rmem": "4096 65536 65536"}
SEND_TIMEOUT: Final = 3  # seconds
SMALL: Final = 40_000  # bytes; a body that is answered from memory
LARGE: Final = 2_000_000
POWER_OFF: Final = 0x4321FEDC  # <linux/reboot.h>
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # <linux/sockios.h>, <linux/if.h>


@dataclass(frozen=True, slots=True)
class Place:
    """What the checks work on: one proxy that intercepts `origin` and tunnels to `other`.

    `warm` is the path of a blob of LARGE bytes that is in the cache; `stack` is closed behind each check.
    """

    proxy: Proxy
    origin: Origin
    other: Origin
    trust: Trust
    image: Image
    warm: str
    stack: ExitStack

    @property
    def manifest(self) -> str:
        return f"/v2/app/manifests/{self.image.digest}"

    def client(self, **options: Any) -> Client:
        """A client that is through CONNECT and TLS."""
        return self.stack.enter_context(self.proxy.client(self.origin.authority, **options))

    def blob(self, size: int = LARGE, **faults: Any) -> str:
        """Have the origin serve a new blob, and return its path."""
        body = random.randbytes(size)
        path = f"/v2/app/blobs/{digest_of(body)}"
        self.origin.on(path, blob_answer(digest_of(body), body, **faults))
        return path

    def warm_up(self, path: str) -> None:
        """See to it that the cache has the blob."""
        whole(self.client().get(path), path)
        self.proxy.wait_kept(digest_in(path))


Check = Callable[[Place], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def digest_in(path: str) -> str:
    return path.rpartition("/")[2]


def whole(reply: Reply, path: str) -> None:
    """Assert that the reply is all of the content by digest at that path."""
    assert (reply.status, reply.complete) == (200, True), (reply.status, reply.end, len(reply.body))
    assert reply.digest == digest_in(path), (path, reply.digest, len(reply.body))


def is_good(client: Client) -> None:
    """Assert that the connection can be used for another request."""
    reply = client.get("/v2/")
    assert (reply.status, reply.complete) == (200, True), reply


def context(place: Place, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's context for one version of TLS alone."""
    made = trusting(place.proxy.ca_pem)
    made.minimum_version = made.maximum_version = version
    return made


def kernel_counts() -> dict[str, int]:
    """The kernel's own counters of kTLS (its Documentation/networking/tls.rst)."""
    lines = Path("/proc/net/tls_stat").read_text().splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


# --- the checks --------------------------------------------------------------------------------------------


@check
def the_log_says_that_the_kernel_encrypts(place: Place) -> None:
    assert ON in place.proxy.log(), place.proxy.log()


@check
def the_kernel_counts_what_it_encrypts(place: Place) -> None:
    before = kernel_counts()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = place.client(context=context(place, version))
        is_good(client)
        whole(client.get(place.warm), place.warm)
    after = kernel_counts()
    assert after["TlsTxSw"] - before["TlsTxSw"] == 2, (before, after)


@check
def a_cold_blob(place: Place) -> None:
    path, client = place.blob(), place.client()
    reply = client.get(path)
    whole(reply, path)
    assert said(reply)[0] == "MISS", reply.headers
    place.proxy.wait_kept(digest_in(path))
    reply = client.get(path)
    whole(reply, path)
    assert said(reply)[0] == "HIT", reply.headers
    reply = client.request("HEAD", path)
    assert (reply.status, reply.get("Content-Length"), reply.body) == (200, str(LARGE), b"")
    is_good(client)


@check
def a_cold_blob_without_a_length(place: Place) -> None:
    path, client = place.blob(framing="chunked"), place.client(recv_buffer=4096)
    whole(client.get(path), path)
    is_good(client)


@check
def a_cold_blob_and_three_clients(place: Place) -> None:
    path = place.blob(rate=LARGE)
    with ThreadPoolExecutor(3) as pool:
        for reply in pool.map(lambda client: client.get(path), [place.client() for _ in range(3)]):
            whole(reply, path)
    assert place.origin.hits[path] == 1


@check
def pages_that_are_not_in_memory(place: Place) -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    client = place.client()
    whole(client.get(place.warm), place.warm)
    is_good(client)


@check
def ranges(place: Place) -> None:
    client = place.client()
    body = client.get(place.warm).body
    for field, start, stop in (
        ("0-0", 0, 1),
        ("0-99999", 0, 100_000),
        ("1234567-1345678", 1_234_567, 1_345_679),
        (f"{LARGE - 1}-", LARGE - 1, LARGE),
        ("16384-", 16_384, LARGE),
        ("-70000", LARGE - 70_000, LARGE),
    ):
        reply = client.get(place.warm, {"Range": f"bytes={field}"})
        assert (reply.status, reply.body == body[start:stop]) == (206, True), (field, reply.status)
    reply = client.get(place.warm, {"Range": f"bytes={LARGE}-"})
    assert reply.status == 416, reply
    is_good(client)


@check
def manifests(place: Place) -> None:
    client = place.client()
    for reference in ("v1", place.image.digest):
        for method in ("GET", "HEAD", "GET"):
            reply = client.request(method, f"/v2/app/manifests/{reference}")
            assert (reply.status, reply.get("Docker-Content-Digest")) == (200, place.image.digest), reply
            assert reply.body == (place.image.manifest if method == "GET" else b"")


@check
def a_hundred_requests_on_a_connection(place: Place) -> None:
    client = place.client()
    for _ in range(100):
        whole(client.get(place.manifest), place.manifest)


@check
def twenty_requests_at_once(place: Place) -> None:
    together, apart = place.client(), place.client()
    together.send(together.head("GET", place.manifest) * 20)
    for _ in range(20):
        apart.ask("GET", place.manifest)
    for _ in range(20):
        whole(together.read_reply("GET"), place.manifest)
        whole(apart.read_reply(), place.manifest)


@check
def clients_that_ask_much_and_read_later(place: Place) -> None:
    """What the kernel does not take waits in the proxy, while others' answers go through the same memory."""
    path, another = place.blob(SMALL), place.blob(SMALL)
    place.warm_up(path)
    place.warm_up(another)
    late = [place.client(recv_buffer=4096) for _ in range(4)]
    for client in late * 12:
        client.ask("GET", path)
    for _ in range(10):
        client = place.client()
        whole(client.get(another), another)
        is_good(client)
    for client in late * 12:
        whole(client.read_reply(), path)


@check
def slow_readers(place: Place) -> None:
    """Of a file, of a body that grows and of one that only passes through, all at the same time."""
    through = random.randbytes(LARGE)
    place.origin.on("/v2/app/through", Answer(through))
    paths = [place.warm, place.blob(), "/v2/app/through"]
    clients = [place.client(recv_buffer=4096) for _ in paths]
    with ThreadPoolExecutor(len(paths)) as pool:
        replies = list(pool.map(lambda c, p: c.request("GET", p, rate=LARGE / 2), clients, paths))
    for reply, path in zip(replies[:2], paths[:2], strict=True):
        whole(reply, path)
    assert replies[2].body == through, len(replies[2].body)
    for client in clients:
        is_good(client)


@check
def ciphers(place: Place) -> None:
    """Also one that the machine has no module for, so that OpenSSL encrypts for the socket."""
    before = kernel_counts()
    for cipher in ("ECDHE+AESGCM+AES128", "ECDHE+AESGCM+AES256", "ECDHE+CHACHA20"):
        ours = context(place, ssl.TLSVersion.TLSv1_2)
        ours.set_ciphers(cipher)
        client = place.client(context=ours, recv_buffer=4096)
        whole(client.get(place.warm), place.warm)
        is_good(client)
        whole(client.get(place.warm, {"Connection": "close"}), place.warm)
        assert client.read_end() == (b"", End.CLOSE_NOTIFY), (cipher, client.stream.end)
    assert kernel_counts()["TlsTxSw"] - before["TlsTxSw"] == 2


@check
def a_hello_in_the_packet_of_the_connect(place: Place) -> None:
    client = place.client(early=True)
    whole(client.get(place.warm), place.warm)
    is_good(client)


@check
def half_closed_with_the_request(place: Place) -> None:
    for end in (Client.half_close, Client.fin):
        for path in (place.warm, place.manifest):
            client = place.client()
            client.ask("GET", path)
            end(client)
            whole(client.read_reply(), path)
            assert client.read_end() == (b"", End.CLOSE_NOTIFY), (end, path, client.stream.end)


@check
def half_closed_within_the_answer(place: Place) -> None:
    for end in (Client.half_close, Client.fin):
        client = place.client(recv_buffer=4096)
        client.ask("GET", place.warm)
        assert client.read_head().status == 200
        end(client)
        data, how = client.read_end()
        assert (digest_of(data), how) == (digest_in(place.warm), End.CLOSE_NOTIFY), (end, len(data), how)


@check
def closed_behind_the_answer(place: Place) -> None:
    """The end is a close_notify, and nothing before it is lost, whatever the kernel still has to send."""
    body = place.client().get(place.warm).body
    for number in range(12):
        start = LARGE - 200_000 - number * 1_777
        client = place.client(recv_buffer=4096)
        client.ask("GET", place.warm, {"Range": f"bytes={start}-", "Connection": "close"})
        reply = client.read_reply(rate=1_000_000 if number % 3 == 0 else None)
        assert reply.body == body[start:], (number, len(body) - start, len(reply.body), reply.end)
        assert client.read_end() == (b"", End.CLOSE_NOTIFY), (number, client.stream.end)


@check
def many_connections(place: Place) -> None:
    def one(number: int) -> None:
        with place.proxy.client(place.origin.authority) as client:
            for path in (place.manifest, place.warm)[: 1 + (number % 3 == 0)]:
                whole(client.get(path), path)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(24)))


@check
def clients_that_leave(place: Place) -> None:
    for leave in (Client.reset, Client.close, Client.fin):
        client = place.client(recv_buffer=4096)
        client.ask("GET", place.warm)
        assert client.read_head().status == 200
        client.read(100_000)
        leave(client)
    whole(place.client().get(place.warm), place.warm)


@check
def a_client_that_takes_nothing(place: Place) -> None:
    """It is cut after the send timeout; one that waits for a slow origin is not."""
    go = threading.Event()
    path = place.blob(hold_at=LARGE // 2, hold=go)
    patient, idle = place.client(), place.client(recv_buffer=4096)
    idle.ask("GET", place.warm)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(patient.get, path)
        broken = select.poll()
        broken.register(idle.stream, 0)
        assert broken.poll(15_000), "it was not cut"
        # By now the other one has waited for as long, but for the time that half of its body took.
        threading.Event().wait(1)
        go.set()
        whole(reading.result(), path)
    assert not idle.read_reply().complete


@check
def uploads(place: Place) -> None:
    path = "/v2/app/blobs/uploads/1"
    place.origin.on(path, Answer(b"", 201))
    body = random.randbytes(LARGE)
    client = place.client()
    for piece in (None, 100_000):
        client.ask("PATCH", path, body=body, piece=piece)
        assert client.read_reply().status == 201
        assert place.origin.requests[-1].body == body
    client.send(client.head("PATCH", path, [("Transfer-Encoding", "chunked")]))
    for start in range(0, LARGE, 500_000):
        client.send(b"%x\r\n%b\r\n" % (500_000, body[start : start + 500_000]))
    client.send(b"0\r\n\r\n")
    assert client.read_reply("PATCH").status == 201
    assert place.origin.requests[-1].body == body
    is_good(client)


@check
def a_wrong_body_is_cut(place: Place) -> None:
    path = place.blob(wrong_at=LARGE - 5, ranges=False)
    reply = place.client().get(path)
    assert not reply.complete, reply.status
    assert len(reply.body) < LARGE
    assert digest_in(path) not in place.proxy.blobs()


@check
def a_file_that_lost_its_end_is_fetched_again(place: Place) -> None:
    path = place.blob()
    place.warm_up(path)
    client = place.client()
    whole(client.get(path), path)
    (file,) = place.proxy.cache_dir.rglob(digest_in(path).partition(":")[2])
    os.truncate(file, LARGE // 2)
    assert not client.get(path).complete
    whole(place.client().get(path), path)
    assert place.origin.hits[path] == 2


@check
def a_tunnel(place: Place) -> None:
    body = random.randbytes(LARGE)
    place.other.on("/tunnelled", Answer(body))
    ours = place.trust.client_context()
    client = place.stack.enter_context(place.proxy.client(place.other.authority, context=ours))
    for _ in range(2):
        reply = client.get("/tunnelled")
        assert (reply.status, reply.body == body) == (200, True)
    assert place.other.hits["/tunnelled"] == 2


@check
def nothing_is_left(place: Place) -> None:
    """No connection of a client; and at the end no SSL object, stream or file, else the code is not 0."""

    def rests() -> bool:
        live = json.loads(place.proxy.admin("/debug/live")[1])
        return bool(live["ssl"] == place.origin.open_connections)

    wait_until(rests, "the clients' connections are gone")
    code, log = place.proxy.stop(), place.proxy.log()
    assert (code, "Traceback" in log) == (0, False), log
    counts = kernel_counts()
    assert counts["TlsDecryptError"] == counts["TlsCurrTxSw"] == 0, counts


# --- the machine -------------------------------------------------------------------------------------------


def say(**what: object) -> None:
    print(MARK + json.dumps(what), flush=True)


def set_up() -> None:
    """Mount, load modules, and bring lo up."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(kind: str, at: str, device: str = "none") -> None:
        if libc.mount(device.encode(), at.encode(), kind.encode(), 0, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {at}")

    for kind, at in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        mount(kind, at)
    for module in ("gcm", "tls", "virtio_pci", "virtio_blk"):
        subprocess.run(["/sbin/modprobe", module], check=True, timeout=60)
    wait_until(lambda: Path("/dev/vda").exists(), "the disk is there")
    mount("ext4", "/disk", "/dev/vda")
    with socket.socket() as probe:
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    for name, value in SYSCTLS.items():
        Path(f"/proc/sys/net/ipv4/{name}").write_text(value)


def start(trust: Trust, origin: Origin, other: Origin) -> Place:
    image = make_image(seed=3)
    origin.publish("app", image, "v1")
    proxy = Proxy(
        Path("/disk/proxy"),
        {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "REGPROXY_DEBUG": "1",
            "ALLOW_PUSH": "true",
            "SEND_TIMEOUT": f"{SEND_TIMEOUT}s",
            "REGPROXY_CONNECT_PORTS": f"443 {other.port}",
        },
        registries=(origin.authority,),
        resolve=origin.resolve | other.resolve,
        ca=trust.path,
    )
    with ExitStack() as stack:
        place = Place(proxy, origin, other, trust, image, "", stack)
        warm = place.blob()
        place.warm_up(warm)
        return replace(place, warm=warm)


def run_checks() -> None:
    trust = Trust(Path("/tmp/trust"))
    with Origin(trust, "origin.test") as origin, Origin(trust, "other.test") as other:
        place = start(trust, origin, other)
        for name, function in CHECKS.items():
            begun, error = time.monotonic(), ""
            try:
                with ExitStack() as stack:
                    function(replace(place, stack=stack))
            except Exception:
                error = traceback.format_exc()
            say(check=name, error=error, seconds=round(time.monotonic() - begun, 2))
        say(log=place.proxy.log()[-20_000:])


def main() -> None:
    """Never returns: the machine is switched off."""
    try:
        set_up()
        run_checks()
    except BaseException:
        say(failed=traceback.format_exc())
    finally:
        ctypes.CDLL(None).reboot(ctypes.c_uint(POWER_OFF))
