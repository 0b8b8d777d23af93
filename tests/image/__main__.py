"""Build the images and try them: `make test-image`, as root, 15 minutes the first time.

python -m tests.image [--built] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.image import building
from tests.image.container import USER, Container, volume
from tests.support import ROOT, debian_root
from tests.support.client import open_tunnel
from tests.support.docker_registry import Registry
from tests.support.images import digest_of, make_image
from tests.support.origin import Origin, blob_answer
from tests.support.processes import free_address
from tests.support.real_clients import Skopeo
from tests.support.trust import Trust

IMAGE: Final = "localhost/regproxy:test"
DEBUG_IMAGE: Final = "localhost/regproxy:test-debug"
PROGRAMS: Final = ("buildah", "podman", "crun", "skopeo", "docker-registry")


class Bench:
    """What every check has: a directory, certificates, and addresses that nobody has."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.trust = Trust(directory / "trust")
        self._count = 0

    def place(self) -> Path:
        """Return a new directory."""
        self._count += 1
        place = self._directory / str(self._count)
        place.mkdir()
        return place

    def volumes(self, owner: int = USER) -> dict[str, Path]:
        """Return two new volumes, and the upstream CA's file."""
        place = self.place()
        place.chmod(0o755)
        ca = place / "upstream.pem"
        shutil.copy(self.trust.path, ca)
        ca.chmod(0o644)
        names = {"/docker_mirror_cache": "cache", "/ca": "ca"}
        return {to: volume(place / name, owner) for to, name in names.items()} | {"/upstream.pem:ro": ca}


class Ports:
    """Where a proxy listens, and the environment that says so."""

    def __init__(self, admin_host: str = "") -> None:
        self.clients = free_address()
        host, port = free_address(self.clients[0])
        self.admin = (admin_host or host, port)

    def environment(self, *origins: Origin | Registry) -> dict[str, str]:
        """Return it; the proxy then knows where these registries are, and trusts them."""
        names = {name: address for origin in origins for name, address in origin.resolve.items()}
        return {
            "REGPROXY_LISTEN": "{}:{}".format(*self.clients),
            "REGPROXY_ADMIN_LISTEN": "{}:{}".format(*self.admin),
            "REGISTRIES": " ".join(origin.authority for origin in origins),
            "REGPROXY_RESOLVE": " ".join(f"{name}={address}" for name, address in names.items()),
            "REGPROXY_ALLOW_TARGETS": " ".join(names),
            "REGPROXY_UPSTREAM_CA_FILE": "/upstream.pem",
        }


def check_labels(bench: Bench) -> None:
    """OCI's annotations, the user, the volumes; the version is the package's."""
    config = building.configuration(IMAGE)
    labels = config["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.description"] == project["description"]
    assert config["User"] == "regproxy"
    assert set(config["Volumes"]) == {"/docker_mirror_cache", "/ca"}
    assert config["Healthcheck"]["Test"] == ["CMD", "regproxy", "healthcheck"]


def check_contents(bench: Bench) -> None:
    """The SBOM has every package that there is; there are neither tests, nor pip, nor symbols."""
    with Container(IMAGE, {}, {}, "-c", INVENTORY, entry="python3") as container:
        code, printed = container.ended()
    assert code == 0, printed
    found = json.loads(printed)
    bom = found["sbom"]
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(each["purl"].partition("/")[0], each["name"], each["version"]) for each in bom["components"]}
    listed.add(("pkg:pypi", "regproxy", bom["metadata"]["component"]["version"]))
    have = {("pkg:deb", name, version) for name, version in found["debian"]}
    have |= {("pkg:pypi", name, version) for name, version in found["python"]}
    assert listed == have, listed ^ have
    assert len(found["python"]) > 15
    assert "pip" not in {name for name, _ in found["python"]}
    assert found["superfluous"] == []


INVENTORY: Final = """
import json, subprocess
from importlib import metadata
from pathlib import Path
site = next(Path("/opt/regproxy/lib").glob("python3*")) / "site-packages"
query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\\n"]
query = subprocess.run(query, capture_output=True, text=True)
every = list(site.rglob("*"))
superfluous = [str(path) for path in every if path.name in ("tests", "pip") or path.suffix in (".c", ".pyx")]
superfluous += [str(path) for path in every if path.suffix == ".so" and b".symtab" in path.read_bytes()]
for name in ("lib/apt/lists", "cache/apt", "log"):
    superfluous += [str(path) for path in Path("/var", name).rglob("*")]
print(json.dumps({
    "sbom": json.loads(Path("/usr/share/sbom/regproxy.cdx.json").read_text()),
    "debian": [line.split() for line in query.stdout.splitlines()],
    "python": [[each.metadata["Name"], each.version] for each in metadata.distributions(path=[str(site)])],
    "superfluous": superfluous,
}))
"""


def check_pull(bench: Bench) -> None:
    """skopeo pulls twice through it from docker-registry; only the first time the registry sends blobs."""
    ports, image = Ports(), make_image(seed=97)
    with Registry(bench.place(), bench.trust) as registry:
        target = registry.push("app", "1", image)
        volumes = bench.volumes()
        with Container(IMAGE, volumes, ports.environment(registry)) as container:
            container.wait_ready(ports.admin)
            print(f"    ready {time.monotonic() - container.started:.1f} s after podman was called")
            proxy = "http://{}:{}".format(*ports.clients)
            for _ in range(2):
                skopeo = Skopeo(bench.place(), proxy=proxy, ca=volumes["/ca"] / "ca.crt")
                assert skopeo.copy(target).digest == image.digest
            assert registry.counted("GET", "/blobs/") == len(image.blobs)
            code, status = container.execute("regproxy", "cache", "status")
            assert (code, "blobs       4" in status) == (0, True), status
            container.stop()
            assert container.ended()[0] == 0


def check_health(bench: Bench) -> None:
    """The image's HEALTHCHECK follows the admin port wherever it is; it says so when the proxy drains."""
    test = building.configuration(IMAGE)["Healthcheck"]["Test"][1:]
    for host in ("", "0.0.0.0", "::1", "::", "none"):
        ports = Ports()
        port = ports.admin[1]
        written = {
            "": "{}:{}".format(*ports.admin),
            "none": f":{port}",
            "::1": f"[::1]:{port}",
            "::": f"[::]:{port}",
        }
        env = ports.environment() | {"REGPROXY_ADMIN_LISTEN": written.get(host, f"{host}:{port}")}
        asked = {"": ports.admin[0], "::1": "::1"}.get(host, "127.0.0.1")
        with Container(IMAGE, bench.volumes(), env) as container:
            container.wait_ready((asked, port))
            assert container.execute(*test) == (0, "")
            code, said = container.execute("env", "REGPROXY_ADMIN_LISTEN=127.0.0.1:9", *test)
            assert (code, "Connection refused" in said) == (1, True), said
            container.stop()


def check_stop(bench: Bench) -> None:
    """With a download that does not end, all has ended before Docker kills; it is unhealthy meanwhile."""
    ports, hold = Ports(), threading.Event()
    body = b"x" * 300_000
    path = f"/v2/app/blobs/{digest_of(body)}"
    with ExitStack() as stack:
        origin = stack.enter_context(Origin(bench.trust, "reg.test"))
        stack.callback(hold.set)
        origin.on(path, blob_answer(digest_of(body), body, hold_at=200_000, hold=hold))
        volumes = bench.volumes()
        container = stack.enter_context(Container(IMAGE, volumes, ports.environment(origin)))
        container.wait_ready(ports.admin)
        pem = (volumes["/ca"] / "ca.crt").read_bytes()
        client = stack.enter_context(open_tunnel(ports.clients, origin.authority, pem))
        client.ask("GET", path)
        assert client.read_head().status == 200
        began = time.monotonic()
        container.signal("TERM")  # in a container that it stops itself podman executes nothing any more
        code, said = container.execute("regproxy", "healthcheck")
        assert code == 1, said
        code, printed = container.ended()
        took = time.monotonic() - began
        assert (code, f"fill of {digest_of(body)}" in printed) == (1, True), printed
        print(f"    {took:.1f} s from SIGTERM to the end, with a download that does not end")
        assert took < 10


def check_root_s_volumes(bench: Bench) -> None:
    """Those of docker-registry-proxy may be root's: the error says whose they have to be."""
    with Container(IMAGE, bench.volumes(owner=0), Ports().environment()) as container:
        code, printed = container.ended()
    assert code == 2, printed
    assert "REGPROXY_CACHE_DIR: /docker_mirror_cache is not writable by this user (uid 3128)" in printed


def check_entrypoint(bench: Bench) -> None:
    """docker-registry-proxy's way to start it, and its environment."""
    ports = Ports()
    env = ports.environment() | {
        "ENABLE_MANIFEST_CACHE": "true",
        "CACHE_MAX_SIZE": "1g",
        "AUTH_REGISTRIES": "auth.docker.io:user:password",
        "PROXY_REQUEST_BUFFERING": "false",
        "VERIFY_SSL": "true",
    }
    with Container(IMAGE, bench.volumes(), env, entry="/entrypoint.sh") as container:
        container.wait_ready(ports.admin)
        container.stop()
        assert container.ended()[0] == 0


def check_debug(bench: Bench) -> None:
    """DEBUG=true and DEBUG_HUB=true: a pull through mitmweb. In the plain image they end the start."""
    with Container(IMAGE, bench.volumes(), Ports().environment() | {"DEBUG": "true"}) as container:
        code, printed = container.ended()
    assert (code, "DEBUG='true': mitmproxy" in printed) == (2, True), printed
    ports, image = Ports(), make_image(seed=98)
    pages = {"REGPROXY_DEBUG_LISTEN": free_address(), "REGPROXY_DEBUG_HUB_LISTEN": free_address()}
    with Registry(bench.place(), bench.trust) as registry:
        target = registry.push("app", "1", image)
        volumes = bench.volumes()
        env = ports.environment(registry) | {name: "{}:{}".format(*each) for name, each in pages.items()}
        debug = {"DEBUG": "true", "DEBUG_HUB": "true"}
        with Container(DEBUG_IMAGE, volumes, env | debug) as container:
            container.wait_ready(ports.admin)
            proxy = "http://{}:{}".format(*ports.clients)
            code, log = container.execute("python3", "-c", WAITS.format(ports.clients, *pages.values()))
            assert code == 0, log
            skopeo = Skopeo(bench.place(), proxy=proxy, ca=volumes["/ca"] / "ca.crt")
            assert skopeo.copy(target).digest == image.digest
            shown = container.execute("python3", "-c", FLOWS.format(*pages["REGPROXY_DEBUG_LISTEN"]))[1]
            assert "/v2/app/manifests/1" in shown, shown
            container.stop()
            code, printed = container.ended()
            assert code == 0, printed


WAITS: Final = """
import socket, time
for address in ({}, {}, {}):
    for _ in range(300):
        try:
            socket.create_connection(address).close()
            break
        except OSError:
            time.sleep(0.2)
    else:
        raise SystemExit(f"nobody at {{address}}")
"""
FLOWS: Final = """
import urllib.request
password = open("/docker_mirror_cache/state/debug.password").read().strip()
request = urllib.request.Request("http://{}:{}/flows", headers={{"Authorization": "Bearer " + password}})
print(urllib.request.urlopen(request).read().decode())
"""


def check_size(bench: Bench) -> None:
    """Print what the images take."""
    for name in (building.BASE, IMAGE, DEBUG_IMAGE):
        size = int(
            json.loads(building.buildah("images", "--json", name))[0].get("sizeBytes", 0) or unpacked(name)
        )
        print(
            f"    {name}: {size / 1e6:.0f} MB unpacked, {building.compressed(name) / 1e6:.0f} MB compressed"
        )


def unpacked(name: str) -> int:
    """Return the bytes of an image's files."""
    container = building.buildah("from", "--pull-never", name)
    try:
        root = Path(building.buildah("mount", container))
        return sum(path.lstat().st_size for path in root.rglob("*"))
    finally:
        building.buildah("rm", container)


CHECKS: Final[tuple[Callable[[Bench], None], ...]] = (
    *(check_labels, check_contents, check_size, check_pull, check_health),
    *(check_stop, check_root_s_volumes, check_entrypoint, check_debug),
)


def main() -> int:
    """Return 0 where all is as it should; the first check that fails raises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="checks whose name has this")
    parser.add_argument("--built", action="store_true", help="try the images that were built before")
    options = parser.parse_args()
    missing = debian_root.lacking() or next(
        (f"needs {name}: apt-get install {name}" for name in PROGRAMS if shutil.which(name) is None), ""
    )
    if missing:
        print(f"make test-image {missing}")
        return 1
    if not options.built:
        building.make_base()
        for target, name in (("regproxy", IMAGE), ("debug", DEBUG_IMAGE)):
            building.build(target, name)
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        Path(directory).chmod(0o755)
        bench = Bench(Path(directory))
        for check in CHECKS:
            if options.only in check.__name__:
                print(f"{check.__name__}: {check.__doc__}", flush=True)
                check(bench)
    print("all checks passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
