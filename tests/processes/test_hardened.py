"""The proxy as a hardened container has it: read-only root, no capability, no new privileges, seccomp."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.byte_streams import Plain
from tests.support.client import Client
from tests.support.images import MANIFEST, make_image
from tests.support.like_a_container import PROFILE, USER
from tests.support.origin import Origin
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy
from tests.support.trust import Trust
from tests.support.two_workers import Pair

SYSTEM_PYTHON = "/usr/bin/python3"
IMAGE, OTHER = make_image(seed=71), make_image(seed=72)


def lacking() -> str:
    """Why this can't be tried here; "": it can."""
    if os.getuid() != 0:
        return "only root can make the namespaces of a container"
    if not PROFILE.exists():
        return f"there is no {PROFILE}"
    if subprocess.run([SYSTEM_PYTHON, "-c", "import seccomp"], capture_output=True).returncode:
        return "python3-seccomp is not installed"
    reads = [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
        "test",
        "-r",
        str(ROOT / "setup.py"),
    ]
    if subprocess.run(reads).returncode:
        return f"another user can't read {ROOT}"
    return ""


WHY = lacking()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the proxy's user can reach and write."""
    found = Path(tempfile.mkdtemp(prefix="hardened-"))
    os.chown(found, USER, USER)
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


def start(
    place: Path, origin: Origin, trust: Trust, resolve: Mapping[str, str] | None = None, **env: str
) -> Proxy:
    ca = place / "upstream.pem"
    ca.write_bytes(trust.path.read_bytes())
    ca.chmod(0o644)
    within = [SYSTEM_PYTHON, str(ROOT / "tests/support/like_a_container.py"), str(place), "--"]
    return Proxy(
        *(place, {"REGPROXY_WORKERS": "2", "PYTHONDONTWRITEBYTECODE": "1", **env}),
        registries=(origin.authority,),
        resolve=origin.resolve if resolve is None else resolve,
        ca=ca,
        within=within,
    )


def pull(proxy: Proxy, origin: Origin, repository: str, image: object = IMAGE) -> None:
    assert isinstance(image, type(IMAGE))
    with proxy.client(origin.authority) as client:
        accept = [("Accept", MANIFEST)]
        assert client.get(f"/v2/{repository}/manifests/1", accept).digest == image.digest
        for digest in image.blobs:
            assert client.get(f"/v2/{repository}/blobs/{digest}").digest == digest


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_runs(place: Path, trust: Trust) -> None:
    """Pulls, a killed worker, a reload, a restart; and nothing of it needs more than it has."""
    with Origin(trust, "reg.test") as origin:
        origin.publish("app", IMAGE, "1")
        origin.publish("other", OTHER, "1")
        with start(place, origin, trust) as proxy:
            pull(proxy, origin, "app")
            pair = Pair(proxy, origin.authority)
            for pid in (proxy.daemon.pid, *pair.pids()):
                found = status_of(pid)
                assert found["Uid"].split() == [str(USER)] * 4
                assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
                    "0" * 16
                }
                assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
                # The root that this process sees can't be written, by root either.
                with pytest.raises(OSError, match="Read-only file system"):
                    Path(f"/proc/{pid}/root/usr/written").write_text("")
            pair.kill(pair.pids()[0])
            pull(proxy, origin, "other", OTHER)
            before = set(pair.pids())
            proxy.signal(signal.SIGHUP)
            wait_until(lambda: len(now := set(proxy.workers())) == 2 and not now & before, "both are new")
            pull(proxy, origin, "app")
            errors = [line for line in proxy.log().splitlines() if " ERROR " in line]
            assert [line for line in errors if "was killed by SIGKILL" not in line] == []
        asked = len(origin.requests)
        with start(place, origin, trust) as proxy:
            pull(proxy, origin, "app")
            # The tag alone was asked for again.
            assert len([seen for seen in origin.requests[asked:] if "/blobs/" in seen.path]) == 0


def test_a_tunnel(place: Path, trust: Trust, stack: ExitStack) -> None:
    """To a host that is not intercepted: much of it both ways at once, which the kernel moves (splice)."""
    data = random.Random(5).randbytes(4_000_000)
    listener = stack.enter_context(socket.create_server(free_address()))
    listener.settimeout(20)
    host, port = listener.getsockname()
    ports = f"443 {port}"
    with Origin(trust, "reg.test") as origin:
        resolve = {**origin.resolve, "peer.test": host}
        proxy = stack.enter_context(start(place, origin, trust, resolve, REGPROXY_CONNECT_PORTS=ports))
        for _ in Pair(proxy, origin.authority).pids():
            client = stack.enter_context(Client.connect(proxy.address))
            assert client.connect_to(f"peer.test:{port}").status == 200
            other = Plain(listener.accept()[0])
            stack.callback(other.close)
            sender = threading.Thread(target=client.send, args=(data,))
            answerer = threading.Thread(target=other.send, args=(data[::-1],))
            reader = threading.Thread(target=lambda: got.append(client.read(len(data))))  # noqa: B023
            got: list[bytes] = []
            for thread in (sender, answerer, reader):
                thread.start()
            assert receive(other, len(data)) == data
            for thread in (sender, answerer, reader):
                thread.join(20)
            assert got == [data[::-1]]
        with Client.connect(proxy.address) as refused:
            assert refused.connect_to(f"peer.test:{port + 1}").status == 403
        assert [line for line in proxy.log().splitlines() if " ERROR " in line] == []


def receive(stream: Plain, size: int) -> bytes:
    parts, got = [], 0
    while got < size and (data := stream.recv()):
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def test_other_users_read_nothing_of_it(place: Path, trust: Trust) -> None:
    """Whatever umask it is started with: only the CA's certificate is for others."""
    before = os.umask(0)
    try:
        with Origin(trust, "reg.test") as origin, start(place, origin, trust) as proxy:
            origin.publish("app", IMAGE, "1")
            pull(proxy, origin, "app")
            proxy.wait_kept(*IMAGE.blobs)
            made = [path for top in (proxy.cache_dir, proxy.ca_dir) for path in (top, *top.rglob("*"))]
            assert len(made) > 10
            open_ = [path for path in made if path.stat().st_mode & 0o007]
            assert set(open_) <= {proxy.ca_path}
            secret = [proxy.ca_dir / "ca.key", *(proxy.cache_dir / "state").glob("*.key")]
            assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    finally:
        os.umask(before)


@pytest.mark.parametrize(("debug", "private"), [("0", True), ("1", False)])
def test_its_memory_is_private(place: Path, trust: Trust, debug: str, private: bool) -> None:
    """No core dump is made of it, and its own user can't trace it: the kernel judges both by one mark.

    The same mark decides whether that user can read the environment, which is what is tried.
    """
    with Origin(trust, "reg.test") as origin, start(place, origin, trust, REGPROXY_DEBUG=debug) as proxy:
        origin.publish("app", IMAGE, "1")
        pull(proxy, origin, "app")
        main = proxy.daemon.pid
        wait_until(lambda: len(children(main)) == 3, "two workers and the janitor run")
        for pid in (main, *children(main)):  # children have it from their first moment: they inherit it
            assert is_as_private(pid, private), pid
        assert "can't be ruled out" not in proxy.log()


def is_as_private(pid: int, private: bool) -> bool:
    as_its_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    reads = subprocess.run([*as_its_user, "cat", f"/proc/{pid}/environ"], capture_output=True)
    assert not reads.returncode or b"Permission denied" in reads.stderr
    return (reads.returncode != 0) is private


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
