"""The peers by name, and which of them a run has."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import BenchError
from bench.peers.base import Peer
from bench.peers.docker_registry import Distribution, DockerRegistry
from bench.peers.nginx_cache import NginxCache
from bench.peers.squid import Squid
from bench.peers.traffic_server import TrafficServer

STATIC = "nginx"  # static files over TLS; the lab has it in any case
CACHES: dict[str, type[Peer]] = {
    peer.name: peer for peer in (NginxCache, Squid, DockerRegistry, TrafficServer, Distribution)
}
NAMES = (STATIC, *CACHES)
USUAL = tuple(name for name in NAMES if name != Distribution.name)  # those that Debian has


def choose(names: Sequence[str]) -> tuple[list[type[Peer]], dict[str, str]]:
    """The caching peers among `names` that this machine has, and why it lacks the others.

    Both in the table's order. BenchError for a name that is none.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise BenchError(f"no such peer: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    asked = [peer for name, peer in CACHES.items() if name in names]
    lacking = {peer.name: reason for peer in asked if (reason := peer.missing())}
    return [peer for peer in asked if peer.name not in lacking], lacking
