"""Today's clients, from a debootstrap root of Debian sid, through the proxy: `make e2e-new`.

Each pulls cold and warm, pushes, pushes what the cache holds to another repository, and pushes an old image
over a tag that has moved meanwhile; by CONNECT and, where it knows mirrors, as a mirror. What the registry
has afterwards is looked up in its storage. Needs root, and some 3 minutes for the root directory the first
time, and Go for regctl. Nothing leaves the loopback interface: names are the proxy's alone to know.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import debian_root
from tests.support.docker_registry import Registry
from tests.support.images import Image, make_image
from tests.support.processes import Daemon
from tests.support.proxy import Proxy
from tests.support.real_clients import client_env
from tests.support.trust import Trust

PACKAGES: Final = (
    *("ca-certificates", "docker.io", "docker-cli", "containerd", "runc", "buildah", "skopeo", "podman"),
    *("crun", "crane", "oras"),
)
REGCTL: Final = "github.com/regclient/regclient/cmd/regctl@v0.11.7"  # by the Go module proxy
INSTALL_SECONDS: Final = 900
COMMAND_SECONDS: Final = 120


class Failed(Exception):
    """A command of a client's failed; the message is its output."""


@dataclass(frozen=True, slots=True)
class World:
    """Where clients run. `mirrors`: whether they are told of the proxy as a mirror, not by HTTPS_PROXY."""

    root: Path
    work: Path
    proxy: Proxy
    registry: Registry
    env: dict[str, str]
    mirrors: bool

    def command(self, *words: str) -> list[str]:
        """Return the command that runs `words` in the root directory."""
        return debian_root.enter(self.root, words, binds=[self.work])

    def run(self, *words: str, **env: str) -> str:
        """Run a command of a client's; return what it says. Raises Failed."""
        done = subprocess.run(
            self.command(*words),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise Failed(f"{words[0]}: {(done.stderr + done.stdout).strip()[-800:]}")
        return done.stdout

    def image(self, repository: str) -> str:
        return f"{self.registry.authority}/{repository}:v1"


@dataclass(frozen=True, slots=True)
class Client:
    """What a client is to be told. Names of images are those of `World.image`."""

    pull: Callable[[str], object]
    push: Callable[[str, str], object]  # what it has pulled, under another name
    forget: Callable[[str], object]


Make = Callable[[World], AbstractContextManager[Client]]


@contextmanager
def skopeo(world: World) -> Iterator[Client]:
    base = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=true", "--dest-tls-verify=true"]
    places: dict[str, str] = {}

    def pull(image: str) -> None:
        places[image] = str(world.work / f"skopeo-{len(places)}-{time.monotonic_ns()}")
        world.run(*base, "--preserve-digests", f"docker://{image}", f"dir:{places[image]}")

    yield Client(
        pull,
        lambda image, name: world.run(
            *base, "--preserve-digests", f"dir:{places[image]}", f"docker://{name}"
        ),
        lambda image: None,
    )


def of_containers(program: str) -> Make:
    """podman or buildah, with a storage of its own."""

    @contextmanager
    def client(world: World) -> Iterator[Client]:
        place = Path(tempfile.mkdtemp(prefix="pm", dir=world.work))
        base = [program, "--root", f"{place}/r", "--runroot", f"{place}/x", "--storage-driver", "vfs"]
        if program == "podman":
            base += ["--tmpdir", f"{place}/t", "--events-backend", "none", "--cgroup-manager", "cgroupfs"]
        yield Client(
            lambda image: world.run(*base, "pull", "--quiet", image),
            lambda image, name: world.run(*base, "push", "--quiet", image, f"docker://{name}"),
            lambda image: world.run(*base, "rmi", "--force", image),
        )

    return client


@contextmanager
def containerd(world: World) -> Iterator[Client]:
    place = Path(tempfile.mkdtemp(prefix="cd", dir=world.work))
    sock, hosts = place / "c.sock", place / "hosts"
    (place / "config.toml").write_text(
        f'version = 3\nroot = "{place}/root"\nstate = "{place}/state"\n'
        f'disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",'
        f' "io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{sock}"\n'
    )
    told: list[str] = []
    if world.mirrors:
        (hosts / "_default").mkdir(parents=True)
        (hosts / "_default" / "hosts.toml").write_text(
            f'[host."{world.proxy.url}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        told = ["--hosts-dir", str(hosts)]
    command = world.command("containerd", "-c", str(place / "config.toml"))
    with Daemon("containerd", command, directory=place, env=world.env) as daemon:
        daemon.wait_ready(sock.exists)
        # What a mirror does not have would be asked of the registry.
        nobody_else = {"HTTPS_PROXY": "http://127.0.0.1:1"} if world.mirrors else {}
        ctr = ["ctr", "--address", str(sock), "images"]

        def push(image: str, name: str) -> None:
            if image != name:
                world.run(*ctr, "tag", "--force", image, name)
            world.run(*ctr, "push", "--local", *told, name)

        yield Client(
            lambda image: world.run(
                *ctr, "pull", "--local", "--snapshotter", "native", *told, image, **nobody_else
            ),
            push,
            lambda image: world.run(*ctr, "rm", "--sync", image),
        )


def docker(snapshotter: bool) -> Make:
    """dockerd with its own image store, or with containerd's."""

    @contextmanager
    def client(world: World) -> Iterator[Client]:
        place = Path(tempfile.mkdtemp(prefix="dd", dir=world.work))
        sock = place / "d.sock"
        (place / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": snapshotter}}))
        options = ["--config-file", f"{place}/daemon.json", "--host", f"unix://{sock}"]
        options += ["--data-root", f"{place}/data", "--exec-root", f"{place}/exec"]
        options += ["--pidfile", f"{place}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
        options += ["--ip-forward=false", "--ip-masq=false"]
        options += [] if snapshotter else ["--storage-driver=vfs"]
        with Daemon("dockerd", world.command("dockerd", *options), directory=place, env=world.env) as daemon:
            base = ["docker", "--host", f"unix://{sock}"]
            own = {"HTTPS_PROXY": "", "HTTP_PROXY": "", "DOCKER_CONFIG": str(place)}

            def answers() -> bool:
                with_env = {**world.env, **own}
                words = world.command(*base, "version")
                return subprocess.run(words, env=with_env, capture_output=True, check=False).returncode == 0

            daemon.wait_ready(answers)

            def push(image: str, name: str) -> None:
                world.run(*base, "tag", image, name, **own)
                world.run(*base, "push", "--quiet", name, **own)

            yield Client(
                lambda image: world.run(*base, "pull", "--quiet", image, **own),
                push,
                lambda image: world.run(*base, "rmi", "--force", image, **own),
            )

    return client


@contextmanager
def crane(world: World) -> Iterator[Client]:
    place = Path(tempfile.mkdtemp(prefix="cr", dir=world.work))
    yield Client(
        lambda image: world.run("crane", "pull", "--format", "oci", image, f"{place}/{abs(hash(image))}"),
        lambda image, name: world.run("crane", "push", f"{place}/{abs(hash(image))}", name),
        lambda image: shutil.rmtree(f"{place}/{abs(hash(image))}"),
    )


@contextmanager
def oras(world: World) -> Iterator[Client]:
    place = Path(tempfile.mkdtemp(prefix="or", dir=world.work))
    yield Client(
        lambda image: world.run("oras", "copy", "--to-oci-layout", image, f"{place}/{abs(hash(image))}:v1"),
        lambda image, name: world.run(
            "oras", "copy", "--from-oci-layout", f"{place}/{abs(hash(image))}:v1", name
        ),
        lambda image: shutil.rmtree(f"{place}/{abs(hash(image))}"),
    )


@contextmanager
def regctl(world: World) -> Iterator[Client]:
    place = Path(tempfile.mkdtemp(prefix="rc", dir=world.work))

    def layout(image: str) -> str:
        return f"ocidir://{place}/{abs(hash(image))}:v1"

    yield Client(
        lambda image: world.run("regctl", "image", "copy", image, layout(image)),
        lambda image, name: world.run("regctl", "image", "copy", layout(image), name),
        lambda image: shutil.rmtree(f"{place}/{abs(hash(image))}"),
    )


CLIENTS: Final[dict[str, Make]] = {
    "skopeo": skopeo,
    "podman": of_containers("podman"),
    "buildah": of_containers("buildah"),
    "containerd": containerd,
    "docker": docker(False),
    "docker, containerd's store": docker(True),
    "crane": crane,
    "oras": oras,
    "regctl": regctl,
}
MIRRORED: Final = ("containerd",)


def tagged(registry: Registry, repository: str) -> str:
    """Return the digest that the registry itself has under a tag, "" if there is none."""
    link = (
        registry.storage / "docker/registry/v2/repositories" / repository / "_manifests/tags/v1/current/link"
    )
    return link.read_text() if link.exists() else ""


def steps(world: World, client: Client, image: Image, newer: Image) -> Iterator[tuple[str, str]]:
    """Do all that is tried, and yield each step with "ok" or what went wrong."""
    registry = world.registry
    source = world.image("lib/app")
    registry.push("lib/app", "v1", image)

    def tried(
        step: str, do: Callable[[], object], check: Callable[[], bool] = lambda: True
    ) -> tuple[str, str]:
        try:
            do()
        except (Failed, subprocess.TimeoutExpired) as error:
            return step, str(error)
        return step, "ok" if check() else "not what it should be"

    yield tried("pull, cold", lambda: client.pull(source))
    client.forget(source)
    before = registry.counted("GET", "/blobs/")
    yield tried(
        "pull, warm", lambda: client.pull(source), lambda: registry.counted("GET", "/blobs/") == before
    )
    other = world.image("lib/other")
    yield tried(
        "push what is cached to another repository",
        lambda: client.push(source, other),
        lambda: bool(tagged(registry, "lib/other")),
    )
    pushed = tagged(registry, "lib/other")
    registry.push("lib/other", "v1", newer)
    yield tried(
        "push the old image over a tag that has moved",
        lambda: client.push(source, other),
        lambda: tagged(registry, "lib/other") == pushed,
    )
    yield tried("pull what was pushed", lambda: client.pull(other))


def rooted(place: Path) -> Path:
    """Return the root directory, made once."""
    place = debian_root.make(place, "sid", PACKAGES)
    if not (place / "usr/bin/regctl").exists():
        with tempfile.TemporaryDirectory() as work:
            env = os.environ | {"GOBIN": work, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
            subprocess.run(["go", "install", REGCTL], check=True, env=env, timeout=INSTALL_SECONDS)
            shutil.copy(f"{work}/regctl", place / "usr/bin/regctl")
    # dockerd looks up each registry's name, as it may be a loopback address. Nobody is to be asked.
    names = place / "etc/resolv.conf"
    names.unlink(missing_ok=True)
    names.write_text("nameserver 127.0.0.1\n")
    return place


def run(name: str, root: Path, mirrors: bool) -> list[tuple[str, str]]:
    """Try one client by one way, with a registry and a proxy of its own."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="new-clients-")))
        trust = Trust(work / "trust")
        registry = stack.enter_context(Registry(work / "registry", trust))
        proxy = stack.enter_context(
            Proxy(
                work / "proxy",
                {"ALLOW_PUSH": "true", "ENABLE_MANIFEST_CACHE": "true"},
                registries=(registry.authority,),
                resolve=registry.resolve,
                ca=trust.path,
            )
        )
        env = client_env(work / "home", proxy=proxy.url, ca=proxy.ca_path)
        env |= {"_CONTAINERS_ROOTLESS_UID": "", "LC_ALL": "C"}
        world = World(root, work, proxy, registry, env, mirrors)
        client: Client = stack.enter_context(CLIENTS[name](world))
        image, newer = make_image(size=3_000_000, seed=1), make_image(seed=2)
        return list(steps(world, client, image, newer))


def main() -> int:
    """Try all clients; 1: something did not work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(".local/sid"))
    parser.add_argument("--only", help="the name of one client")
    options = parser.parse_args()
    if lacking := debian_root.lacking():
        print(lacking, file=sys.stderr)
        return 2
    root, failed = rooted(options.root), 0
    for name in CLIENTS:
        for mirrors in (False, True):
            if (mirrors and name not in MIRRORED) or options.only not in (None, name):
                continue
            for step, outcome in run(name, root, mirrors):
                failed += outcome != "ok"
                print(f"{name}, {'mirror' if mirrors else 'CONNECT'}: {step}: {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
