"""The servers that benchmarks compare with: they start, cache, forget and stop, or say why they cannot."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cpu import remaining, tree
from bench.errors import BenchError
from bench.lab import Lab
from bench.loadgen import Load
from bench.material import Item
from bench.peers import table
from bench.peers.base import Peer
from bench.peers.docker_registry import DockerRegistry
from bench.peers.nginx_cache import NginxCache

SIZE = 3_000_000  # bytes of a blob


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """All servers of a benchmark, in a directory that the users of squid and Traffic Server may enter."""
    if not shutil.which("nginx"):
        pytest.skip("nginx is not here")
    with tempfile.TemporaryDirectory(prefix="regproxy-peers-") as place:
        Path(place).chmod(0o755)
        running = Lab(Path(place), peers=[table.STATIC])
        try:
            yield running
        finally:
            running.close()


def chosen(lab: Lab, kind: type[Peer]) -> type[Peer]:
    """`kind` as the one peer of `lab`; the test is skipped where the machine lacks it."""
    if reason := kind.missing():
        pytest.skip(reason)
    lab.chosen = [kind]
    return kind


def asked(lab: Lab, item: Item) -> int:
    return len(lab.origin.sent(item.path))


@pytest.mark.parametrize("name", table.CACHES)
def test_a_peer_caches_forgets_and_stops(lab: Lab, name: str) -> None:
    chosen(lab, table.CACHES[name])
    blob, manifest = lab.material.blob(SIZE), lab.material.manifest()
    with lab.caches(lab.origin, blob) as [peer]:
        lab.fill(peer, blob)  # BenchError if the second request reaches the origin
        lab.fill(peer, manifest)
        with lab.untouched(blob), lab.untouched(manifest):
            sample = lab.on_cache(peer, Load(blob, count=3, verify=True))
            lab.on_cache(peer, Load(manifest, connections=4, count=100, verify=True))
        assert (sample.server, sample.result.bytes) == (name, 3 * SIZE)
        assert sample.cpu > 0
        before = asked(lab, blob)
        peer.restart()
        _, downloads = lab.downloads(
            lab.origin, blob, lambda: lab.on_cache(peer, Load(blob, count=1, verify=True))
        )
        assert asked(lab, blob) > before
        assert downloads >= 1
        started = tree(peer.pid)
        assert started
    assert remaining(started) == []
    assert any(name.partition("-")[0] in command or "registry" in command for command in lab.commands())


class Forgetful(NginxCache):
    """One whose cache is turned off."""

    def _config(self) -> str:
        return super()._config().replace("proxy_cache registry;", "proxy_cache off;")


def test_a_peer_that_does_not_cache_voids_the_run(lab: Lab) -> None:
    chosen(lab, Forgetful)
    blob = lab.material.blob(SIZE)
    with (
        lab.caches(lab.origin, blob) as [peer],
        pytest.raises(BenchError, match="nginx-cache's cache was not warm: the origin was asked 1 times"),
    ):
        lab.fill(peer, blob)


class Broken(NginxCache):
    """One that does not start."""

    def _config(self) -> str:
        return "no such directive;"


def test_a_peer_that_does_not_start_says_why(lab: Lab) -> None:
    chosen(lab, Broken)
    with (
        pytest.raises(BenchError, match='unknown directive "no"'),
        lab.caches(lab.origin, lab.material.blob(SIZE)),
    ):
        pass


def test_what_a_peer_does_not_cache_is_noted(lab: Lab) -> None:
    chosen(lab, DockerRegistry)
    tagged, blob = lab.material.tagged(), lab.material.blob(SIZE)
    with lab.caches(lab.origin, tagged) as peers:
        assert peers == []
    assert lab.notes[-1] == (
        f"not measured: docker-registry asked for {tagged.path}: it asks its origin for a tag each time"
    )
    with lab.caches(lab.slow_origin, blob, together=True) as peers:
        assert peers == []
    assert "by several clients at once: it fetches for each client on its own" in lab.notes[-1]


class Absent(NginxCache):
    program = "regproxy-has-no-such-program"


def test_a_peer_that_is_not_here_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.CACHES, "nginx-cache", Absent)
    found, lacking = table.choose(["nginx", "nginx-cache"])
    assert found == []
    assert lacking == {
        "nginx-cache": "regproxy-has-no-such-program is not here: .ci/packages bench installs nginx-light"
    }


def test_a_name_that_is_no_peer_is_refused() -> None:
    with pytest.raises(BenchError, match="no such peer: apache; there are nginx, nginx-cache, squid"):
        table.choose(["nginx", "apache"])
