"""Real clients by each way in that they have: pulls, pushes, rollbacks, deletions (docs/clients.md).

Nobody but the proxy knows the registry's name, and nothing goes by another way: where clients use the proxy
as a mirror, HTTPS_PROXY is an address where nobody listens.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import INDEX, MANIFEST, Image, make_image, write_layout
from tests.support.proxy import Proxy
from tests.support.real_clients import (
    Buildah,
    Containerd,
    Docker,
    Failed,
    Podman,
    Skopeo,
    Store,
    client_env,
    run,
)
from tests.support.trust import Trust

HUB = "registry-1.docker.io"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT = [("Accept", f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}")]
PUSHES = {"ALLOW_PUSH": "true", "ENABLE_MANIFEST_CACHE": "true"}
PROGRAMS = {
    "skopeo": ("skopeo",),
    "podman": ("podman",),
    "buildah": ("buildah",),
    "ctr": ("containerd", "ctr"),
    "docker": ("dockerd", "/usr/bin/docker"),
}


@dataclass(frozen=True, slots=True)
class World:
    """A registry that `image()` names are of, behind a proxy. `name`: what clients call the registry."""

    place: Path
    registry: Registry
    proxy: Proxy
    name: str

    def image(self, repository: str) -> str:
        return f"{self.name}/{repository}:v1"


class SkopeoStore:
    """skopeo, with `dir:` as its store."""

    def __init__(self, place: Path, *, proxy: str, ca: Path | None, tls: bool | None = True) -> None:
        self._place = place
        self.env = client_env(place / "home", proxy=proxy, ca=ca) | {"_CONTAINERS_ROOTLESS_UID": "1000"}
        verify = [] if tls is None else [f"tls-verify={'true' if tls else 'false'}"]
        self._command = ["skopeo", "--registries-conf", self.env["CONTAINERS_REGISTRIES_CONF"]]
        self._command += ["--insecure-policy", "copy"]
        self._command += [f"--{end}-{option}" for end in ("src", "dest") for option in verify]

    def pull(self, image: str) -> None:
        run([*self._command, f"docker://{image}", f"dir:{self._of(image)}"], self.env)

    def load(self, archive: Path) -> None:
        with tarfile.open(archive) as files:
            listed = files.extractfile("manifest.json")
            assert listed is not None
            (image,) = json.load(listed)[0]["RepoTags"]
        run([*self._command, f"docker-archive:{archive}", f"dir:{self._of(image)}"], self.env)

    def push(self, image: str, target: str) -> None:
        run([*self._command, f"dir:{self._of(image)}", f"docker://{target}"], self.env)

    def remove(self, image: str) -> None:
        shutil.rmtree(self._of(image))

    def _of(self, image: str) -> Path:
        return self._place / image.replace("/", "_")


Start = Callable[[ExitStack, World], Store]
NOBODY = "http://127.0.0.1:1"
WORDS = ("app", "other", "new")  # a test's repositories


def by_connect(program: str) -> Start:
    """HTTPS_PROXY, and the proxy's CA."""

    def start(stack: ExitStack, world: World) -> Store:
        return by_client(stack, program, world.place, world.proxy.url, world.proxy.ca_path)

    return start


def by_name(program: str) -> Start:
    """The proxy is the registry, by plain HTTP: proxy:port/registry/repository."""

    def start(stack: ExitStack, world: World) -> Store:
        return by_client(stack, program, world.place, NOBODY, None, tls=False)

    return start


def by_registries_conf(program: str) -> Start:
    """registries.conf, with the proxy as a mirror of the registry."""

    def start(stack: ExitStack, world: World) -> Store:
        client = by_client(stack, program, world.place, NOBODY, None, tls=None)
        mirror = f"{world.proxy.address[0]}:{world.proxy.port}/{world.name}"
        Path(client.env["CONTAINERS_REGISTRIES_CONF"]).write_text(
            f'[[registry]]\nlocation = "{world.name}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
        )
        return client

    return start


def by_hosts_toml(folder: str) -> Start:
    """hosts.toml of one registry, or `_default`. containerd 1.6 says `ns` with pulls alone.

    So pushes go by a path with the registry's name, which only a file of its own can have.
    """

    def start(stack: ExitStack, world: World) -> Store:
        place = world.place / "hosts" / (folder or world.name)
        place.mkdir(parents=True)
        text = f'[host."{world.proxy.url}"]\ncapabilities = ["pull", "resolve"]\n'
        if not folder:
            text = f'server = "https://{world.name}"\n{text}'
            text += f'[host."{world.proxy.url}/v2/{world.name}"]\n'
            text += 'capabilities = ["push"]\noverride_path = true\n'
        (place / "hosts.toml").write_text(text)
        directory = world.place / "ctr"
        return stack.enter_context(Containerd(directory, proxy=NOBODY, ca=None, hosts=place.parent))

    return start


def by_path_of_hosts_toml(stack: ExitStack, world: World) -> Store:
    """hosts.toml with the registry's name in the path, for all: `ns` is added to it."""
    place = world.place / "hosts" / world.name
    place.mkdir(parents=True)
    (place / "hosts.toml").write_text(
        f'server = "https://{world.name}"\n[host."{world.proxy.url}/v2/{world.name}"]\n'
        'capabilities = ["pull", "resolve", "push"]\noverride_path = true\n'
    )
    directory = world.place / "ctr"
    return stack.enter_context(Containerd(directory, proxy=NOBODY, ca=None, hosts=place.parent))


def by_registry_mirror(stack: ExitStack, world: World) -> Store:
    """`--registry-mirror`, for Docker Hub."""
    directory = world.place / "docker"
    return stack.enter_context(Docker(directory, proxy=NOBODY, ca=None, mirror=world.proxy.url))


def by_client(
    stack: ExitStack, program: str, place: Path, proxy: str, ca: Path | None, tls: bool | None = True
) -> Store:
    """Start a client that is told of a proxy and of a CA."""
    if program == "skopeo":
        return SkopeoStore(place / "skopeo", proxy=proxy, ca=ca, tls=tls)
    if program == "podman":
        return stack.enter_context(Podman(proxy=proxy, ca=ca, tls=tls))
    if program == "buildah":
        return stack.enter_context(Buildah(proxy=proxy, ca=ca, tls=tls))
    if program == "ctr":
        return stack.enter_context(Containerd(place / "ctr", proxy=proxy, ca=ca, tls=tls is not False))
    return stack.enter_context(Docker(place / "docker", proxy=proxy, ca=ca))


# The client, the way, how it is started, what it calls the registry, whether it pushes by this way.
WAYS: list[tuple[str, str, Start, str, bool]] = [
    *((program, "CONNECT", by_connect(program), "reg.test", True) for program in PROGRAMS),
    *((program, "name in the path", by_name(program), "", True) for program in PROGRAMS),
    *(
        (program, "registries.conf", by_registries_conf(program), "reg.test", False)
        for program in ("skopeo", "podman", "buildah")
    ),
    ("ctr", "hosts.toml", by_hosts_toml(""), "reg.test", True),
    ("ctr", "hosts.toml, override_path", by_path_of_hosts_toml, "reg.test", True),
    ("ctr", "hosts.toml, _default", by_hosts_toml("_default"), "reg.test", False),
    ("docker", "registry-mirrors", by_registry_mirror, "docker.io", False),
]


@pytest.fixture(scope="module")
def servers(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A registry of each name and its proxy, started once; tests share neither repositories nor content."""
    with ExitStack() as stack:
        place = tmp_path_factory.mktemp("servers")
        yield lru_cache(lambda host: stack.enter_context(serving(place / host, trust, host)))


@contextmanager
def serving(place: Path, trust: Trust, host: str) -> Iterator[tuple[Registry, Proxy]]:
    """A registry that is `host` on the port of HTTPS to the proxy, and the proxy."""
    with Registry(place / "registry", trust, name=host) as registry:
        table = place / "regproxy.toml"
        table.write_text(f'[origin."{host}"]\nport = {registry.port}\n')
        env = {**PUSHES, "REGPROXY_CONFIG": str(table)}
        # Docker Hub is what a client asks for that names no registry: nobody is to look that up.
        resolve = {HUB: "127.0.0.1", **registry.resolve}
        with Proxy(place / "proxy", env, registries=(host,), resolve=resolve, ca=trust.path) as proxy:
            yield registry, proxy


Servers = Callable[[str], tuple[Registry, Proxy]]


class Seen:
    """What the registry itself has, asked without a proxy."""

    def __init__(self, registry: Registry, trust: Trust) -> None:
        self._client = Client.connect(registry.address)
        self._client.start_tls(registry.name, trust.path.read_bytes())

    def config(self, repository: str) -> str:
        """Return the digest of the image's configuration, "" if there is none; all of it has to be there."""
        reply = self._client.get(f"/v2/{repository}/manifests/v1", ACCEPT)
        if reply.status == 404:
            return ""
        body = reply.json()
        if "manifests" in body:
            digest = body["manifests"][0]["digest"]
            body = self._client.get(f"/v2/{repository}/manifests/{digest}", ACCEPT).json()
        for entry in (body["config"], *body["layers"]):
            head = self._client.request("HEAD", f"/v2/{repository}/blobs/{entry['digest']}")
            assert head.status == 200, (repository, entry)
        return str(body["config"]["digest"])

    def digest(self, repository: str) -> str:
        reply = self._client.request("HEAD", f"/v2/{repository}/manifests/v1", ACCEPT)
        return reply.get("docker-content-digest") or ""

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def save(place: Path, image: Image, name: str) -> tuple[Path, str]:
    """Return a file as `docker save` writes it, and the digest of the configuration in it."""
    archive, layout = place / "image.tar", write_layout(place / "layout", {"v1": image})
    skopeo = Skopeo(place / "saver", proxy=NOBODY, ca=None)
    command = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:v1", f"docker-archive:{archive}:{name}"]
    run(command, skopeo.env)
    with tarfile.open(archive) as files:
        listed = files.extractfile("manifest.json")
        assert listed is not None
        config = json.load(listed)[0]["Config"]
    return archive, "sha256:" + config.removesuffix(".json")


@pytest.mark.parametrize(
    "number, program, start, name, pushes",
    [
        pytest.param(number, program, start, name, pushes, id=f"{program} by {way}")
        for number, (program, way, start, name, pushes) in enumerate(WAYS)
    ],
)
def test_matrix(
    number: int,
    program: str,
    start: Start,
    name: str,
    pushes: bool,
    servers: Servers,
    trust: Trust,
    tmp_path: Path,
) -> None:
    skip_without(program)
    host = HUB if name == "docker.io" else "reg.test"
    registry, proxy = servers(host)
    world = World(tmp_path, registry, proxy, name or f"{proxy.address[0]}:{proxy.port}/{host}")
    image, (app, other, new) = make_image(seed=100 + number), (f"own{number}/{word}" for word in WORDS)
    registry.push(app, "v1", image)
    with ExitStack() as stack:
        seen = stack.enter_context(Seen(registry, trust))
        second = Skopeo(tmp_path / "second", proxy=proxy.url, ca=proxy.ca_path)
        client = start(stack, world)
        source = world.image(app)

        # Pull cold, warm, and by a second client, by CONNECT.
        client.pull(source)
        assert registry.counted("GET", f"/{app}/blobs/") == len(image.blobs)
        client.remove(source)
        client.pull(source)
        assert second.copy(f"{host}/{app}:v1").digest == image.digest
        assert registry.counted("GET", f"/{app}/blobs/") == len(image.blobs)
        if not pushes:
            return

        # What the cache holds goes to another repository.
        client.push(source, world.image(other))
        assert seen.config(other) == image.config_digest

        # A new image to a new repository, then over a tag that is cached, and back again.
        archive, config = save(tmp_path, make_image(seed=200 + number), world.image(new))
        client.load(archive)
        client.push(world.image(new), world.image(new))
        assert seen.config(new) == config
        client.push(world.image(new), source)
        assert seen.config(app) == config
        assert second.copy(f"{host}/{app}:v1").digest == seen.digest(app)
        # For some a push by another name has moved that name.
        client.push(world.image(other) if program in ("ctr", "docker") else source, source)
        assert seen.config(app) == image.config_digest

        # Deleted, it is gone.
        with proxy.client(f"{host}:443") as through:
            gone = through.request("DELETE", f"/v2/{new}/manifests/{seen.digest(new)}")
        assert gone.status == 202
        client.remove(world.image(new))
        with pytest.raises(Failed):
            client.pull(world.image(new))


def skip_without(program: str) -> None:
    """Skip the test, and say why, where a program of a client is not here."""
    for needed in ("skopeo", "docker-registry", *PROGRAMS[program]):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    if program in ("ctr", "docker") and os.geteuid() != 0:
        pytest.skip(f"{program} wants its daemon to be root's")
