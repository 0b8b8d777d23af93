"""Set-ups in the hands of the real programs: whom they ask first. A listener stands in for the proxy."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from regproxy.onboarding.clients import CLIENTS, Setup
from regproxy.onboarding.proxy_address import ProxyAddress
from tests.support.fake_host import FakeHost
from tests.support.processes import Daemon, free_address, wait_until

MANIFEST = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
TYPE = "application/vnd.oci.image.index.v1+json"
# Where whatever would leave this machine goes instead: nobody listens there.
NOWHERE = "http://127.0.0.1:9"


class Listener:
    """Answers every request for a manifest with one status, and notes it."""

    def __init__(self, status: int) -> None:
        seen: list[str] = []
        self.seen = seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                # containerd 1.7 tries a registry by TLS first, and goes on without when HTTP answers that.
                if self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
                    self.connection.recv(65_536)
                    self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                    self.close_connection = True
                else:
                    super().handle_one_request()

            def do_GET(self) -> None:
                seen.append(f"{self.command} {self.path}")
                found = 200 if self.path == "/v2/" else status
                body = MANIFEST if found == 200 else b"{}"
                self.send_response(found)
                self.send_header("Content-Type", TYPE if found == 200 else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Say nothing: `seen` has it."""

        self.server = http.server.ThreadingHTTPServer(free_address(), Handler)
        self.authority = "{}:{}".format(*self.server.server_address[:2])
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join(10)
        self.server.server_close()


Listen = Callable[[int], Listener]


@pytest.fixture
def listen() -> Iterator[Listen]:
    with ExitStack() as stack:

        def start(status: int) -> Listener:
            listener = Listener(status)
            stack.callback(listener.close)
            return listener

        yield start


def set_up(name: str, proxy: str, directory: Path, *more: str) -> FakeHost:
    """Return a host on which a set-up has been run."""
    address = ProxyAddress.parse(proxy)
    assert address is not None
    host = FakeHost(directory)
    done = host.run(Setup(address, "-", ("docker.io", "ghcr.io", *more)).render(CLIENTS[name]))
    assert done.returncode == 0, done.stderr
    return host


class TestContainerd:
    """hosts.toml of the set-ups of containerd and of Docker 28, which reads it by the same code."""

    pytestmark = pytest.mark.skipif(shutil.which("ctr") is None, reason="containerd is not installed")

    @pytest.fixture
    def daemon(self, tmp_path: Path) -> Iterator[Path]:
        """A containerd of the test's own: its socket."""
        place, socket = tmp_path / "containerd", tmp_path / "c.sock"
        config = tmp_path / "config.toml"
        config.write_text(
            'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'root = "{place}/root"\nstate = "{place}/state"\n[grpc]\n  address = "{socket}"\n'
            f'[ttrpc]\n  address = "{socket}.ttrpc"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\n  path = "{place}/opt"\n'
        )
        command = ["containerd", "--config", str(config)]
        running = Daemon(
            "containerd", command, directory=tmp_path, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        )
        try:
            running.wait_ready(socket.exists)
            yield socket
        finally:
            running.stop()

    @pytest.mark.parametrize("name", ["containerd", "docker-certs-d"])
    @pytest.mark.parametrize("status", [200, 403, 404, 502])
    def test_asked_first(self, status: int, name: str, daemon: Path, tmp_path: Path, listen: Listen) -> None:
        """The proxy is asked with the registry's name; the registry itself is when that is no answer."""
        proxy, registry = listen(status), listen(200)
        host = set_up(name, proxy.authority, tmp_path / "host")
        folder = "etc/docker/certs.d" if name == "docker-certs-d" else "etc/containerd/certs.d"
        command = ["ctr", "-a", str(daemon), "images", "pull", "--hosts-dir", str(host.root / folder)]
        command.append(f"{registry.authority}/team/app:v1")
        # The image has no platforms: what counts is who was asked.
        subprocess.run(command, capture_output=True, timeout=60, check=False, env={"PATH": "/usr/bin:/bin"})
        ns = registry.authority.replace(":", "%3A")
        assert proxy.seen[0] == f"HEAD /v2/team/app/manifests/v1?ns={ns}"
        asked = [line for line in registry.seen if "/manifests/v1" in line]
        assert asked == ([] if status == 200 else ["HEAD /v2/team/app/manifests/v1"])


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("registry", ["docker.io/library", "ghcr.io/team"])
@pytest.mark.parametrize("name", ["podman", "crio"])
def test_registries_conf(name: str, registry: str, tmp_path: Path, listen: Listen) -> None:
    """podman, buildah, CRI-O and skopeo read it by the same code."""
    proxy = listen(200)
    host = set_up(name, proxy.authority, tmp_path)
    file = host.root / "etc/containers/registries.conf.d/050-regproxy.conf"
    command = ["skopeo", "--insecure-policy", f"--registries-conf={file}", "inspect", "--raw"]
    done = subprocess.run(
        [*command, f"docker://{registry}/app:v1"],
        capture_output=True,
        timeout=60,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "HTTPS_PROXY": NOWHERE,
        },
    )
    assert (done.returncode, done.stdout) == (0, MANIFEST), done.stderr
    wait_until(lambda: f"GET /v2/{registry}/app/manifests/v1" in proxy.seen, "the proxy is asked")


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_registries_conf_and_a_port(tmp_path: Path, listen: Listen) -> None:
    """A mirror with a port in its path breaks pulls ("invalid reference format"): none is written."""
    proxy, registry = listen(200), listen(200)
    host = set_up("podman", proxy.authority, tmp_path, registry.authority)
    file = host.root / "etc/containers/registries.conf.d/050-regproxy.conf"
    command = ["skopeo", "--insecure-policy", f"--registries-conf={file}", "inspect", "--raw"]
    done = subprocess.run(
        [*command, "--tls-verify=false", f"docker://{registry.authority}/team/app:v1"],
        capture_output=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, MANIFEST), done.stderr
    assert proxy.seen == []
