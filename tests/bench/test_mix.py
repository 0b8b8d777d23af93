"""Mixes: the file, the model of a roll, and a replay that is what the mix says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.loadgen import Generator, Result
from bench.material import Material
from bench.mix.replay import Server, mirrored, plan_of, plan_text
from bench.mix.requests import Request, parse, read, write
from bench.mix.rollout import Image, Rollout, image_of, make, make_image
from tests.support import ROOT, images
from tests.support.docker_registry import Registry
from tests.support.origin import Origin
from tests.support.proxy import Proxy
from tests.support.trust import Trust

DIGEST = "sha256:" + "ab" * 32
LINE = {"at": 0.5, "client": "n", "method": "GET", "host": "quay.io", "path": f"/v2/a/blobs/{DIGEST}"}


def replayed(requests: list[Request], server: Server, place: Path, *, verify: bool = True) -> Result:
    """Replay a mix; the result even if the machine had no time for the generator, which voids a run."""
    route = server.route()
    if server.mirror:
        requests = mirrored(requests, server.address)
    plan = place / "plan"
    plan.write_text(plan_text(requests))
    return Generator(route, plan_of(plan, route, verify=verify)).result(even_void=True)


# --- the file -----------------------------------------------------------------------------------------------


def test_a_file_is_what_was_written(tmp_path: Path) -> None:
    asked = [
        Request(at=1.5, client="b", method="HEAD", host="quay.io", path="/v2/a/manifests/v1"),
        Request(**LINE, range="bytes=5-9", drop=0, status=206, bytes=5, sha256="cd" * 32),  # type: ignore[arg-type]
    ]
    write(tmp_path / "mix", asked, "of a test")
    assert read(tmp_path / "mix") == sorted(asked, key=lambda request: request.at)
    first = json.loads((tmp_path / "mix").read_text().splitlines()[0])
    assert first == {"mix": 1, "about": "of a test"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"at": -1}, "at is before the beginning: -1"),
        ({"at": "1"}, "at is not a number of seconds: '1'"),
        ({"at": True}, "at is not a number of seconds: True"),
        ({"client": ""}, "client is empty"),
        ({"client": 5}, "client is not a text: 5"),
        ({"method": "POST"}, "method is neither GET nor HEAD: 'POST'"),
        ({"host": "a b"}, "host is not HOST or HOST:PORT: 'a b'"),
        ({"host": "a\r\nX: y"}, "host is not HOST or HOST:PORT"),
        ({"path": "v2/"}, "path does not begin with /"),
        ({"path": "/v2/ HTTP/1.1\r\nX: y"}, "has a blank or control character"),
        ({"range": "bytes=-5"}, "range is neither bytes=A-B nor bytes=A-: 'bytes=-5'"),
        ({"range": "bytes=\u0663-"}, "range is neither bytes=A-B nor bytes=A-"),
        ({"drop": -1}, "drop is not a whole number from 0 on: -1"),
        ({"drop": 1.5}, "drop is not a whole number from 0 on: 1.5"),
        ({"status": "200"}, "status is not a whole number"),
        ({"sha256": "AB"}, "sha256 is not 64 hexadecimal digits: 'AB'"),
        ({"rnage": "bytes=0-"}, "unknown: rnage; known are at, bytes, client"),
        ({"path": None}, "path is not a text: None"),
    ],
)
def test_a_line_that_is_wrong_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = tmp_path / "mix"
    file.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(BenchError) as raised:
        read(file)
    assert str(raised.value).startswith(f"{file}:2: ") and words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests"),
        ('{"mix": 2}\n', "version 2, known is 1"),
        ("{\n", ":1: "),
        ("[]\n", "not an object"),
        ('{"at": 0}\n', "missing: client, method, host, path"),
    ],
)
def test_a_file_that_is_none(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mix").write_text(text)
    with pytest.raises(BenchError, match=words):
        read(tmp_path / "mix")


@pytest.mark.parametrize(
    ("change", "kind", "digest"),
    [
        ({}, "blob", "ab" * 32),
        ({"path": f"/v2/a/blobs/{DIGEST}?ns=quay.io"}, "blob", "ab" * 32),
        ({"method": "HEAD"}, "blob-head", ""),
        ({"range": "bytes=0-4"}, "range", ""),
        ({"range": "bytes=0-4", "sha256": "cd" * 32}, "range", "cd" * 32),
        ({"status": 404}, "blob", ""),
        ({"path": f"/v2/a/b/manifests/{DIGEST}"}, "manifest", "ab" * 32),
        ({"path": "/v2/a/b/manifests/v1"}, "tag", ""),
        ({"path": "/v2/a/b/manifests/v1", "method": "HEAD"}, "tag-head", ""),
        ({"path": "/v2/a/tags/list"}, "other", ""),
    ],
)
def test_kinds_and_what_a_path_says_of_the_body(change: dict[str, Any], kind: str, digest: str) -> None:
    request = parse(LINE | change)
    assert (request.kind, request.digest) == (kind, digest)


# --- the model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(Material(tmp_path_factory.mktemp("material")), 300_000)


MODEL = Rollout(nodes=40, seconds=8, drops=0.2, ranged=0.3, range_size=20_000)


def by_node(asked: list[Request]) -> dict[str, list[Request]]:
    found = defaultdict(list)
    for request in asked:
        found[request.client].append(request)
    return found


def test_a_node_asks_as_containerd_does(rolled: Image) -> None:
    nodes = by_node(make(MODEL, [rolled]))
    assert len(nodes) == MODEL.nodes
    for asked in nodes.values():
        head, manifest, *blobs = asked
        assert (head.method, head.path) == ("HEAD", f"/v2/{rolled.repository}/manifests/{rolled.tag}")
        assert (manifest.method, manifest.path) == (
            "GET",
            f"/v2/{rolled.repository}/manifests/{rolled.digest}",
        )
        taken: Counter[str] = Counter()
        for blob in blobs:
            assert blob.method == "GET" and blob.bytes is not None
            taken[blob.path.rpartition("/")[2]] += blob.bytes if blob.drop is None else blob.drop
        assert taken == dict(rolled.blobs)  # each byte once, whatever broke off or came by ranges


def test_the_same_arguments_make_the_same_mix(rolled: Image) -> None:
    asked = make(MODEL, [rolled])
    assert asked == make(MODEL, [rolled]) == sorted(asked, key=lambda request: request.at)
    assert asked != make(replace(MODEL, seed=2), [rolled])


def test_waves(rolled: Image) -> None:
    """A quarter of the nodes begins within each quarter of the time, in its first half."""
    starts = sorted(asked[0].at for asked in by_node(make(MODEL, [rolled])).values())
    assert [int(start // 2) for start in starts] == [wave for wave in range(4) for _ in range(10)]
    assert all(start % 2 < 1 for start in starts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": 0}, "nodes is 0"),
        ({"seconds": -1}, "seconds is -1"),
        ({"drops": 1.5}, "drops is 1.5; it is a share"),
    ],
)
def test_parameters_out_of_bounds(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(MODEL, **change)


@pytest.mark.parametrize(
    ("reference", "manifest"),
    [("quay.io/app", b"{}"), ("app:v1", b"{}"), ("quay.io/app:v1", b"{}"), ("quay.io/app:v1", b"no")],
)
def test_what_is_no_image(reference: str, manifest: bytes) -> None:
    with pytest.raises(BenchError, match=reference):
        image_of(reference, manifest)


# --- the replay ---------------------------------------------------------------------------------------------


def words(result: Result) -> Counter[str]:
    """Return how often the cache said what."""
    return sum((Counter(kind.cache) for kind in result.kinds.values()), Counter())


@pytest.mark.parametrize("way", ["proxy", "mirror", "direct"])
def test_a_replay_asks_for_what_the_mix_says(
    way: str,
    start_registry: Callable[..., Registry],
    start_proxy: Callable[..., Proxy],
    trust: Trust,
    tmp_path: Path,
) -> None:
    """By a real registry: every request once, whole bodies and ranges by their digests, by kind."""
    registry = start_registry()
    image = images.make_image(seed=31, size=400_000)
    registry.push("app", "v1", image)
    proxy = start_proxy(registry, ENABLE_MANIFEST_CACHE="true")
    rolled = image_of(f"{registry.authority}/app:v1", image.manifest)
    asked = make(Rollout(nodes=12, seconds=1, drops=0.3, ranged=0.3, range_size=30_000), [rolled])
    servers = {
        "proxy": Server(f"{proxy.address[0]}:{proxy.port}", proxy.ca_path, proxy=True),
        "mirror": Server(f"{proxy.address[0]}:{proxy.port}", None, mirror=True),
        "direct": Server(f"{registry.address[0]}:{registry.port}", trust.path),
    }
    result = replayed(asked, servers[way], tmp_path)
    kinds = Counter(request.kind for request in asked)
    assert {name: kind.requests for name, kind in result.kinds.items()} == kinds
    assert (
        sum(kind.dropped for kind in result.kinds.values())
        == sum(each.drop is not None for each in asked)
        > 0
    )
    assert result.loop == "open"
    if way == "direct":
        return
    assert words(result).keys() <= {"HIT", "MISS", "UPDATING", "REVALIDATED"} and words(result)["HIT"]
    log = proxy.access_log(len(asked), check=lambda line: line["method"] != "CONNECT")
    logged = Counter((line["method"], line["uri"]) for line in log)
    assert logged == Counter((request.method, request.path) for request in asked)
    assert len({line["remote_addr"] for line in log}) == 12
    blobs = [digest for digest, _ in rolled.blobs]
    assert {path: registry.counted("GET", path) for path in blobs} == dict.fromkeys(blobs, 1)


def test_the_commands(
    start_registry: Callable[..., Registry], start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    """make, replay, from-log, and the replay of that, as a user types them."""
    registry = start_registry()
    image = images.make_image(seed=32)
    registry.push("app", "v1", image)
    proxy = start_proxy(registry, ENABLE_MANIFEST_CACHE="true")
    (tmp_path / "manifest").write_bytes(image.manifest)
    given = ["--image", f"{registry.authority}/app:v1={tmp_path / 'manifest'}", "--seed", "4"]
    mix, log = str(tmp_path / "roll.mix"), str(proxy.directory / "access.log")
    said = command("make", mix, "--nodes", "4", "--seconds", "0.5", *given)
    asked = read(Path(mix))
    assert f"{len(asked)} requests" in said
    through = ["--proxy", f"{proxy.address[0]}:{proxy.port}", "--ca", str(proxy.ca_path)]
    out = tmp_path / "figures.json"
    said = command("replay", mix, *through, "--speed", "2", "--out", str(out), void=True)
    if out.exists():
        assert f"{len(asked)} requests in" in said and "generator: " in said
        assert json.loads(out.read_text())["requests"] == len(asked)
    proxy.access_log(len(asked), check=lambda line: line["method"] != "CONNECT")
    said = command("from-log", log, str(tmp_path / "log.mix"), "--registry", registry.authority)
    assert f"{len(asked)} requests of 4 clients" in said
    again = read(tmp_path / "log.mix")
    assert {request.host for request in again} == {registry.authority} and len(again) == len(asked)


def command(*words: str, void: bool = False) -> str:
    """Run `python -m bench.mix`; a replay may be void on a machine that has other things to do."""
    run = [sys.executable, "-m", "bench.mix", *words]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or (void and "FAILED: void" in done.stdout), done.stdout + done.stderr
    return done.stdout


def test_a_wrong_byte_ends_a_replay(
    start_origin: Callable[..., Origin], trust: Trust, tmp_path: Path
) -> None:
    origin = start_origin("reg.test")
    image = images.make_image(seed=33)
    origin.publish("app", image, "v1")
    asked = make(Rollout(nodes=3, seconds=0.3), [image_of(f"{origin.authority}/app:v1", image.manifest)])
    path = f"/v2/app/blobs/{image.layers[0]}"
    (right,) = origin._scripts[path]
    origin.on(path, replace(right, wrong_at=9))  # type: ignore[type-var]
    with pytest.raises(BenchError, match="expected"):
        replayed(asked, Server(f"{origin.address[0]}:{origin.port}", trust.path), tmp_path, verify=False)


def test_a_client_keeps_its_connections(
    start_origin: Callable[..., Origin], trust: Trust, tmp_path: Path
) -> None:
    """One for each host, and another one only for what overlaps."""
    first, second = (start_origin(name) for name in ("one.test", "two.test"))
    for origin in (first, second):
        origin.publish("app", images.make_image(seed=34), "v1")
    one = replace(parse(LINE), host=first.authority, path="/v2/app/manifests/v1", at=0)
    asked = [replace(one, at=number, client=client) for number in range(3) for client in ("a", "b")]
    result = replayed(asked, Server(f"{first.address[0]}:{first.port}", trust.path), tmp_path)
    assert (result.requests, result.opened, first.connections) == (6, 2, 2)
    together = [replace(one, client="a") for _ in range(3)]
    result = replayed(together, Server(f"{first.address[0]}:{first.port}", trust.path), tmp_path)
    assert (result.opened, first.connections) == (3, 5)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", ":80", "nobody.invalid:1"])
def test_where_nothing_can_be(address: str) -> None:
    with pytest.raises(BenchError, match=address):
        Server(address, None).route()
