"""What is pulled, and by whom: counts that match what clients did, in all workers, over restarts."""

from __future__ import annotations

import functools
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from regproxy.telemetry.usage.records import ImageUse
from regproxy.telemetry.usage.usage_file import UsageFile
from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import MANIFEST, make_image
from tests.support.origin import Origin
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Skopeo
from tests.support.two_workers import Pair

StartProxy = Callable[..., Proxy]
StartOrigin = Callable[..., Origin]
StartRegistry = Callable[..., Registry]

ACCEPT = [("Accept", MANIFEST)]
CACHED = {"ENABLE_MANIFEST_CACHE": "true", "MANIFEST_CACHE_DEFAULT_TIME": "1h"}
IMAGE, OTHER = make_image(size=900, layers=1, seed=8421), make_image(size=900, layers=1, seed=8422)
LAYER = max(IMAGE.blobs, key=lambda digest: len(IMAGE.blobs[digest]))
PULL = "/v2/team/app/manifests/v1"


def usage(proxy: Proxy) -> UsageFile:
    return UsageFile(proxy.cache_dir / "state" / "usage.sqlite3")


def top(proxy: Proxy) -> dict[tuple[str, str], ImageUse]:
    """The images that were pulled within the last day, by repository and reference."""
    used = usage(proxy).top_images("24h", 1000, time.time())
    return {(use.repository, use.reference): use for use in used}


def of_repository(proxy: Proxy, registry: Registry) -> ImageUse:
    (use,) = usage(proxy).top_repositories("7d", 10, time.time())
    assert (use.registry, use.port, use.repository) == (registry.name, registry.port, "team/app")
    return use


def repeats(client: Client, proxy: Proxy, before: float) -> bool:
    """Pull until the data plane has answered by itself."""
    for _ in range(20):
        assert client.get(PULL, ACCEPT).body == IMAGE.manifest
    return proxy.metric("regproxy_repeated_answers_total") > before


def logged(proxy: Proxy, method: str = "", path: str = "") -> list[dict[str, str]]:
    """The requests in the access log that were answered with content."""
    return proxy.access_log(
        check=lambda line: (
            line["status"] in ("200", "304")
            and method in ("", line["method"])
            and path in line["uri"]
            and line["method"] != "CONNECT"
        )
    )


@pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="docker-registry or skopeo is not installed",
)
def test_what_was_pulled(
    start_registry: StartRegistry, start_proxy: StartProxy, tmp_path: Path, stack: ExitStack
) -> None:
    """By real clients, HEADs, and answers that the data plane repeats, in two workers: as the log has it."""
    registry = start_registry()
    image = registry.push("team/app", "v1", IMAGE)
    proxy = start_proxy(registry, **CACHED, REGPROXY_WORKERS="2")
    skopeo = Skopeo(tmp_path / "skopeo", proxy=proxy.url, ca=proxy.ca_path)
    for _ in range(3):
        skopeo.copy(image)
    pair = Pair(proxy, registry.authority)
    for pid in pair.pids():
        client = stack.enter_context(pair.client(pid))
        before = proxy.metric("regproxy_repeated_answers_total")
        wait_until(functools.partial(repeats, client, proxy, before), "it is repeated")
        for _ in range(5):
            client.request("HEAD", PULL, ACCEPT)
            client.get(f"/v2/team/app/blobs/{LAYER}")
    assert proxy.stop() == 0
    pulls, blobs = logged(proxy, "GET", "/manifests/"), logged(proxy, "GET", "/blobs/")
    assert len(pulls) >= 3 + 2 * 20
    assert len(logged(proxy, "HEAD", PULL)) >= 10
    assert sum(use.pulls for use in top(proxy).values()) == len(pulls)
    assert top(proxy)["team/app", "v1"].pulls == len(logged(proxy, "GET", PULL))
    whole = of_repository(proxy, registry)
    assert whole.sent == sum(int(line["bytes_sent"]) for line in pulls + blobs)
    assert whole.sent - whole.saved == len(IMAGE.manifest) + sum(map(len, IMAGE.blobs.values()))
    (client_use,) = usage(proxy).top_clients("24h", 10, time.time())
    assert (client_use.kind, client_use.name) == ("anonymous", "127.0.0.1")
    every = proxy.access_log(check=lambda line: line["method"] != "CONNECT")
    assert client_use.requests == len(every)
    assert hits(proxy, LAYER) == len(logged(proxy, "GET", LAYER)) - 1  # the first one was fetched

    proxy = start_proxy(registry, at=proxy.directory, **CACHED)
    skopeo = Skopeo(tmp_path / "again", proxy=proxy.url, ca=proxy.ca_path)
    skopeo.copy(image)
    assert proxy.stop() == 0
    assert top(proxy)["team/app", "v1"].pulls == len(logged(proxy, "GET", PULL))  # of both runs
    assert hits(proxy, LAYER) == len(logged(proxy, "GET", LAYER)) - 1


def hits(proxy: Proxy, digest: str) -> int:
    with closing(sqlite3.connect(proxy.cache_dir / "index.sqlite3")) as connection:
        ((found,),) = connection.execute("SELECT hits FROM objects WHERE digest = ?", (digest,)).fetchall()
    return int(found)


RULES = """
[[rule]]
name = "no-latest"
tag = "latest"
action = "deny"
message = "Use a release"
"""


def test_moves_and_refusals(start_origin: StartOrigin, start_proxy: StartProxy, tmp_path: Path) -> None:
    origin = start_origin()
    origin.publish("team/app", IMAGE, "v1", "latest")
    config = tmp_path / "rules.toml"
    config.write_text(RULES)
    proxy = start_proxy(
        origin, ENABLE_MANIFEST_CACHE="true", MANIFEST_CACHE_DEFAULT_TIME="0s", REGPROXY_CONFIG=str(config)
    )
    with proxy.client(origin.authority) as client:
        for _ in range(2):
            assert client.get(PULL, ACCEPT).digest == IMAGE.digest
        origin.publish("team/app", OTHER, "v1")
        for _ in range(2):
            assert client.get(PULL, ACCEPT).digest == OTHER.digest
        for method in ("GET", "HEAD"):
            assert client.request(method, "/v2/team/app/manifests/latest", ACCEPT).status == 403
    # Any process may read it, while the workers go on.
    (move,) = wait_until(lambda: usage(proxy).tag_moves(), "the move is written")
    assert move[1:] == (
        *origin.authority.split(":")[:1],
        origin.port,
        "team/app",
        "v1",
        IMAGE.digest,
        OTHER.digest,
    )
    assert proxy.metric("regproxy_tag_moves_total", registry=f"{move.registry}:{move.port}") == 1
    refusals = wait_until(lambda: usage(proxy).refusals(), "the refusals are written")
    assert len(refusals) == 2
    (refusal, _) = refusals
    assert refusal[1:9] == (
        *("anonymous", "127.0.0.1", "127.0.0.1"),
        *(move.registry, origin.port, "team/app", "latest"),
        "rule",
    )
    assert refusal.rule == "no-latest"
    assert "Use a release" in refusal.message
    assert top(proxy).keys() == {("team/app", "v1")}  # what was refused is no pull
    assert top(proxy)["team/app", "v1"].pulls == 4
    # Nobody but who reads the cache's directory is told what others pull.
    for path in ("/", "/setup", "/usage", "/state/usage.sqlite3"):
        with Client.connect(proxy.address) as client:
            assert b"team/app" not in client.get(path).body
    assert b"team/app" not in proxy.admin("/metrics")[1]


def test_what_a_registry_does_not_have_is_no_pull(start_origin: StartOrigin, start_proxy: StartProxy) -> None:
    origin = start_origin()
    proxy = start_proxy(origin, **CACHED)
    with proxy.client(origin.authority) as client:
        for number in range(50):
            assert client.get(f"/v2/made/up{number}/manifests/v1", ACCEPT).status == 404
    assert proxy.stop() == 0
    assert top(proxy) == {}
    (client_use,) = usage(proxy).top_clients("24h", 10, time.time())
    assert client_use.requests == 50
