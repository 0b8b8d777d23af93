"""The parts do what tests believe of them, with no proxy of ours involved."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest

from tests.support.client import open_tunnel
from tests.support.connect_relay import Relay
from tests.support.docker_registry import Registry, blob_cdn
from tests.support.images import Image, digest_of, make_image, make_index, write_layout
from tests.support.origin import Origin
from tests.support.processes import Daemon, accepts, free_address, wait_until
from tests.support.proxy import parse_metrics
from tests.support.real_clients import Failed, Podman, Skopeo
from tests.support.token_server import TokenServer
from tests.support.trust import Trust

StartRegistry = Callable[..., Registry]
StartTokens = Callable[..., TokenServer]

NOT_TRUSTED = "x509: certificate signed by unknown authority"

needs_podman = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")


def test_an_image_names_its_own_bytes() -> None:
    image = make_image(size=100_000, layers=3, seed=3)
    manifest = json.loads(image.manifest)
    assert [layer["digest"] for layer in manifest["layers"]] == list(image.layers)
    assert manifest["config"]["digest"] == image.config_digest
    assert len(image.blobs) == 4
    assert all(digest_of(body) == digest for digest, body in image.blobs.items())
    assert all(len(image.blobs[layer]) > 33_000 for layer in image.layers)
    assert make_image(size=100_000, layers=3, seed=3).digest == image.digest
    assert make_image(size=100_000, layers=3, seed=4).digest != image.digest


def test_an_index_has_two_platforms(tmp_path: Path) -> None:
    index = make_index(size=2_000)
    entries = json.loads(index.manifest)["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
    assert [entry["digest"] for entry in entries] == [image.digest for image in index.images]
    layout = write_layout(tmp_path / "layout", {"v1": index})
    kept = {f"sha256:{path.name}" for path in (layout / "blobs/sha256").iterdir()}
    assert kept == {index.digest, *(image.digest for image in index.images), *index.blobs}


def test_free_addresses_can_be_listened_on() -> None:
    assert not accepts(free_address())
    addresses = {free_address() for _ in range(20)}
    assert len(addresses) == 20


def test_waiting_ends_at_its_deadline() -> None:
    with pytest.raises(TimeoutError, match="the moon"):
        wait_until(lambda: None, "the moon", timeout=0.05)


def test_a_daemon_that_dies_at_birth_says_why(tmp_path: Path) -> None:
    daemon = Daemon("sick", [sys.executable, "-c", "raise SystemExit('no luck')"], directory=tmp_path)
    with daemon, pytest.raises(RuntimeError, match="no luck"):
        daemon.wait_ready(lambda: False)


def test_a_stopped_daemon_leaves_no_child_behind(tmp_path: Path) -> None:
    child = "import time; print(1, flush=True); time.sleep(99)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    daemon = Daemon("parent", [sys.executable, "-c", code], directory=tmp_path)
    daemon.wait_ready(lambda: daemon.out.read_text() == "1\n")
    assert daemon.stop() == -signal.SIGTERM
    wait_until(lambda: not daemon.group_alive(), "the child is gone")


def test_metrics_are_parsed_with_their_labels() -> None:
    text = '# TYPE a counter\na_total{host="x\\"y",code="200"} 3.0\na_total{host="z",code="200"} 4\nb 1e3\n'
    found = parse_metrics(text)
    assert found["a_total"][frozenset({("host", "z"), ("code", "200")})] == 4
    assert found["b"] == {frozenset(): 1000}


@needs_skopeo
@needs_registry
class TestRegistry:
    """docker-registry and skopeo together, through a relay that only knows names."""

    def test_open(self, start_registry: StartRegistry, trust: Trust, tmp_path: Path, image: Image) -> None:
        registry = start_registry()
        target = registry.push("team/app", "v1", image)
        before = len(registry.requests())
        with Relay(registry.resolve) as relay:
            pulled = Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path).copy(target)
            assert relay.connects and set(relay.connects) == {registry.authority}
        assert pulled.manifest == image.manifest
        assert pulled.blobs == {digest: len(body) for digest, body in image.blobs.items()}
        seen = registry.requests()[before:]
        assert [(line.method, line.path, line.status) for line in seen[:2]] == [
            ("GET", "/v2/", 200),
            ("GET", "/v2/team/app/manifests/v1", 200),
        ]
        assert sorted(line.path for line in seen[2:]) == sorted(
            f"/v2/team/app/blobs/{d}" for d in image.blobs
        )
        assert registry.counted("PUT", "/manifests/v1") == 1
        assert {line.sent for line in seen[2:]} == {len(body) for body in image.blobs.values()}

    def test_requests_have_no_marks_and_repeat_nothing(self, start_registry: StartRegistry) -> None:
        registry = start_registry()
        assert registry.requests() == []
        assert registry.requests() == []

    def test_index(self, start_registry: StartRegistry, trust: Trust, tmp_path: Path) -> None:
        registry, index = start_registry(), make_index(size=20_000)
        target = registry.push("multi", "v1", index)
        with Relay(registry.resolve) as relay:
            skopeo = Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path)
            pulled = skopeo.copy(target, every=True)
            assert json.loads(skopeo.inspect(target, raw=True)) == json.loads(index.manifest)
            assert json.loads(skopeo.inspect(target))["Architecture"] == "amd64"
        assert pulled.digest == index.digest
        assert set(pulled.children) == {image.digest for image in index.images}
        assert set(pulled.blobs) == set(index.blobs)

    def test_htpasswd(
        self, start_registry: StartRegistry, trust: Trust, tmp_path: Path, image: Image
    ) -> None:
        registry = start_registry(users={"u": "p"})
        target = registry.push("app", "v1", image)
        with Relay(registry.resolve) as relay:
            skopeo = Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path)
            assert skopeo.copy(target, creds="u:p").digest == image.digest
            with pytest.raises(Failed, match=r"unauthorized|authentication required"):
                skopeo.copy(target)

    def test_tokens(
        self,
        start_registry: StartRegistry,
        start_tokens: StartTokens,
        trust: Trust,
        tmp_path: Path,
        image: Image,
    ) -> None:
        tokens = start_tokens(users={"u": "p"}, private=("secret",))
        registry = start_registry(tokens=tokens)
        with pytest.raises(Failed, match=r"denied|unauthorized"):
            registry.push("app", "v1", image)
        with pytest.raises(Failed, match=r"unauthorized|401"):
            registry.push("app", "v1", image, creds="u:wrong")
        targets = [registry.push(name, "v1", image, creds="u:p") for name in ("app", "secret")]
        with Relay(registry.resolve) as relay:
            skopeo = Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path)
            assert skopeo.copy(targets[0]).digest == image.digest
            assert skopeo.copy(targets[1], creds="u:p").digest == image.digest
            with pytest.raises(Failed, match=r"denied|unauthorized"):
                skopeo.copy(targets[1])
            assert tokens.origin.authority in relay.connects
        assert any("scope=repository%3Aapp%3Apull" in seen.target for seen in tokens.requests)
        assert {seen.server_name for seen in tokens.requests} == {"auth.test"}

    def test_a_cdn_serves_what_the_registry_redirects(
        self, start_registry: StartRegistry, trust: Trust, tmp_path: Path, image: Image
    ) -> None:
        with blob_cdn(trust, tmp_path / "storage") as cdn:
            registry = start_registry(storage=tmp_path / "storage", cdn=cdn, users={"u": "p"})
            target = registry.push("app", "v1", image)
            with Relay(registry.resolve | cdn.resolve) as relay:
                Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path).copy(target, creds="u:p")
            pulls = [seen for seen in cdn.requests if seen.method == "GET"]
            assert len(pulls) == len(image.blobs)
            assert all(seen.get("authorization") is None for seen in pulls)
            assert registry.counted("GET", "/blobs/") == len(image.blobs)
            assert {
                line.status for line in registry.requests() if line.method == "GET" and "/blobs/" in line.path
            } == {307}

    def test_down_and_up_again(self, start_registry: StartRegistry, image: Image) -> None:
        registry = start_registry()
        registry.push("app", "v1", image)
        registry.stop()
        assert not accepts(registry.address)
        registry.start()
        assert registry.counted("PUT", "/manifests/v1") == 1

    def test_without_the_ca_a_pull_fails(
        self, start_registry: StartRegistry, trust: Trust, tmp_path: Path, image: Image
    ) -> None:
        registry = start_registry()
        target = registry.push("app", "v1", image)
        with Relay(registry.resolve) as relay:
            with pytest.raises(Failed, match=NOT_TRUSTED):
                Skopeo(tmp_path / "nobody", proxy=relay.url, ca=None).copy(target)
            other = Trust(tmp_path / "other")
            with pytest.raises(Failed, match=NOT_TRUSTED):
                Skopeo(tmp_path / "other-client", proxy=relay.url, ca=other.path).copy(target)

    def test_a_wrong_byte_does_not_pass(
        self, start_registry: StartRegistry, trust: Trust, tmp_path: Path, image: Image
    ) -> None:
        registry = start_registry()
        target = registry.push("app", "v1", image)
        hexa = image.layers[0].partition(":")[2]
        place = registry.storage / f"docker/registry/v2/blobs/sha256/{hexa[:2]}/{hexa}/data"
        place.write_bytes(b"x" * place.stat().st_size)
        with Relay(registry.resolve) as relay, pytest.raises((Failed, AssertionError)):
            Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path).copy(target)

    @needs_podman
    def test_podman(self, start_registry: StartRegistry, trust: Trust, image: Image) -> None:
        registry = start_registry()
        target = registry.push("app", "v1", image)
        with Relay(registry.resolve) as relay:
            with Podman(proxy=relay.url, ca=trust.path) as podman:
                assert podman.pull(target) == image.config_digest.partition(":")[2]
                assert [entry["Digest"] for entry in podman.images()] == [image.digest]
                podman.remove(target)
                assert podman.images() == []
            with Podman(proxy=relay.url, ca=None) as nobody, pytest.raises(Failed, match=NOT_TRUSTED):
                nobody.pull(target)


def test_a_token_says_what_was_granted(start_tokens: StartTokens, trust: Trust) -> None:
    tokens = start_tokens(users={"u": "p"})
    basic = base64.b64encode(b"u:p").decode()
    target = "/token?service=reg.test&scope=repository:a/b:pull,push"
    with Relay(tokens.origin.resolve) as relay:
        client = open_tunnel(relay.address, tokens.origin.authority, trust.pem)
        with client:
            anonymous, user = client.get(target), client.get(target, {"Authorization": f"Basic {basic}"})
            form = (
                b"grant_type=password&service=reg.test&scope=repository%3Aa%2Fb%3Apull&username=u&password=p"
            )
            posted = client.request("POST", "/token", body=form)
            refused = client.get(target, {"Authorization": "Basic " + base64.b64encode(b"u:q").decode()})
    claims = [
        jwt.decode(reply.json()["access_token"], options={"verify_signature": False})
        for reply in (anonymous, user, posted)
    ]
    assert [claim["access"][0]["actions"] for claim in claims] == [["pull"], ["pull", "push"], ["pull"]]
    assert [claim["sub"] for claim in claims] == ["", "u", "u"]
    assert refused.status == 401


def test_the_relay_refuses_names_it_does_not_know(trust: Trust) -> None:
    with Origin(trust) as origin, Relay({}) as relay, pytest.raises(AssertionError, match="502"):
        open_tunnel(relay.address, origin.authority, trust.pem)


@needs_skopeo
def test_skopeo_keeps_nothing_outside_its_home(tmp_path: Path, trust: Trust, image: Image) -> None:
    """Where skopeo remembers blobs is no business of other runs: nothing is opened for writing elsewhere."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with Origin(trust, "origin.test") as origin, Relay(origin.resolve) as relay:
        origin.publish("app", image, "v1")
        skopeo = Skopeo(tmp_path / "skopeo", proxy=relay.url, ca=trust.path)
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-o", str(trace), "-e", "trace=openat,mkdirat"]
        command += ["skopeo", "--insecure-policy", "copy"]
        target = [f"docker://{origin.authority}/app:v1", f"dir:{tmp_path / 'skopeo' / 'out'}"]
        done = subprocess.run(
            [*command, *target], env=skopeo.env, capture_output=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    written = [line for line in trace.read_text().splitlines() if "O_CREAT" in line and "ENOENT" not in line]
    assert written
    assert [line for line in written if str(tmp_path) not in line and "/dev/" not in line] == []
