"""Real clients in a world of their own: told of one proxy, or of mirrors, and of one CA alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.support.closing import Closing
from tests.support.processes import Daemon

TIMEOUT = 60.0
DOCKER = "/usr/bin/docker"  # Debian's: others may be called so, too
META = {"version", "manifest.json"}


class Failed(AssertionError):
    """A client gave up; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image as it arrived, byte for byte; every file was checked against the digest that names it."""

    manifest: bytes
    digest: str
    blobs: Mapping[str, int]
    """Sizes of config and layers by digest."""
    children: tuple[str, ...]
    """Digests of the manifests below an index."""


class Skopeo:
    """skopeo below `directory`, with homes of its own: no caches, no credentials, no CAs but `ca`.

    `proxy` is the URL in HTTPS_PROXY, `ca` a PEM file; `ca=None` trusts nobody.
    """

    def __init__(self, directory: Path, *, proxy: str, ca: Path | None) -> None:
        self._directory = directory
        # As root the blob-info-cache would be the machine's; someone else's is below XDG_DATA_HOME.
        self.env = client_env(directory / "home", proxy=proxy, ca=ca) | {"_CONTAINERS_ROOTLESS_UID": "1000"}
        self._count = 0

    def copy(self, image: str, *, every: bool = False, creds: str | None = None) -> Pulled:
        """Pull "host:port/repository:tag" (or "@digest") and check all of it. `every`: all platforms."""
        self._count += 1
        place = self._directory / f"pulled-{self._count}"
        command = ["copy", "--src-tls-verify=true", *(["--all"] if every else [])]
        command += ["--src-creds", creds] if creds else []
        self._run([*command, f"docker://{image}", f"dir:{place}"])
        pulled = _checked(place)
        shutil.rmtree(place)
        return pulled

    def inspect(self, image: str, *, raw: bool = False, creds: str | None = None) -> bytes:
        """Return what `skopeo inspect` says; `raw`: the manifest, byte for byte."""
        command = ["inspect", "--tls-verify=true", *(["--raw"] if raw else [])]
        command += ["--creds", creds] if creds else []
        return self._run([*command, f"docker://{image}"])

    def push(self, layout: Path, tag: str, target: str, *, creds: str | None = None) -> None:
        """Push a tag of an OCI layout with all its platforms, and no byte changed."""
        command = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=true"]
        command += ["--dest-creds", creds] if creds else []
        self._run([*command, f"oci:{layout}:{tag}", f"docker://{target}"])

    def _run(self, words: list[str]) -> bytes:
        wipe_blob_info(self._directory / "home")
        return run(["skopeo", "--insecure-policy", "--command-timeout", "50s", *words], self.env)


class Store(Protocol):
    """A client with a local store of images, which are named "registry/repository:tag"."""

    env: dict[str, str]

    def pull(self, image: str) -> object: ...

    def load(self, archive: Path) -> object:
        """Take an image, with its name, from a file as `docker save` writes it."""

    def push(self, image: str, target: str) -> object:
        """Push an image of the store by another name, or by its own."""

    def remove(self, image: str) -> object:
        """Forget an image and its content."""


class Podman(Closing):
    """podman with a root of its own (vfs) until `close`; the image store is empty at first.

    `tls`: whether registries speak it; None: as registries.conf says. Its files are in a directory right
    below the system's temporary one: podman wants its runroot to have no more than 50 characters.
    As root podman notes blobs in /var/lib/containers/cache whatever it is told; a pull into
    an empty store does not use that.
    """

    def __init__(self, *, proxy: str, ca: Path | None, tls: bool | None = True) -> None:
        self._tls = [] if tls is None else [f"--tls-verify={'true' if tls else 'false'}"]
        self._place = tempfile.TemporaryDirectory(prefix="podman-")
        place = Path(self._place.name)
        self.env = client_env(place / "home", proxy=proxy, ca=ca)
        self._command = ["podman", "--storage-driver", "vfs", "--events-backend", "none"]
        self._command += ["--cgroup-manager", "cgroupfs"]
        for option, name in (("root", "root"), ("runroot", "run"), ("tmpdir", "tmp")):
            self._command += [f"--{option}", str(place / name)]

    def close(self) -> None:
        self._place.cleanup()

    def pull(self, image: str) -> str:
        """Pull, and return the image's id (the config's digest without "sha256:")."""
        return run([*self._command, "pull", "--quiet", *self._tls, image], self.env).decode().strip()

    def load(self, archive: Path) -> None:
        """Take an image from a file as `docker save` writes it."""
        run([*self._command, "load", "--quiet", "--input", str(archive)], self.env)

    def push(self, image: str, target: str) -> None:
        """Push a pulled image."""
        run([*self._command, "push", "--quiet", *self._tls, image, f"docker://{target}"], self.env)

    def images(self) -> list[dict[str, Any]]:
        """Return what `podman images` knows."""
        found: list[dict[str, Any]] = json.loads(
            run([*self._command, "images", "--format", "json"], self.env)
        )
        return found

    def remove(self, image: str) -> None:
        run([*self._command, "rmi", "--force", image], self.env)


class Buildah(Podman):
    """buildah; all else is as with podman."""

    def __init__(self, *, proxy: str, ca: Path | None, tls: bool | None = True) -> None:
        super().__init__(proxy=proxy, ca=ca, tls=tls)
        place = self._place.name
        self._command = ["buildah", "--storage-driver", "vfs", "--root", f"{place}/root"]
        self._command += ["--runroot", f"{place}/run"]

    def load(self, archive: Path) -> None:
        run([*self._command, "pull", "--quiet", f"docker-archive:{archive}"], self.env)


class Containerd(Closing):
    """containerd and ctr, with a root of their own below `directory` until `close`.

    `hosts` is a directory of hosts.toml files (`--hosts-dir`); `tls`: whether registries speak it.
    """

    def __init__(
        self, directory: Path, *, proxy: str, ca: Path | None, hosts: Path | None = None, tls: bool = True
    ) -> None:
        self.env = client_env(directory / "home", proxy=proxy, ca=ca)
        # An address of a socket has room for 108 bytes.
        self._place = tempfile.TemporaryDirectory(prefix="containerd-")
        place = Path(self._place.name)
        socket, config = place / "c.sock", place / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{place}/root"\nstate = "{place}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n'
        )
        self._ctr = ["ctr", "--address", str(socket), "images"]
        self._ways = ["--hosts-dir", str(hosts)] if hosts else []
        self._ways += [] if tls else ["--plain-http"]
        self._daemon = Daemon("containerd", ["containerd", "-c", config], directory=directory, env=self.env)
        self._daemon.wait_ready(lambda: socket.exists() and self._answers())

    def _answers(self) -> bool:
        command = [*self._ctr, "list"]
        return subprocess.run(command, env=self.env, capture_output=True, check=False).returncode == 0

    def pull(self, image: str) -> None:
        run([*self._ctr, "pull", "--snapshotter", "native", *self._ways, image], self.env)

    def load(self, archive: Path) -> None:
        run([*self._ctr, "import", "--no-unpack", str(archive)], self.env)

    def push(self, image: str, target: str) -> None:
        if image != target:
            run([*self._ctr, "tag", "--force", image, target], self.env)
        run([*self._ctr, "push", *self._ways, target], self.env)

    def remove(self, image: str) -> None:
        run([*self._ctr, "rm", "--sync", image], self.env)

    def close(self) -> None:
        self._daemon.stop()
        self._place.cleanup()


class Docker(Closing):
    """dockerd and docker, with a root of their own below `directory` until `close`.

    `mirror` is a URL for `--registry-mirror`. dockerd looks up each registry's name, to find out whether it
    is a loopback address: it has a resolv.conf of its own, by which nobody is asked.
    """

    def __init__(self, directory: Path, *, proxy: str, ca: Path | None, mirror: str | None = None) -> None:
        self.env = client_env(directory / "home", proxy=proxy, ca=ca)
        self._place = tempfile.TemporaryDirectory(prefix="dockerd-")
        place = Path(self._place.name)
        names = place / "resolv.conf"
        names.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
        socket = f"unix://{place}/d.sock"
        command = [
            "dockerd",
            "--host",
            socket,
            "--data-root",
            f"{place}/data",
            "--exec-root",
            f"{place}/exec",
        ]
        command += ["--pidfile", f"{place}/pid", "--config-file", f"{place}/none.json", "--bridge=none"]
        command += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        command += ["--storage-driver=vfs", *([f"--registry-mirror={mirror}"] if mirror else [])]
        (place / "none.json").write_text("{}")
        within = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        within += ['mount --bind "$0" /etc/resolv.conf && exec "$@"', str(names)]
        self._docker = [DOCKER, "--host", socket]
        self._daemon = Daemon("dockerd", [*within, *command], directory=directory, env=self.env)
        self._daemon.wait_ready(self._answers)

    def _answers(self) -> bool:
        command = [*self._docker, "version"]
        return subprocess.run(command, env=self.env, capture_output=True, check=False).returncode == 0

    def pull(self, image: str) -> None:
        run([*self._docker, "pull", "--quiet", image], self.env)

    def load(self, archive: Path) -> None:
        run([*self._docker, "load", "--quiet", "--input", str(archive)], self.env)

    def push(self, image: str, target: str) -> None:
        if image != target:
            run([*self._docker, "tag", image, target], self.env)
        run([*self._docker, "push", "--quiet", target], self.env)

    def remove(self, image: str) -> None:
        run([*self._docker, "rmi", "--force", image], self.env)

    def close(self) -> None:
        self._daemon.stop()
        self._place.cleanup()


def client_env(home: Path, *, proxy: str, ca: Path | None) -> dict[str, str]:
    """Return the whole environment of a Go client: proxy and CA by variables, homes below `home`.

    Go trusts what SSL_CERT_FILE and SSL_CERT_DIR name together: both are set, or the system's CAs leak in.
    """
    empty = home / "no-certs"
    for place in (home / "data", home / "run", home / "config", empty):
        place.mkdir(parents=True, exist_ok=True)
    registries = home / "registries.conf"
    registries.write_text("")
    if ca is None:
        ca = home / "no-ca.pem"
        ca.write_text("")
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TMPDIR": str(home),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
        "HTTPS_PROXY": proxy,
        "HTTP_PROXY": proxy,
        "SSL_CERT_FILE": str(ca),
        "SSL_CERT_DIR": str(empty),
    }


def wipe_blob_info(home: Path) -> None:
    """Forget which blobs were seen where: it turns pushes into mounts and pulls into nothing."""
    for path in home.rglob("blob-info-cache-v1.*"):
        path.unlink()


def run(command: list[str], env: Mapping[str, str], *, timeout: float = TIMEOUT) -> bytes:
    """Return stdout; an exit code that is not 0 raises Failed with everything that was said."""
    try:
        done = subprocess.run(command, env=dict(env), capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command} did not end within {timeout:g} s: {error.stderr!r}") from None
    if done.returncode:
        raise Failed(f"{command}: exit {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout


def _checked(place: Path) -> Pulled:
    """Check a `dir:` that skopeo wrote: each file is what its name says, and nothing is missing."""
    manifest = (place / "manifest.json").read_bytes()
    top = json.loads(manifest)
    children = {
        "sha256:" + path.name.removesuffix(".manifest.json") for path in place.glob("*.manifest.json")
    }
    bodies = [top, *(json.loads((place / f"{child[7:]}.manifest.json").read_bytes()) for child in children)]
    for path in place.iterdir():
        name = path.name.removesuffix(".manifest.json")
        got = _sha256(path)
        assert path.name in META or got == name, f"{path.name} holds {got}"
    blobs = {"sha256:" + path.name: path.stat().st_size for path in place.iterdir() if len(path.name) == 64}
    for body in bodies:
        for entry in (*body.get("layers", ()), *([body["config"]] if "config" in body else ())):
            assert blobs.get(entry["digest"]) == entry["size"], f"{entry} did not arrive"
    return Pulled(manifest, "sha256:" + _sha256(place / "manifest.json"), blobs, tuple(sorted(children)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
