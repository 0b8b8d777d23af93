"""The audit log of the real program: one line for each pull or push, by whatever way, over all workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import INDEX, MANIFEST, Image, Index, make_index, write_layout
from tests.support.origin import Answer, Origin
from tests.support.process_tree import janitors
from tests.support.processes import free_address, wait_until
from tests.support.proxy import Proxy, said
from tests.support.real_clients import Skopeo
from tests.support.trust import Trust
from tests.support.two_workers import Pair

StartProxy = Callable[..., Proxy]

ACCEPT = [("Accept", f"{MANIFEST}, {INDEX}")]
CACHED = {"ENABLE_MANIFEST_CACHE": "true"}

pytestmark = [
    pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
    for program in ("skopeo", "docker-registry")
]


@pytest.fixture(scope="module")
def index() -> Index:
    return make_index(size=20_000)


@pytest.fixture(scope="module")
def registry(trust: Trust, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """It has `image` as lib/app:v1; what a test pushes goes to a repository of its own."""
    with Registry(tmp_path_factory.mktemp("registry"), trust) as registry:
        registry.push("lib/app", "v1", image)
        yield registry


@pytest.fixture
def start(start_proxy: StartProxy, tmp_path: Path) -> Callable[..., Proxy]:
    """Start a proxy with an audit log whose pulls end soon."""

    def started(*before: Any, **env: str | None) -> Proxy:
        settings = CACHED | {"REGPROXY_AUDIT_LOG": str(tmp_path / "audit"), "REGPROXY_AUDIT_IDLE": "1s"}
        return start_proxy(*before, **settings | env)

    return started


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Wait until the log has some lines, and return them."""

    def read(count: int, name: str = "audit") -> list[dict[str, Any]]:
        path = tmp_path / name

        def there() -> tuple[list[dict[str, Any]]] | None:
            text = path.read_text() if path.exists() else ""
            found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            return (found,) if len(found) >= count else None

        return wait_until(there, f"{count} lines in {path}")[0]

    return read


Lines = Callable[..., list[dict[str, Any]]]


def skopeo(tmp_path: Path, proxy: Proxy) -> Skopeo:
    return Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=proxy.ca_path)


def sizes(image: Image, *manifests: bytes) -> int:
    return sum(map(len, image.blobs.values())) + sum(map(len, manifests)) + len(image.manifest)


def of(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line[name] for name in names)


def test_a_real_pull_from_the_registry_and_from_the_cache(
    registry: Registry, start: StartProxy, index: Index, lines: Lines, tmp_path: Path
) -> None:
    registry.push("lib/index", "v1", index)
    proxy = start(registry)
    client = skopeo(tmp_path, proxy)
    chosen = index.images[0]
    for number, source in enumerate(["registry", "hit"], 1):
        client.copy(f"{registry.authority}/lib/index:v1")
        line = lines(number)[-1]
        size = sizes(chosen, index.manifest)
        assert line["seconds"] >= 0
        assert {
            name: value for name, value in line.items() if name not in ("time", "seconds", "requests")
        } == {
            "action": "pull",
            "principal": "",
            "proven_by": "anonymous",
            "client": "127.0.0.1",
            "way": "connect",
            "registry": registry.authority,
            "repository": "lib/index",
            "reference": "v1",
            "digest": index.digest,
            "manifest": chosen.digest,
            "platform": "linux/amd64",
            "from": source,
            "decision": "",
            "rule": "",
            "ended_by": "complete",
            "status": 200,
            "blobs": len(chosen.blobs),
            "bytes": size,
            "bytes_cached": size if source == "hit" else 0,
            "bytes_received": 0,
        }
        proxy.wait_kept(index.digest)


def test_a_pull_over_two_workers_is_one_line(
    registry: Registry, start: StartProxy, image: Image, lines: Lines, stack: ExitStack
) -> None:
    pair = Pair(start(registry, REGPROXY_WORKERS="2"), registry.authority)
    one, two = (stack.enter_context(pair.client(pid)) for pid in pair.pids())
    assert one.get("/v2/lib/app/manifests/v1", ACCEPT).digest == image.digest
    for client, digest in zip([two, one] * len(image.blobs), image.blobs, strict=False):
        assert client.get(f"/v2/lib/app/blobs/{digest}").digest == digest
    (line,) = lines(1)
    want = ("complete", len(image.blobs), sizes(image), len(image.blobs) + 1)
    assert of(line, "ended_by", "blobs", "bytes", "requests") == want


def test_a_pull_goes_on_over_a_reload(
    registry: Registry, start: StartProxy, image: Image, lines: Lines, tmp_path: Path
) -> None:
    proxy = start(registry, REGPROXY_AUDIT_IDLE="60s")
    with proxy.client(registry.authority) as client:
        assert client.get("/v2/lib/app/manifests/v1", ACCEPT).digest == image.digest
        (tmp_path / "audit").rename(tmp_path / "audit.1")
        proxy.signal(signal.SIGHUP)
        done = "the new configuration is in use"
        wait_until(lambda: done in proxy.log(), f"{done}\n{proxy.log()}")
    for digest in image.blobs:
        # A worker that is being replaced answers one request of a connection more.
        with proxy.client(registry.authority) as client:
            assert client.get(f"/v2/lib/app/blobs/{digest}").digest == digest
    (line,) = lines(1)  # in the file of this name, as it is opened anew
    assert of(line, "reference", "blobs", "ended_by") == ("v1", len(image.blobs), "complete")


def test_what_is_open_at_the_end_is_written(
    registry: Registry, start: StartProxy, image: Image, lines: Lines
) -> None:
    proxy = start(registry, REGPROXY_AUDIT_IDLE="1h")
    with proxy.client(registry.authority) as client:
        client.get("/v2/lib/app/manifests/v1", ACCEPT)
    assert proxy.stop() == 0
    (line,) = lines(1)
    assert of(line, "digest", "ended_by") == (image.digest, "end")


@pytest.mark.parametrize("source", ["registry", "hit"])
def test_a_pull_of_a_client_whom_dns_sends_here(
    source: str,
    registry: Registry,
    start: StartProxy,
    image: Image,
    lines: Lines,
    tmp_path: Path,
    stack: ExitStack,
) -> None:
    host, port = free_address()
    toml = tmp_path / "regproxy.toml"
    # Nothing of the test's may listen on port 443, which is what the registry is asked at.
    toml.write_text(f'[origin."{registry.name}:443"]\nport = {registry.port}\n')
    env = {"REGPROXY_TRANSPARENT_LISTEN": f"{host}:{port}", "REGPROXY_CONFIG": str(toml)}
    proxy = start(registry, registries=(registry.name,), **env)

    def pull() -> None:
        with Client.connect((host, port), authority=registry.name) as client:
            client.start_tls(registry.name, proxy.ca_pem)
            assert client.get("/v2/lib/app/manifests/v1", ACCEPT).digest == image.digest
            for digest in image.blobs:
                assert client.get(f"/v2/lib/app/blobs/{digest}").digest == digest

    if source == "hit":
        pull()
        proxy.wait_kept(image.digest, *image.blobs)
    pull()
    line = lines(2 if source == "hit" else 1)[-1]
    want = ("transparent", registry.name, "lib/app", "v1", image.digest, source, 200, "complete")
    names = ("way", "registry", "repository", "reference", "digest", "from", "status", "ended_by")
    assert of(line, *names) == want
    assert of(line, "blobs", "bytes", "client", "proven_by") == (
        *(len(image.blobs), sizes(image)),
        *("127.0.0.1", "anonymous"),
    )


STALE = {
    # Its time is over, and the registry can't be asked; or it is asked behind the answer.
    "trouble": {"MANIFEST_CACHE_DEFAULT_TIME": "1ms"},
    "swr": {"MANIFEST_CACHE_DEFAULT_TIME": "1ms", "REGPROXY_SWR_DEFAULT": "1d"},
}


@pytest.mark.parametrize("way", ["connect", "mirror"])
@pytest.mark.parametrize("why", STALE)
def test_a_stale_answer(
    why: str, way: str, registry: Registry, start: StartProxy, image: Image, lines: Lines, stack: ExitStack
) -> None:
    """The line says so, though the blobs are as good as ever."""
    proxy = start(registry, **STALE[why])
    there = f"?ns={registry.authority.replace(':', '%3A')}" if way == "mirror" else ""

    def pull() -> str | None:
        with Client.connect(proxy.address) if there else proxy.client(registry.authority) as client:
            reply = client.get(f"/v2/lib/app/manifests/v1{there}", ACCEPT)
            assert reply.digest == image.digest
            for digest in image.blobs:
                assert client.get(f"/v2/lib/app/blobs/{digest}{there}").digest == digest
            return said(reply)[0]

    assert pull() == "MISS"
    lines(1)
    proxy.wait_kept(image.digest, *image.blobs)
    if why == "trouble":
        registry.stop()
        stack.callback(registry.start)
    assert pull() == "STALE"
    line = lines(2)[-1]
    want = ("stale", way, "v1", image.digest, 200, "complete", len(image.blobs))
    assert of(line, "from", "way", "reference", "digest", "status", "ended_by", "blobs") == want
    assert line["bytes"] == line["bytes_cached"] == sizes(image)


def test_a_push_is_a_line(
    registry: Registry, start: StartProxy, index: Index, lines: Lines, tmp_path: Path
) -> None:
    proxy = start(registry, ALLOW_PUSH="true")
    layout = write_layout(tmp_path / "layout", {"v1": index})
    skopeo(tmp_path, proxy).push(layout, "v1", f"{registry.authority}/lib/pushed:v1")
    (line,) = lines(1)
    want = ("push", "lib/pushed", "v1", index.digest, 201, "complete")
    assert of(line, "action", "repository", "reference", "digest", "status", "ended_by") == want
    bodies = sum(map(len, index.blobs.values())) + sum(len(image.manifest) for image in index.images)
    assert bodies + len(index.manifest) <= line["bytes_received"] <= bodies + len(index.manifest) + 1000


# (path, reference, status, 0 for any)
ODD = [
    ("/v2/lib/app/manifests/none", "none", 404),
    ("/v2/lib/none/manifests/v1", "v1", 404),
    (f"/v2/lib/app/manifests/sha512:{'0' * 128}", f"sha512:{'0' * 128}", 404),
    ("/v2/lib%2Fapp/manifests/v1", "v1", 0),
    ("/v2/lib/app/%256danifests/v1", "v1", 0),
    ("/v2/lib/app/Manifests/v1", "v1", 0),
    ("/v2/lib/app/Manifests/token", "token", 0),
    ("/v2/lib/app/manifests/v1%0A", "v1\n", 0),
    (f"/v2/lib/app/blobs/sha256:{'0' * 64}", "", 404),
]


def test_refusals_and_odd_requests_are_lines(registry: Registry, start: StartProxy, lines: Lines) -> None:
    proxy = start(registry)
    for count, (path, reference, status) in enumerate(ODD, 1):
        with proxy.client(registry.authority) as client:
            answered = client.get(path, ACCEPT).status
        *_, line = lines(count)
        assert of(line, "reference", "status") == (reference, status or answered), path
        assert line["repository"] in ("lib/app", "lib/none")


@pytest.mark.parametrize("piece", ["/", "%2F", "/blobs"])
def test_long_odd_paths_hold_nobody_up(
    registry: Registry, start: StartProxy, lines: Lines, piece: str
) -> None:
    """They are read in a time that grows with their length, and no faster than that."""
    proxy = start(registry, REGPROXY_WORKERS="1")
    with proxy.client(registry.authority) as client:
        assert client.get("/v2" + piece * (30_000 // len(piece)), ACCEPT).status != 200
    with proxy.client(registry.authority) as client:
        assert client.get("/v2/lib/app/manifests/v1", ACCEPT).status == 200
    # The odd path may have a line of its own, ahead of this one.
    wait_until(lambda: "v1" in [line["reference"] for line in lines(1)], "the pull is a line")


@pytest.mark.parametrize("hangs", [False, True], ids=["no path", "a pipe"])
def test_no_reference_ends_the_log(
    start_origin: Callable[..., Origin],
    start: StartProxy,
    image: Image,
    lines: Lines,
    tmp_path: Path,
    hangs: bool,
) -> None:
    """The log looks into the cache for what an image has: never by a name that a client has made up."""
    os.mkfifo(pipe := tmp_path / "pipe")
    odd = quote("../" * 12 + str(pipe)[1:], safe="") if hangs else "%00"
    origin = start_origin("reg.test")
    origin.publish("lib/app", image, "v1")
    origin.on(f"/v2/lib/app/manifests/sha256:{odd}", Answer(b"{}"))
    proxy = start(origin)
    with proxy.client(origin.authority) as client:
        client.request("HEAD", "/v2/lib/app/manifests/v1", ACCEPT)
        assert client.get(f"/v2/lib/app/manifests/sha256:{odd}", ACCEPT).status == 200
        lines(1)
        client.get("/v2/lib/app/manifests/v1", ACCEPT)
    assert [line["reference"] for line in lines(2)] == ["v1", "v1"]


def test_what_is_no_pull_is_no_line(
    registry: Registry, start: StartProxy, image: Image, lines: Lines, tmp_path: Path
) -> None:
    proxy = start(registry)
    with proxy.client(registry.authority) as client:
        for path in ("/v2/", "/v2/lib/app/tags/list", "/v2/_catalog", "/token"):
            client.get(path)
        client.request("HEAD", f"/v2/lib/app/blobs/{image.layers[0]}")
        client.request("DELETE", "/v2/lib/app/manifests/v1")
        client.get("/v2/lib/app/manifests/v1", ACCEPT)
    assert proxy.stop() == 0
    assert [line["reference"] for line in lines(1)] == ["v1"]


def test_secrets_are_in_no_line(registry: Registry, start: StartProxy, lines: Lines, tmp_path: Path) -> None:
    proxy = start(registry)
    with proxy.client(registry.authority) as client:
        headers = [*ACCEPT, ("Authorization", "Basic c2VjcmV0OnNlY3JldA==")]
        client.get("/v2/lib/app/manifests/v1?key=c2VjcmV0", headers)
    lines(1)
    assert "c2VjcmV0" not in (tmp_path / "audit").read_text()


def test_other_users_cannot_read_it(start: StartProxy, registry: Registry, tmp_path: Path) -> None:
    start(registry)
    assert (tmp_path / "audit").stat().st_mode & 0o007 == 0


def test_standard_output(registry: Registry, start: StartProxy) -> None:
    proxy = start(registry, REGPROXY_AUDIT_LOG="-")
    with proxy.client(registry.authority) as client:
        client.get("/v2/lib/app/manifests/v1", ACCEPT)
    wait_until(lambda: '"action":"pull"' in proxy.log(), "a line on standard output")


def test_a_log_that_is_not_read_holds_nobody_up(
    registry: Registry, start: StartProxy, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    proxy = start(registry, REGPROXY_AUDIT_LOG=str(tmp_path / "fifo"))
    try:
        with proxy.client(registry.authority) as client:
            for _ in range(1000):
                assert client.get("/v2/lib/app/manifests/v1", ACCEPT).status == 200
        assert proxy.stop() == 0  # what waits is given up
        assert 0 < len(os.read(reader, 1 << 20)) <= 65_536
    finally:
        os.close(reader)


def test_a_log_that_cannot_be_written_ends_the_start(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path / "refused", {"REGPROXY_AUDIT_LOG": "/nowhere/audit"}, ready=False)
    assert proxy.daemon.wait(20) == 2
    assert "REGPROXY_AUDIT_LOG" in proxy.log()
    assert "No such file or directory; a path in a directory that exists, - or off" in proxy.log()


@pytest.mark.parametrize("path", ["/v2/lib/app/manifests/v1", "/v2/lib/app/manifests/none"])
def test_a_killed_janitor_costs_no_later_line(
    registry: Registry, start: StartProxy, lines: Lines, path: str
) -> None:
    proxy = start(registry)
    (janitor,) = janitors(proxy, 1)
    os.kill(janitor, signal.SIGKILL)
    with proxy.client(registry.authority) as client:
        client.get(path, ACCEPT)
    (line,) = lines(1)
    assert line["repository"] == "lib/app"
