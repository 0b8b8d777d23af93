"""Real clients in a world of their own: skopeo and podman, told of one proxy and of one CA alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT = 60.0
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


class Podman:
    """podman with a root of its own (vfs) until `close`; the image store is empty at first.

    Its files are in a directory right below the system's temporary one: podman wants its runroot to have no
    more than 50 characters.
    As root podman notes blobs in /var/lib/containers/cache whatever it is told; a pull into
    an empty store does not use that.
    """

    def __init__(self, *, proxy: str, ca: Path | None) -> None:
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
        return run([*self._command, "pull", "--quiet", "--tls-verify=true", image], self.env).decode().strip()

    def push(self, image: str, target: str) -> None:
        """Push a pulled image."""
        run([*self._command, "push", "--quiet", "--tls-verify=true", image, f"docker://{target}"], self.env)

    def images(self) -> list[dict[str, Any]]:
        """Return what `podman images` knows."""
        found: list[dict[str, Any]] = json.loads(
            run([*self._command, "images", "--format", "json"], self.env)
        )
        return found

    def remove(self, image: str) -> None:
        run([*self._command, "rmi", "--force", image], self.env)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
